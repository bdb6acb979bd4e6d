"""The metrics of bias and variance where the gradient itself is known by an unbiased reference.

With e and r the means of estimate and reference over the draws, all without the noise of sampling them (u_statistics):

    |bias|^2 = <e, e> - 2 <e, r> + <r, r>,  unbiased at any number of draws (E[(e1 - r1).(e2 - r2)] of two draws)
    |g|^2 = <r, r>,   cosine = <e, r> / (|e| |r|),   matched bias = sqrt(1 - cosine^2),  at the scale <e, r> / |e|^2

Nothing here includes sampling noise: `cosine` and `cosine_debiased` are one, `matched_bias` and its like too.
Where the reference does not tell |g| from 0, what is relative to it has no ends.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from . import inversion
from .inversion import ALONG, EXACT, VARIANCE, Estimated
from .jackknife import Array
from .metrics import GRADIENT, METRICS, Metric, Norms, Products, bounded, rooted, signed_root
from .u_statistics import UStatistics

# the statistics, in this order
STATISTICS = ("estimate.estimate", "estimate.reference", "reference.reference", "variance")
_EE, _ER, _RR, _VAR = np.eye(4)
_BIAS = _EE - 2 * _ER + _RR
TWICE = ("mean_norm", "cosine", "matched_bias", "matched_scale")  # under this name, and as NAME_debiased

Interval = tuple[float, float, float]  # value, lower and upper end


def _found_here() -> dict[str, Metric]:
    """Metrics that include no sampling noise."""
    exact_norm = Metric(
        "exact_norm",
        "norm of the exact gradient, by an unbiased reference",
        GRADIENT,
        (-np.inf, np.inf),
        lambda p: signed_root(p.norms.exact),
        rooted(lambda of: inversion.squared_norm(of, EXACT)),
    )
    found = {exact_norm.name: exact_norm}
    for name, metric in METRICS.items():
        if name in TWICE:
            found[name] = dataclasses.replace(METRICS[f"{name}_debiased"], name=name)
        elif not metric.noisy:
            found[name] = metric
    of_spread = {
        "std_norm": inversion.summed_variance,
        "relative_std": lambda of: inversion.ratio(of, VARIANCE, EXACT),
    }
    return found | {n: dataclasses.replace(found[n], interval=rooted(of)) for n, of in of_spread.items()}


FIGURES = _found_here()


def intervals(of: UStatistics) -> dict[str, Interval]:
    """All of FIGURES, each with its 95 % interval; signed roots where the square may come out negative."""
    found = _estimated(of)
    return {name: _interval(metric, of, found) for name, metric in FIGURES.items()}


def interval(name: str, of: UStatistics) -> Interval:
    """One of FIGURES."""
    return _interval(FIGURES[name], of, _estimated(of))


def _interval(metric: Metric, of: UStatistics, found: Estimated) -> Interval:
    assert metric.interval is not None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = metric.value(_products(of.value))
        low, high = bounded(metric, value, *metric.interval(found))
    return float(value), float(low), float(high)


def values(statistics: Array) -> dict[str, Array]:
    """The figures alone, from statistics (..., statistic)."""
    products = _products(statistics)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {name: metric.value(products) for name, metric in FIGURES.items()}


def _products(statistics: Array) -> Products:
    ee, er, rr, variance = np.moveaxis(statistics, -1, 0)
    across = ee - inversion.over(er * er, rr)
    return Products(Norms(rr, ee, er, ee - 2 * er + rr, across), variance, np.inf)


def _estimated(of: UStatistics) -> Estimated:
    """The quantities of `inversion` as sums of the statistics; what is across g to first order."""
    ee, er, rr, variance = of.value
    by_rr = 1 / rr if rr > 0 else 0.0
    across = (rr * _EE - 2 * er * _ER + ee * _RR) * by_rr
    weights = np.stack([_RR, _EE, _ER, _BIAS, across, _VAR])
    value = np.array([rr, ee, er, ee - 2 * er + rr, ee - er * er * by_rr, variance])
    raw = weights @ of.raw
    # |.|^2 of the two vectors that its gradient is made of: rr m - er g and er m - ee g, over their sum without noise
    squares = np.array([rr * rr + er * er, -2 * er * (rr + ee), er * er + ee * ee, 0.0])
    raw[inversion.ACROSS] = squares @ of.raw * by_rr / (rr + ee) if ee > 0 else 0.0
    linear = weights @ of.observed @ weights.T
    unbiased = weights @ of.linear.sum(0) @ weights.T
    for k in (ALONG, VARIANCE):  # no squared norms: taken as they are, without the noise that the observed have
        share = np.sqrt(inversion.over(np.maximum(unbiased[k, k], 0), linear[k, k]))
        linear[k] *= share
        linear[:, k] *= share
    quadratic = weights @ of.quadratic.sum(0) @ weights.T
    return Estimated(value, raw, linear, quadratic, len(of.without), False, lambda w: of.quantile(weights.T @ w))
