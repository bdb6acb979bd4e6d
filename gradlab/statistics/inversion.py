"""95 % intervals of squared norms, ratios of inner products and cosines, by inverting tests.

The estimate of |u|^2 from N draws with covariance S subtracts their noise. Its variance grows with |u|^2 itself:

    4 u^T S u / N + 2 tr(S^2) / N^2

If chance makes the estimate small, a width computed at the estimate is too small, and the interval misses larger
values. So an interval here contains each value that a 95 % test does not reject, with the first term computed at that
value:

    (estimate - value)^2 <= t^2 (linear value / raw + quadratic)

`linear` is the first term at the observed mean of the draws; `raw` is the squared norm of that mean, noise included.
Ratios and cosines have intervals of the same kind. Coverage (tests/interval_coverage.py, 200 seeds each, 64 and 256
draws) is 0.89 to 0.99, also for one example. Intervals around the estimate (delete-one-batch jackknife, Fieller's)
cover 0.75 to 1.00.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .jackknife import LEVEL, Array, covariances, students_t

# inner products of the exact gradient g, the mean estimate m and the bias m - g; `across` is the squared norm of the
# part of m orthogonal to g; the variance is summed over coordinates
QUANTITIES = ("exact", "mean", "along", "bias", "across", "variance")
EXACT, MEAN, ALONG, BIAS, ACROSS, VARIANCE = range(6)
NORMS = (EXACT, MEAN, BIAS, ACROSS)  # squared norms of means

Ends = tuple[Array, Array]


@dataclass(frozen=True)
class Estimated:
    """QUANTITIES estimated from draws (quantity, ...), with their covariances (quantity, quantity, ...)."""

    value: Array  # without sampling noise
    raw: Array  # with sampling noise; of squared norms only
    linear: Array  # covariances at the observed means: the part that grows with the norms
    quadratic: Array  # the remaining part of the covariances
    batches: int
    gradient_known: bool  # whether g is known, not only estimated
    quantile: Callable[[Array], Array | float]  # of Student's t, for a sum of quantities with weights (quantity, ...)

    @functools.cached_property
    def beside(self) -> Ends:
        return _beside(self)


def estimated(raw: Array, noise: Array, draws: Array) -> Estimated:
    """The Estimated of leave-one-out values (quantity, 1 + batch, ...); g is known, `noise` (...) is variance / draws.

    Only the trace of the quadratic part is known. The variance in the direction of the observed mean stands for that in
    all directions: 2 tr(S^2) / N^2 = (linear / raw) noise / 2.
    """
    observed, linear = raw[:, 0], covariances(raw, draws)
    value, quadratic = observed.copy(), np.zeros_like(linear)
    for k in (MEAN, BIAS, ACROSS):
        value[k] = less_noise(observed[k], noise)
        quadratic[k, k] = over(linear[k, k], observed[k]) * noise / 2
    batches = raw.shape[1] - 1
    return Estimated(value, observed, linear, quadratic, batches, True, lambda weights: students_t(LEVEL, batches - 1))


def less_noise(squared: Array, noise: Array) -> Array:
    """A squared norm less the noise in it; 0 where they differ by rounding alone, as of one draw among zeros."""
    left = squared - noise
    return np.where(np.abs(left) <= 1e-12 * squared, 0.0, left)


def over(above: Array, below: Array) -> Array:
    """The quotient, 0 where `below` is not positive."""
    return np.where(below > 0, above, 0.0) / np.where(below > 0, below, 1.0)


def squared_norm(of: Estimated, k: int) -> Ends:
    """Ends for a squared norm; the lower end may be below 0, and both may be if the estimate is negative."""
    t = of.quantile(_weights(of, {k: 1.0}))
    return _squared(of.value[k], over(of.linear[k, k], of.raw[k]), of.quadratic[k, k], t)


def _squared(value: Array, per_unit: Array, quadratic: Array, t: Array | float) -> Ends:
    """Roots in theta of (value - theta)^2 = t^2 (per_unit max(theta, 0) + quadratic)."""
    half, noise = np.square(t) * per_unit / 2, t * np.sqrt(quadratic)
    with np.errstate(invalid="ignore"):  # if noise made the estimate far too small, there is no root, and theta < 0
        root = np.sqrt(2 * half * value + np.square(half) + np.square(noise))
    high = np.where(value + noise > 0, value + half + root, value + noise)
    low = np.where(value - noise > 0, value + half - root, value - noise)
    return low, high


def summed_variance(of: Estimated) -> Ends:
    half = _width(of, weights := _weights(of, {VARIANCE: 1.0}), of.quantile(weights))
    return of.value[VARIANCE] - half, of.value[VARIANCE] + half


def ratio(of: Estimated, above: int, below: int) -> Ends:
    """Ends for `above` over `below`, which is a squared norm; infinite if `below` may be 0.

    If `above` is a squared norm, the tested value determines `above`; otherwise it determines `below`.
    """
    x, y = of.value[above], of.value[below]
    if above in NORMS and below == EXACT and of.gradient_known:
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = squared_norm(of, above)
            return low / y, high / y
    known = y > 0
    y = np.where(known, y, np.nan)
    weights = _weights(of, {above: 1.0, below: np.where(known, -x / y, 0.0)})
    t = np.asarray(of.quantile(weights))[..., None]
    x, y, x_raw, y_raw = (of_one[..., None] for of_one in (x, y, of.raw[above], of.raw[below]))
    xx, xy, yy = (of.linear[pair][..., None] for pair in ((above, above), (above, below), (below, below)))
    q_xx, q_xy, q_yy = (of.quadratic[pair][..., None] for pair in ((above, above), (above, below), (below, below)))

    def excess(rho: Array) -> Array:
        f_x: Array | float
        if above in NORMS:
            f_x, f_y = np.sqrt(over(np.maximum(rho * y, 0), x_raw)), rho * np.sqrt(over(y, y_raw))
        else:  # rho sqrt(x / rho), where x / rho is positive
            f_x, f_y = 1.0, np.sign(rho) * np.sqrt(over(np.maximum(rho * x, 0), y_raw))
        variance = f_x * f_x * xx - 2 * f_x * f_y * xy + f_y * f_y * yy
        variance = variance + np.maximum(q_xx - 2 * rho * q_xy + rho * rho * q_yy, 0)
        return np.abs(x - rho * y) - t * np.sqrt(np.maximum(variance, 0))

    low, high = _ends(excess, (x / y)[..., 0], _width(of, weights, t[..., 0]) / y[..., 0])
    return np.where(known, low, -np.inf), np.where(known, high, np.inf)


def cosine(of: Estimated) -> Ends:
    """Ends for the cosine between m and g; -1 and 1 if nothing is known, NaN if g is known to be 0."""
    sign = np.where(of.value[ALONG] < 0, -1.0, 1.0)
    low, high = (sign * _signed_root(1 - end) for end in of.beside)
    return np.where(sign > 0, high, low), np.where(sign > 0, low, high)


def squared_sine(of: Estimated) -> Ends:
    """Ends for 1 - cosine^2, at most 1; below 0 if more noise is subtracted than was present."""
    low, high = of.beside
    return low, np.minimum(high, 1.0)


def _beside(of: Estimated) -> Ends:
    """Ends for s = 1 - c|c| with the cosine c: s is 0 in the direction of g, 1 across, 2 against it.

    In the plane of m and g, let a = <m, g>/|g| and b the rest of m. The test asks whether (a, b) lies on the ray of the
    cosine c: (1 - |c|^2) a|a| - |c|^2 b^2 = 0. Variances are those at the nearest point of that ray.
    """
    g = np.where(of.value[EXACT] > 0, of.value[EXACT], np.nan)
    weights = _weights(of, {ACROSS: 1.0})
    t = np.asarray(of.quantile(weights))[..., None]
    scale = np.sqrt(g)
    a = np.abs(of.value[ALONG]) / scale
    aa = (of.linear[ALONG, ALONG] + of.quadratic[ALONG, ALONG]) / g
    ab = np.where(of.value[ALONG] < 0, -1, 1) * of.linear[ALONG, ACROSS] / scale
    bb = over(of.linear[ACROSS, ACROSS], of.raw[ACROSS])
    ab = ab / np.sqrt(np.where(of.raw[ACROSS] > 0, of.raw[ACROSS], np.inf))
    known = of.value[MEAN] > 0
    # <m, g>^2 contains the noise of <m, g>; in the part across it is subtracted
    b_squared = of.value[ACROSS] + aa
    a_squared = np.maximum(a * a - aa, 0)
    centre = np.where(a_squared > 0, b_squared / np.where(known, a_squared + b_squared, np.nan), 1.0)
    a, aa, ab, bb, b_squared, q = (each[..., None] for each in (a, aa, ab, bb, b_squared, of.quadratic[ACROSS, ACROSS]))
    b = np.sqrt(np.maximum(b_squared, 0))

    def excess(s: Array) -> Array:
        signed = 1 - s
        cosine = np.clip(_signed_root(signed), -1, 1)
        sine = np.where(s > 0, np.sqrt(np.maximum(1 - cosine * cosine, 0)), 0)
        nearest = np.maximum(a * cosine + b * sine, 0)
        a_there, b_there = nearest * np.abs(cosine), nearest * sine
        towards = np.where(signed < 0, -1.0, 1.0)
        along, across = np.where(signed < 0, 1 + signed, s), np.abs(signed)
        noise = aa * over(a_there * a_there, a_there * a_there + aa)
        off = along * (towards * a * a - noise) - across * b_squared
        by_a, by_b = 2 * along * a_there, across * b_there
        variance = by_a * by_a * aa - 2 * by_a * by_b * towards * ab + by_b * by_b * bb
        variance = variance + across * across * q + 2 * along * along * aa * aa + 2 * aa * aa / (of.batches - 1)
        return np.abs(off) - t * np.sqrt(np.maximum(variance, 0))

    whole = (a * a)[..., 0] + np.maximum(b_squared[..., 0], 0)
    deviation = np.sqrt(4 * aa * a * a + bb * np.maximum(b_squared, 0) + q + 2 * aa * aa)[..., 0]
    width = t[..., 0] * deviation / np.where(whole > 0, whole, np.nan)
    low, high = _ends(excess, centre, width, most=2.0)
    # if g is known to be 0, there is no cosine; if m or g may be 0, the cosine can have any value
    nothing = (of.value[EXACT] == 0) & of.gradient_known
    open_ = ~known | ~(of.value[EXACT] > 0)
    low, high = np.where(open_, -np.inf, low), np.where(open_, 2.0, high)
    return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high)


def _signed_root(squared: Array) -> Array:
    return np.sign(squared) * np.sqrt(np.abs(squared))


def _weights(of: Estimated, some: dict[int, Array | float]) -> Array:
    weights = np.zeros_like(of.value)
    for k, weight in some.items():
        weights[k] = weight
    return weights


def _width(of: Estimated, weights: Array, t: Array | float) -> Array:
    """Half the width of an interval around the estimate, from which the search for ends begins."""
    joint = of.linear + of.quadratic
    return t * np.sqrt(np.maximum(np.einsum("i...,ij...,j...->...", weights, joint, weights), 0))


_STEPS = np.concatenate([[0.0], 2.0 ** np.linspace(-8, 16, 97)])  # in widths
_FINER = np.linspace(0, 1, 17)


def _ends(
    excess: Callable[[Array], Array], centre: Array, width: Array, least: float = -np.inf, most: float = np.inf
) -> Ends:
    """The first zeros of `excess` on both sides of the centre, where it is negative; else `least` and `most`.

    `excess` maps candidates (..., candidate) to values of that shape. Ends are NaN where the centre is.
    """
    found = []
    for side, limit in ((-1.0, least), (1.0, most)):
        step = side * np.where(np.isfinite(width), width, 1.0)[..., None]
        begin, end = np.zeros((*centre.shape, 1)), np.full((*centre.shape, 1), _STEPS[-1])
        for number, places in enumerate((_STEPS / _STEPS[-1], _FINER, _FINER)):
            at = begin + (end - begin) * places
            with np.errstate(invalid="ignore", over="ignore"):
                outside = ~(excess(np.clip(centre[..., None] + step * at, least, most)) <= 0)
            outside[..., 0] = False
            if number == 0:
                nowhere = np.asarray(~outside.any(-1))
            first = np.where(outside.any(-1), outside.argmax(-1), len(places) - 1)[..., None]
            begin, end = np.take_along_axis(at, first - 1, -1), np.take_along_axis(at, first, -1)
        with np.errstate(invalid="ignore", over="ignore"):
            here, there = (excess(np.clip(centre[..., None] + step * x, least, most)) for x in (begin, end))
            share = np.clip(np.where(there > here, -here / (there - here), 0.5), 0, 1)
        end_ = np.clip((centre[..., None] + step * (begin + share * (end - begin)))[..., 0], least, most)
        found.append(np.where(np.isnan(centre), np.nan, np.where(nowhere & (width > 0), limit, end_)))
    return found[0], found[1]
