"""The figures of bias and variance on plain float64 arrays, and their intervals.

Arrays are `(..., coordinate)`, reduced over the last axis; norms run over all coordinates (example, latent, category).
What runs over coordinates takes numpy's arrays, and tensors, which may be on a GPU: `Numbers` come as they are given.
With m the mean estimate over N draws, var its per-coordinate variance (N - 1), g the exact gradient:

    squared bias, debiased = |m - g|^2 - sum(var)/N     since E|m - g|^2 = |bias|^2 + sum(var)/N
    matched bias = min over a of |a m - g| / |g| = sqrt(1 - cosine^2),  at the scale a = <m, g> / |m|^2
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Numbers = Any  # Array, or a float64 tensor
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEVEL = 0.95

# name -> (what it is, smallest and largest value it can take); "1" or the loss's unit follows from the name
FIGURES: dict[str, tuple[str, float, float]] = {
    "mean_norm": ("norm of the mean estimate", 0, np.inf),
    "std_norm": ("root of the summed variances of the estimate", 0, np.inf),
    "bias_norm": ("norm of mean estimate minus exact gradient, sampling noise included", 0, np.inf),
    "squared_bias_debiased": ("squared norm of the bias, sampling noise subtracted", -np.inf, np.inf),
    "bias_norm_debiased": ("norm of the bias, sampling noise subtracted", -np.inf, np.inf),
    "relative_bias": ("bias over exact gradient (norms), sampling noise included", 0, np.inf),
    "relative_bias_debiased": ("bias over exact gradient (norms), sampling noise subtracted", -np.inf, np.inf),
    "relative_std": ("root of the summed variances over norm of the exact gradient", 0, np.inf),
    "cosine": ("cosine between mean estimate and exact gradient, sampling noise included", -1, 1),
    "matched_bias": (
        "smallest |a * mean estimate - exact gradient| over |exact gradient|, sampling noise included",
        0,
        1,
    ),
    "matched_scale": ("the scale a at which matched_bias is reached", -np.inf, np.inf),
}


def signed_root(squared: Array) -> Array:
    """sign(s) sqrt|s|: a squared bias that noise made negative stays visible as a negative norm."""
    return np.sign(squared) * np.sqrt(np.abs(squared))


class Norms(NamedTuple):
    """Of the exact gradient g and the mean m, each (...): squared norms, and an inner product."""

    exact: Array  # |g|^2
    mean: Array  # |m|^2
    along: Array  # <m, g>
    bias: Array  # |m - g|^2
    rest: Array  # |a m - g|^2, a = <m, g> / |m|^2


def norms(exact: Numbers, mean: Numbers) -> list[Numbers]:
    """What `Norms` holds, where the arrays are, for `mean` (..., coordinate) and an `exact` that broadcasts to it."""
    squared_mean, along = _inner(mean, mean), _inner(mean, exact)
    # |a m - g| itself where it is small: sqrt(1 - cosine^2) would cancel
    rest = _scale(along, squared_mean)[..., None] * mean - exact
    off = mean - exact
    return [_inner(exact, exact), squared_mean, along, _inner(off, off), _inner(rest, rest)]


def figures(exact: Numbers, mean: Numbers, variance: Array, draws: Array | float) -> dict[str, Array]:
    """All of FIGURES for `mean` (..., coordinate), `exact` (coordinate) and the number of draws (...).

    `variance` is (..., coordinate), or has a last axis of one, the sum over coordinates.
    """
    return figures_of_norms(Norms(*map(on_host, norms(exact, mean))), variance.sum(-1), draws)


def _inner(a: Numbers, b: Numbers) -> Numbers:
    """Inner product over the last axis."""
    return np.einsum("...i,...i->...", a, b) if isinstance(a, np.ndarray) else (a * b).sum(-1)


def like(given: Numbers, array: Array) -> Numbers:
    """An array's numbers, where the given ones are."""
    return array if isinstance(given, np.ndarray) else given.new_tensor(array)


def on_host(given: Numbers) -> Array:
    return given.cpu().numpy() if hasattr(given, "cpu") else np.asarray(given)


class Products(NamedTuple):
    """Inner products of the exact gradient g, the mean m and the bias d = m - g, each (...)."""

    exact: Array  # <g, g>
    mean: Array  # <m, m>
    along: Array  # <m, g>
    bias: Array  # <d, d>
    bias_along: Array  # <d, g>


def figures_of(products: Products, variance: Array, draws: Array | float) -> dict[str, Array]:
    """All of FIGURES where only inner products are at hand, and `variance` (...), summed over coordinates.

    Where the bias is all in the scale, matched_bias is found down to some 1e-8: a root of a rounded square.
    """
    g, m, along, bias, bias_along = products
    a = _scale(along, m)
    rest = np.square(a - 1) * g + 2 * a * (a - 1) * bias_along + np.square(a) * bias  # a m - g = (a - 1) g + a d
    return figures_of_norms(Norms(g, m, along, bias, np.maximum(rest, 0)), variance, draws)


