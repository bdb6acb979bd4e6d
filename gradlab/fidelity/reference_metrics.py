"""The metrics of bias and variance against an unbiased reference.

Let e and r be the means of estimate and reference over the draws. All inner products are free of sampling noise (see
u_statistics):

    |bias|^2 = <e, e> - 2 <e, r> + <r, r>,  unbiased at any number of draws (E[(e1 - r1).(e2 - r2)] of two draws)
    |g|^2 = <r, r>,   cosine = <e, r> / (|e| |r|),   matched bias = sqrt(1 - cosine^2),  at the scale <e, r> / |e|^2

No metric here includes sampling noise: `cosine` equals `cosine_debiased`, and so on. If the reference does not separate
|g| from 0, metrics relative to |g| have no ends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np

from ..metrics import routes
from ..metrics.of_bias import rooted
from ..metrics.over_examples import OverExamples, of_sums
from ..metrics.record import GRADIENT, Metric, Norms, Products, signed_root
from ..metrics.registry import of_analysis
from ..statistics import inversion
from ..statistics.inversion import ALONG, EXACT, VARIANCE, Ends, Estimated
from ..statistics.jackknife import Array, half_width
from ..statistics.u_statistics import UStatistics

# the statistics, in this order
STATISTICS = ("estimate.estimate", "estimate.reference", "reference.reference", "variance")
_EE, _ER, _RR, _VAR = np.eye(4)
_BIAS = _EE - 2 * _ER + _RR
EXACT_NORM = Metric(
    name="exact_norm",
    long_name="norm of the exact gradient, by an unbiased reference",
    unit=GRADIENT,
    value=lambda p: signed_root(p.norms.exact),
    interval=rooted(lambda of: inversion.squared_norm(of, EXACT)),
)

Interval = tuple[float, float, float]  # value, lower and upper end


def metrics() -> dict[str, Metric]:
    """The metrics without sampling noise, by name; the name of a noisy metric stands for its debiased one."""
    known: dict[str, Metric] = of_analysis("bias")
    found = {EXACT_NORM.name: EXACT_NORM}
    for name, metric in known.items():
        if not metric.noisy:
            found[name] = metric
        elif metric.debiased:
            same = known[metric.debiased]
            # tables and sentences show it under its own name
            found[name] = dataclasses.replace(same, name=name, rank=None, below_zero_by_chance=False)
    return found


def intervals(of: UStatistics, chosen: Mapping[str, Metric]) -> dict[str, Interval]:
    """The `chosen` metrics, each with its 95 % interval; signed roots where the square can be negative."""
    found = _estimated(of)
    return {name: _interval(metric, of, found) for name, metric in chosen.items()}


def interval(name: str, of: UStatistics) -> Interval:
    """The metric of that name, with its 95 % interval."""
    return _interval(metrics()[name], of, _estimated(of))


def _interval(metric: Metric, of: UStatistics, found: Estimated) -> Interval:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = metric.value(_products(of.value))
        low, high = routes.bounded(metric, value, *_ends(metric, value, of, found))
    return float(value), float(low), float(high)


def _ends(metric: Metric, value: Array, of: UStatistics, found: Estimated) -> Ends:
    """Ends by the metric's own interval, if it has one, else by jackknife; batches have equal sizes."""
    if own := metric.reference_interval or metric.interval:
        return own(found)
    without = metric.value(_products(of.without))
    batches = len(without)
    draws = np.array([batches, *[batches - 1] * batches], float)
    half = half_width(np.concatenate([[value], without]), draws)
    return value - half, value + half


def values(statistics: Array, chosen: Mapping[str, Metric]) -> dict[str, Array]:
    """The `chosen` metrics without intervals, from statistics (..., statistic)."""
    return routes.values(chosen, _products(statistics))


def over_examples(of: UStatistics, chosen: Mapping[str, Metric]) -> Iterator[tuple[str, OverExamples]]:
    """The interval of each metric over examples, where the statistics are sums over these."""
    if of.of_examples is None:
        return iter(())
    return of_sums(chosen, lambda metric, sums: metric.value(_products(np.moveaxis(sums, 0, -1))), of.of_examples)


def examples_that_carry(of: UStatistics) -> float:
    """The number of examples that carry the squared norm of the gradient, NaN where this is not known.

    (sum e)^2 / sum e^2, with unbiased estimates of each e and e^2; between 1 and the number of examples.
    """
    if of.of_examples is None or of.squares_of_examples is None:
        return math.nan
    total, squares = float(of.value[2]), float(of.squares_of_examples.sum())
    if total <= 0 or squares <= 0:
        return math.nan
    return min(max(total * total / squares, 1.0), float(len(of.squares_of_examples)))


def _products(statistics: Array) -> Products:
    ee, er, rr, variance = np.moveaxis(statistics, -1, 0)
    across = ee - inversion.over(er * er, rr)
    return Products(Norms(rr, ee, er, ee - 2 * er + rr, across), variance, np.inf)


def _estimated(of: UStatistics) -> Estimated:
    """The quantities of `inversion` as sums of the statistics; `across` to first order."""
    ee, er, rr, variance = of.value
    by_rr = 1 / rr if rr > 0 else 0.0
    across = (rr * _EE - 2 * er * _ER + ee * _RR) * by_rr
    weights = np.stack([_RR, _EE, _ER, _BIAS, across, _VAR])
    value = np.array([rr, ee, er, ee - 2 * er + rr, ee - er * er * by_rr, variance])
    raw = weights @ of.raw
    # squared norms of the two parts of its gradient, rr m - er g and er m - ee g, over their sum without noise
    squares = np.array([rr * rr + er * er, -2 * er * (rr + ee), er * er + ee * ee, 0.0])
    raw[inversion.ACROSS] = squares @ of.raw * by_rr / (rr + ee) if ee > 0 else 0.0
    linear = weights @ of.observed @ weights.T
    unbiased = weights @ of.linear.sum(0) @ weights.T
    for k in (ALONG, VARIANCE):  # no squared norms: scaled to variances without the noise of the observed means
        share = np.sqrt(inversion.over(np.maximum(unbiased[k, k], 0), linear[k, k]))
        linear[k] *= share
        linear[:, k] *= share
    quadratic = weights @ of.quadratic.sum(0) @ weights.T
    return Estimated(value, raw, linear, quadratic, len(of.without), False, lambda w: of.quantile(weights.T @ w))
