"""Values and intervals of bias metrics, from leave-one-out values of draws or from moments without draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..statistics import inversion
from ..statistics.coordinates import norms, on_host
from ..statistics.inversion import Ends, Estimated
from ..statistics.jackknife import Array, Numbers, half_width
from .record import Metric, Norms, Products, Record

Metrics = Mapping[str, Metric]
_DIRECTIONS = 64  # in which the mean may be off; the largest change found is at most 0.2 % too small


def values(metrics: Metrics, products: Products) -> dict[str, Array]:
    """All `metrics` of the products."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {name: metric.value(products) for name, metric in metrics.items()}


def products_of(exact: Numbers, mean: Numbers, variance: Array, draws: Array | float) -> Products:
    """Products of `mean` (..., coordinate), `exact` (coordinate) and the number of draws (...).

    `variance` is (..., coordinate), or has a last axis of one, the sum over coordinates.
    """
    return Products(Norms(*map(on_host, norms(exact, mean))), variance.sum(-1), draws)


def measured(
    metrics: Metrics, of: Norms, variance: Array, draws: Array
) -> Iterator[tuple[Metric, Array, Array, Array]]:
    """Yields each metric, its leave-one-out values (1 + batch, ...), and the ends (...) of its interval.

    `of` and `variance` broadcast to (1 + batch, ...); `draws` (1 + batch,).
    """
    shape = np.broadcast_shapes(variance.shape, *(np.shape(each) for each in of))
    of = Norms(*(np.broadcast_to(each, shape) for each in of))
    products = Products(of, np.broadcast_to(variance, shape), draws.reshape(-1, *[1] * (len(shape) - 1)))
    raw = np.stack([*of, np.zeros(shape)])  # the variance has no test
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        estimated = inversion.estimated(raw, products.noise[0], draws)
        for name, found in values(metrics, products).items():
            yield metrics[name], found, *interval(metrics[name], found, draws, estimated)


def interval(metric: Metric, found: Array, draws: Array, estimated: Estimated) -> Ends:
    """Ends of a metric's 95 % interval; they respect its bounds and enclose its value."""
    if metric.interval is None:
        width = half_width(found, draws)
        low, high = found[0] - width, found[0] + width
    else:
        low, high = metric.interval(estimated)
    return bounded(metric, found[0], low, high)


def bounded(metric: Record, value: Array, low: Array, high: Array) -> Ends:
    """The ends, moved into the metric's bounds and so that they enclose the value."""
    low, high = (np.clip(end, *metric.bounds) for end in (low, high))
    there = ~np.isnan(value)
    return np.where(there, np.minimum(low, value), low), np.where(there, np.maximum(high, value), high)


def norms_without_each(count: Array, fixed: Array, mixed: Array, squares: Array) -> Norms:
    """Norms (1 + batch, ...) of all draws, then without each batch, whose mean is m - s o and bias d - s o.

    o is the batch's mean minus m, and s = count / (n - count). `fixed` (3, 3, ...) are inner products of g, m and
    d = m - g; `mixed` (batch, 3, ...) those of each o with these; `squares` (batch, ...) those of each o with itself.
    If m is a multiple of g, `across` is exact to rounding of |d|^2.
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
    metrics: Metrics, products: Products, mean_error: float, std_error: float
) -> Iterator[tuple[Metric, float, float, float]]:
    """Yields each metric, its value and its ends: the value ± twice the largest change within the numerical errors.

    `mean_error` and `std_error` are norms of the errors of mean and standard deviation. A metric depends on the mean m
    only through its part along g and the norm of the rest. So errors of m in one plane cover all cases: m is moved
    around a circle of radius `mean_error`, and the standard deviation by ± `std_error`.
    """
    around = values(metrics, _moved(products, mean_error, std_error))
    for name, value in values(metrics, products).items():
        with np.errstate(invalid="ignore"):
            change = np.abs(around[name] - around[name][0, 1])
        half = 2 * float(np.where(np.isnan(change), np.nan if np.isnan(value) else np.inf, change).max())
        low, high = bounded(metrics[name], *map(np.asarray, (value, value - half, value + half)))
        yield metrics[name], float(value), float(low), float(high)


def _moved(products: Products, mean_error: float, std_error: float) -> Products:
    """The products at moved moments: (position of the mean, standard deviation); [0, 1] is the original.

    The positions are directions around the circle. They include those of m and of m - g, in which norms change most.
    """
    of = products.norms
    g, rest = np.sqrt(of.exact), np.sqrt(of.across)
    along = of.along / g if g > 0 else 0.0
    angles = np.array([np.arctan2(rest, along), np.arctan2(rest, along - g)])
    turned = np.concatenate([[0.0], 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS, angles, angles + np.pi])
    radius = np.where(np.arange(len(turned)) == 0, 0.0, mean_error)
    a, b = (along + radius * np.cos(turned))[:, None], (rest + radius * np.sin(turned))[:, None]
    std = np.maximum(np.sqrt(products.variance) + std_error * np.array([-1.0, 0.0, 1.0]), 0.0)
    a, b, std = np.broadcast_arrays(a, b, std)
    exact = np.broadcast_to(of.exact, a.shape)
    return Products(Norms(exact, a * a + b * b, a * g, np.square(a - g) + b * b, b * b), std * std, np.inf)