def _scale(along: Numbers, squared_mean: Numbers) -> Numbers:
    """<m, g> / |m|^2, 0 where that is 0."""
    return along * (squared_mean > 0) / (squared_mean + (squared_mean == 0))


def figures_of_norms(of: Norms, summed_variance: Array, draws: Array | float) -> dict[str, Array]:
    """FIGURES of norms (...), and of `summed_variance` and `draws` that broadcast to them."""
    squared_exact, squared_mean, along, squared_bias, squared_rest = of
    # nothing is relative to an exact gradient of 0
    exact_norm = np.sqrt(np.where(np.equal(squared_exact, 0), np.nan, squared_exact))
    debiased = squared_bias - summed_variance / draws
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mean_norm": np.sqrt(squared_mean),
            "std_norm": np.sqrt(summed_variance),
            "bias_norm": np.sqrt(squared_bias),
            "squared_bias_debiased": debiased,
            "bias_norm_debiased": signed_root(debiased),
            "relative_bias": np.sqrt(squared_bias) / exact_norm,
            "relative_bias_debiased": signed_root(debiased) / exact_norm,
            "relative_std": np.sqrt(summed_variance) / exact_norm,
            "cosine": np.clip(along / (np.sqrt(squared_mean) * exact_norm), -1, 1),
            "matched_bias": np.minimum(np.sqrt(squared_rest) / exact_norm, 1.0),
            "matched_scale": _scale(along, squared_mean),
        }


def without_draws(
    exact: Array, mean: Array, variance: Array, mean_error: float, std_error: float
) -> dict[str, tuple[float, float]]:
    """FIGURES of moments that were not sampled, each with twice its numerical error.

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
        "squared_bias_debiased": mean_error * (2 * found["bias_norm"] + mean_error),
        "bias_norm_debiased": mean_error,
        "relative_bias": mean_error / exact_norm,
        "relative_bias_debiased": mean_error / exact_norm,
        "relative_std": std_error / exact_norm,
        "cosine": angle,
        "matched_bias": angle,
        "matched_scale": angle * (abs(found["matched_scale"]) + exact_norm / (found["mean_norm"] or np.nan)),
    }
    return {name: (value, 2 * float(errors[name])) for name, value in found.items()}


def per_example_ratios(exact: Numbers, mean: Numbers, examples: int) -> Numbers:
    """|mean - exact| / |exact| of each example: (..., example); NaN where an example's exact gradient is 0."""
    off = (mean - exact).reshape(*mean.shape[:-1], examples, -1)
    of_example = exact.reshape(*exact.shape[:-1], examples, -1)
    scale = _inner(of_example, of_example)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return (_inner(off, off) / scale) ** 0.5 * (scale / scale)


def elementwise_ratios(exact: Numbers, mean: Numbers) -> Numbers:
    """|mean - exact| / |exact| of each coordinate; NaN where the exact gradient is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return abs((mean - exact) / exact) * (exact / exact)


def quantiles(ratios: Numbers) -> Numbers:
    """QUANTILES of ratios (..., row, ratio) over the last axis, (..., row, quantile). No mean: ratios explode.

    What is NaN in one row is left out of all rows; NaN where nothing is left.
    """
    keep = (ratios == ratios).all(-2)  # NaN is not itself
    place = keep.sum(-1)[..., None] * like(ratios, np.array(QUANTILES)) - 1  # numpy's "inverted_cdf"
    # sorting whole rows, NaN last, takes numpy a fifth of the time that picking from them does
    if isinstance(ratios, np.ndarray):
        ratios = ratios if keep.all() else np.where(keep[..., None, :], ratios, np.nan)
        at = np.maximum(np.ceil(place), 0).astype(int)[..., None, :]
        return np.take_along_axis(np.sort(ratios, axis=-1), at, -1)
    at = place.ceil().clamp(min=0).long()[..., None, :].expand(*ratios.shape[:-1], len(QUANTILES))
    return ratios.masked_fill(~keep[..., None, :], np.nan).sort(-1)[0].gather(-1, at)


def leave_one_out(count: Array, mean: Array, squares: Array) -> tuple[Array, Array, Array]:
    """Number of draws, mean and variance without each batch in turn, and with all of them in row 0."""
    means = means_without_each(count, mean)
    draws, variances = variances_without_each(count, squares, np.square(mean - means[0]))
    return draws, means, variances


def means_without_each(count: Array, mean: Numbers) -> Numbers:
    """Mean of all draws, and without each batch in turn: (..., 1 + batch, coordinate), of each batch's."""
    n = count.sum()
    total = (like(mean, count / n) @ mean)[..., None, :]
    shape = (*mean.shape[:-2], 1 + len(count), mean.shape[-1])
    found = np.empty(shape) if isinstance(mean, np.ndarray) else mean.new_empty(shape)
    found[..., :1, :] = total
    found[..., 1:, :] = total - like(mean, count / (n - count))[:, None] * (mean - total)
    return found


