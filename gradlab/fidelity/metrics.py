"""The metrics of bias and variance, a record each, on plain float64 arrays.

With m the mean estimate over N draws, var its per-coordinate variance (N - 1), g the exact gradient; norms run over all
coordinates (example, latent, category):

    squared bias, debiased = |m - g|^2 - sum(var)/N     since E|m - g|^2 = |bias|^2 + sum(var)/N
    squared norm of the mean, debiased = |m|^2 - sum(var)/N
    matched bias = min over a of |a m - g| / |g| = sqrt(1 - cosine^2),  at the scale a = <m, g> / |m|^2

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from . import inversion
from .coordinates import norms, on_host
from .inversion import ALONG, BIAS, EXACT, MEAN, Ends, Estimated
from .jackknife import Array, Numbers, half_width

GRADIENT, SQUARED, NONE = "gradient", "gradient^2", "1"  # units; a gradient's follows from the loss


class Norms(NamedTuple):
    """Of the exact gradient g and the mean m, each (...): squared norms, and an inner product."""

    exact: Array  # |g|^2
    mean: Array  # |m|^2
    along: Array  # <m, g>
    bias: Array  # |m - g|^2
    across: Array  # |m - <m, g> g / |g|^2|^2: what m has orthogonal to g


@dataclass(frozen=True)
class Products:
    """Norms of a mean of `draws` draws, and the variance of one, summed over coordinates; inf draws: no noise."""

    norms: Norms
    variance: Array
    draws: Array | float

    @property
    def noise(self) -> Array:
        """What sampling adds to a squared norm."""
        return self.variance / self.draws

    @property
    def exact_norm(self) -> Array:
        """|g|, NaN where it is 0: nothing is relative to that."""
        return np.sqrt(_positive(self.norms.exact))

    @property
    def squared_mean(self) -> Array:
        """|m|^2 without noise, NaN where nothing is left of it."""
        return _positive(self.norms.mean - self.noise)


@dataclass(frozen=True)
class Metric:
    """A metric of fidelity: `value` of Products; `interval` by a test, without one by jackknife over batches of draws.

    A `noisy` one includes what sampling adds, and so does its interval: it is that of the metric at this number of
    draws, and holds the estimator's own value the less the larger the noise.
    """

    name: str
    long_name: str
    unit: str
    bounds: tuple[float, float]
    value: Callable[[Products], Array]
    interval: Callable[[Estimated], Ends] | None = None
    noisy: bool = False


def signed_root(squared: Array) -> Array:
    """sign(s) sqrt|s|: a squared bias that noise made negative stays visible as a negative norm."""
    return np.sign(squared) * np.sqrt(np.abs(squared))


def _positive(squared: Array) -> Array:
    return np.where(squared > 0, squared, np.nan)


def rooted(interval: Callable[[Estimated], Ends]) -> Callable[[Estimated], Ends]:
    """The interval of a signed root: that of its square, transformed."""

    def found(of: Estimated) -> Ends:
        low, high = interval(of)
        return signed_root(low), signed_root(high)

    return found


SAMPLED = "sampling noise included: of this number of draws"
_FREE = "sampling noise subtracted"
_BIAS = "norm of mean estimate minus exact gradient"
_COSINE = "cosine between mean estimate and exact gradient"
_MATCHED = "smallest |a * mean estimate - exact gradient| over |exact gradient|"
_ANY, _POSITIVE = (-np.inf, np.inf), (0, np.inf)


def _matched_bias(p: Products) -> Array:
    sine = np.sqrt(np.minimum(inversion.over(p.norms.across, p.norms.mean), 1.0))
    return np.where(p.norms.exact > 0, np.where(p.norms.mean > 0, sine, 1.0), np.nan)


def _matched_bias_debiased(p: Products) -> Array:
    return np.where(p.norms.exact > 0, signed_root((p.norms.across - p.noise) / p.squared_mean), np.nan)


_SQUARED_MEAN = partial(inversion.squared_norm, k=MEAN)
_SQUARED_BIAS = partial(inversion.squared_norm, k=BIAS)
_BIAS_RATIO = partial(inversion.ratio, above=BIAS, below=EXACT)
_SCALE = partial(inversion.ratio, above=ALONG, below=MEAN)

METRICS: dict[str, Metric] = {}
for _metric in (
    Metric("mean_norm", f"norm of the mean estimate, {SAMPLED}", GRADIENT, _POSITIVE,
           lambda p: np.sqrt(p.norms.mean), noisy=True),
    Metric("mean_norm_debiased", f"norm of the mean estimate, {_FREE}", GRADIENT, _ANY,
           lambda p: signed_root(p.norms.mean - p.noise), rooted(_SQUARED_MEAN)),
    Metric("std_norm", "root of the summed variances of the estimate", GRADIENT, _POSITIVE,
           lambda p: np.sqrt(p.variance)),
    Metric("bias_norm", f"{_BIAS}, {SAMPLED}", GRADIENT, _POSITIVE,
           lambda p: np.sqrt(p.norms.bias), noisy=True),
    Metric("squared_bias_debiased", f"squared norm of the bias, {_FREE}", SQUARED, _ANY,
           lambda p: p.norms.bias - p.noise, _SQUARED_BIAS),
    Metric("bias_norm_debiased", f"norm of the bias, {_FREE}", GRADIENT, _ANY,
           lambda p: signed_root(p.norms.bias - p.noise), rooted(_SQUARED_BIAS)),
    Metric("relative_bias", f"bias over exact gradient (norms), {SAMPLED}", NONE, _POSITIVE,
           lambda p: np.sqrt(p.norms.bias) / p.exact_norm, noisy=True),
    Metric("relative_bias_debiased", f"bias over exact gradient (norms), {_FREE}", NONE, _ANY,
           lambda p: signed_root(p.norms.bias - p.noise) / p.exact_norm, rooted(_BIAS_RATIO)),
    Metric("relative_std", "root of the summed variances over norm of the exact gradient", NONE, _POSITIVE,
           lambda p: np.sqrt(p.variance) / p.exact_norm),
    Metric("cosine", f"{_COSINE}, {SAMPLED}", NONE, (-1, 1),
           lambda p: np.clip(p.norms.along / (np.sqrt(_positive(p.norms.mean)) * p.exact_norm), -1, 1), noisy=True),
    Metric("cosine_debiased", f"{_COSINE}, {_FREE}, by chance beyond 1", NONE, (-1, 1),
           lambda p: p.norms.along / (np.sqrt(p.squared_mean) * p.exact_norm), inversion.cosine),
    Metric("matched_bias", f"{_MATCHED}, {SAMPLED}", NONE, (0, 1), _matched_bias, noisy=True),
    Metric("matched_bias_debiased", f"{_MATCHED}, {_FREE}", NONE, (-np.inf, 1),
           _matched_bias_debiased, rooted(inversion.squared_sine)),
    Metric("matched_scale", f"the scale a at which matched_bias is reached, {SAMPLED}", NONE, _ANY,
           lambda p: inversion.over(p.norms.along, p.norms.mean), noisy=True),
    Metric("matched_scale_debiased", f"the scale a at which matched_bias_debiased is reached, {_FREE}", NONE, _ANY,
           lambda p: p.norms.along / p.squared_mean, _SCALE),
):  # fmt: skip
    METRICS[_metric.name] = _metric
NOISY = tuple(name for name, metric in METRICS.items() if metric.noisy)


def values(products: Products) -> dict[str, Array]:
    """All METRICS."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {name: metric.value(products) for name, metric in METRICS.items()}


def figures(exact: Numbers, mean: Numbers, variance: Array, draws: Array | float) -> dict[str, Array]:
    """All METRICS of `mean` (..., coordinate), `exact` (coordinate) and the number of draws (...).

    `variance` is (..., coordinate), or has a last axis of one, the sum over coordinates.
    """
    return values(Products(Norms(*map(on_host, norms(exact, mean))), variance.sum(-1), draws))


def measured(of: Norms, variance: Array, draws: Array) -> Iterator[tuple[str, Array, Array, Array]]:
    """Name, values without each batch (1 + batch, ...), and ends (...) of each of METRICS, from leave-one-out values.

    `of` and `variance` broadcast to (1 + batch, ...); `draws` (1 + batch,).
    """
    shape = np.broadcast_shapes(variance.shape, *(np.shape(each) for each in of))
    of = Norms(*(np.broadcast_to(each, shape) for each in of))
    products = Products(of, np.broadcast_to(variance, shape), draws.reshape(-1, *[1] * (len(shape) - 1)))
    raw = np.stack([*of, np.zeros(shape)])  # the variance has no test
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        estimated = inversion.estimated(raw, products.noise[0], draws)
        for name, found in values(products).items():
            yield name, found, *interval(METRICS[name], found, draws, estimated)


def interval(metric: Metric, found: Array, draws: Array, estimated: Estimated) -> Ends:
    """Ends of a metric's 95 % interval, within what it can be, and never beside its value."""
    if metric.interval is None:
        width = half_width(found, draws)
        low, high = found[0] - width, found[0] + width
    else:
        low, high = metric.interval(estimated)
    return bounded(metric, found[0], low, high)