def variances_without_each(count: Array, squares: Array, squared_off: Array) -> tuple[Array, Array]:
    """Number of draws, and variance, of all draws and without each batch in turn: (1 + batch,), (1 + batch, ...).

    Arrays (batch, ...): `squares` the sum of squared deviations from the batch's mean, `squared_off` the square of that
    mean less the mean of all; of a coordinate, or summed over any.
    """
    n, by_batch = count.sum(), count[:, None]
    total = squares.sum(0) + count @ squared_off
    sums = np.concatenate([total[None], total - squares - n * by_batch / (n - by_batch) * squared_off])
    draws = np.concatenate([[n], n - count])
    # one draw (of two, one left out) has no variance, so at two draws what depends on it has no interval
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = np.where(draws[:, None] > 1, np.maximum(sums, 0) / (draws[:, None] - 1), np.nan)
    return draws, variances


def products_without_each(count: Array, fixed: Array, mixed: Array, squares: Array) -> Products:
    """Products (1 + batch, ...) of all draws and without each batch in turn, whose mean is m - s o and bias d - s o.

    o is the batch's mean less m, s = count / (n - count). `fixed` (3, 3, ...): inner products of g, m and d;
    `mixed` (batch, 3, ...): of each o with these; `squares` (batch, ...): of each o with itself.
    """
    share = (count / (count.sum() - count)).reshape(-1, *[1] * (squares.ndim - 1))

    def with_g(i: int) -> Array:
        return np.concatenate([fixed[i, 0][None], fixed[i, 0] - share * mixed[:, 0]])

    def with_itself(i: int) -> Array:
        rest = fixed[i, i] - 2 * share * mixed[:, i] + np.square(share) * squares
        return np.concatenate([fixed[i, i][None], np.maximum(rest, 0)])  # rounding

    exact = np.broadcast_to(fixed[0, 0], (1 + len(count), *squares.shape[1:]))
    return Products(exact, with_itself(1), with_g(1), with_itself(2), with_g(2))


def jackknife_error(estimates: Array, draws: Array) -> Array:
    """Standard error of a figure from leave-one-batch-out values.

    `estimates` (1 + batch, ...): the figure of all draws, then without each batch; `draws` (1 + batch,) likewise.
    Batches may differ in size (Busing, Meijer, van der Leeden 1999).
    """
    batches = len(estimates) - 1
    shape = (-1, *([1] * (estimates.ndim - 1)))
    h = (draws[0] / (draws[0] - draws[1:])).reshape(shape)
    whole, without = estimates[0], estimates[1:]
    with np.errstate(invalid="ignore", over="ignore"):  # infinite ratios have no error
        pseudo = h * whole - (h - 1) * without
        centre = batches * whole - ((1 - 1 / h) * without).sum(0)
        return np.sqrt((np.square(pseudo - centre) / (h - 1)).sum(0) / batches)


def half_width(estimates: Array, draws: Array) -> Array:
    """Half of the 95 % interval: the jackknife error times the quantile of Student's t."""
    return students_t(LEVEL, len(estimates) - 2) * jackknife_error(estimates, draws)


@functools.cache
def students_t(level: float, degrees: int) -> float:
    """Quantile of Student's t that holds `level` between it and its negative. Finding it anew takes a millisecond."""
    return float(stats.t.ppf(0.5 + level / 2, degrees))


def with_ends(estimates: Array, draws: Array, least: float, most: float) -> Array:
    """Value, lower and upper end (..., 3) of a figure between `least` and `most`, from its leave-one-out values."""
    value, width = estimates[0], half_width(estimates, draws)
    return np.stack([value, np.maximum(value - width, least), np.minimum(value + width, most)], -1)


def interval(name: str, estimates: Array, draws: Array, exact_norm: Array | float = 1.0) -> tuple[Array, Array]:
    """95 % interval of a figure of FIGURES, within what it can be.

    The interval of a signed root is that of its square, transformed: the square is what is nearly normal.
    """
    if name in ("bias_norm_debiased", "relative_bias_debiased"):
        unit = exact_norm if name.startswith("relative") else 1.0
        low, high = interval("squared_bias_debiased", np.sign(estimates) * np.square(estimates * unit), draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            return signed_root(low) / unit, signed_root(high) / unit
    _, least, most = FIGURES[name]
    width = half_width(estimates, draws)
    return np.clip(estimates[0] - width, least, most), np.clip(estimates[0] + width, least, most)