def bounded(metric: Metric, value: Array, low: Array, high: Array) -> Ends:
    """The ends within the metric's bounds, the value between them."""
    low, high = (np.clip(end, *metric.bounds) for end in (low, high))
    there = ~np.isnan(value)
    return np.where(there, np.minimum(low, value), low), np.where(there, np.maximum(high, value), high)


def norms_without_each(count: Array, fixed: Array, mixed: Array, squares: Array) -> Norms:
    """Norms (1 + batch, ...) of all draws and without each batch in turn, whose mean is m - s o and bias d - s o.

    o is the batch's mean less m, s = count / (n - count). `fixed` (3, 3, ...): inner products of g, m and d = m - g;
    `mixed` (batch, 3, ...): of each o with these; `squares` (batch, ...): of each o with itself. Where the bias is all
    in the scale, what is across is found down to rounding of |d|^2.
    """
    share = (count / (count.sum() - count)).reshape(-1, *[1] * (squares.ndim - 1))

    def with_g(i: int) -> Array:
        return np.concatenate([fixed[i, 0][None], fixed[i, 0] - share * mixed[:, 0]])

    def with_itself(i: int) -> Array:
        rest = fixed[i, i] - 2 * share * mixed[:, i] + np.square(share) * squares
        return np.concatenate([fixed[i, i][None], np.maximum(rest, 0)])  # rounding

    exact = np.broadcast_to(fixed[0, 0], (1 + len(count), *squares.shape[1:]))
    bias = with_itself(2)
    across = bias - inversion.over(np.square(with_g(2)), exact)  # m has across g what d has
    return Norms(exact, with_itself(1), with_g(1), bias, np.maximum(across, 0))


def without_draws(
    exact: Array, mean: Array, variance: Array, mean_error: float, std_error: float
) -> dict[str, tuple[float, float]]:
    """METRICS of moments that were not sampled, each with twice its numerical error.

    `mean_error` and `std_error` are norms of the errors of mean and standard deviation. To first order |m|, |m - g| and
    |std| are off by no more than these, the angle between m and g by mean_error/|m|.
    """
    found = {name: float(value) for name, value in figures(exact, mean, variance, np.inf).items()}
    exact_norm = np.linalg.norm(exact) or np.nan
    angle = mean_error / found["mean_norm"] if found["mean_norm"] else 0.0
    errors = {
        "mean_norm": mean_error,
        "std_norm": std_error,
        "bias_norm": mean_error,
        "squared_bias": mean_error * (2 * found["bias_norm"] + mean_error),
        "relative_bias": mean_error / exact_norm,
        "relative_std": std_error / exact_norm,
        "cosine": angle,
        "matched_bias": angle,
        "matched_scale": angle * (abs(found["matched_scale"]) + exact_norm / (found["mean_norm"] or np.nan)),
    }
    return {name: (value, 2 * float(errors[name.removesuffix("_debiased")])) for name, value in found.items()}
