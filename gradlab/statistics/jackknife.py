"""The delete-one-batch jackknife: moments without each batch, and standard errors from their scatter.

Arrays have the value of all draws first, then those without each batch: (1 + batch, ...).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special  # not scipy.stats, which takes 0.7 s to import
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = Any  # Array, or a float64 tensor
LEVEL = 0.95


def like(given: Numbers, array: Array) -> Numbers:
    """The array, converted to the type and device of the first argument."""
    return given.new_tensor(array) if isinstance(array, np.ndarray) and not isinstance(given, np.ndarray) else array


def all_like(given: Numbers, *arrays: Array) -> list[Numbers]:
    """`like` of several arrays, in one transfer to a GPU."""
    if isinstance(given, np.ndarray):
        return list(arrays)
    sizes = [array.size for array in arrays]
    parts = given.new_tensor(np.concatenate([array.reshape(-1) for array in arrays])).split(sizes)
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]


def leave_one_out(count: Array, mean: Array, squares: Array) -> tuple[Array, Array, Array]:
    """Number of draws, mean and variance: of all draws in row 0, then without each batch in turn."""
    means = means_without_each(count, mean)
    draws, variances = variances_without_each(count, squares, np.square(mean - means[0]))
    return draws, means, variances


def means_without_each(count: Numbers, mean: Numbers) -> Numbers:
    """Mean of all draws, then without each batch in turn: (..., 1 + batch, coordinate), from the means of batches."""
    n = count.sum()
    total = (like(mean, count / n) @ mean)[..., None, :]
    shape = (*mean.shape[:-2], 1 + len(count), mean.shape[-1])
    found = np.empty(shape) if isinstance(mean, np.ndarray) else mean.new_empty(shape)
    found[..., :1, :] = total
    without = found[..., 1:, :]  # total - count / (n - count) (mean - total), in place
    without[...] = mean
    without -= total
    without *= -like(mean, count / (n - count))[:, None]
    without += total
    return found


def variances_without_each(count: Array, squares: Array, squared_off: Array) -> tuple[Array, Array]:
    """Number of draws (1 + batch,) and variance (1 + batch, ...): of all draws, then without each batch in turn.

    `squares` (batch, ...) is the sum of squared deviations from the batch's mean. `squared_off` (batch, ...) is the
    square of the batch's mean minus the mean of all draws. Both are of one coordinate, or sums over coordinates.
    """
    n, by_batch = count.sum(), count[:, None]
    total = squares.sum(0) + count @ squared_off
    sums = np.concatenate([total[None], total - squares - n * by_batch / (n - by_batch) * squared_off])
    draws = np.concatenate([[n], n - count])
    # two draws without one leave one, which has no variance: metrics that depend on it have no interval then
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = np.where(draws[:, None] > 1, np.maximum(sums, 0) / (draws[:, None] - 1), np.nan)
    return draws, variances


def deviations(values: Array, draws: Array) -> Array:
    """Deviations (row, batch, ...) of several statistics (row, 1 + batch, ...), whose products sum to covariances.

    `draws` (1 + batch,) likewise. Batches may differ in size (Busing, Meijer, van der Leeden 1999).
    """
    h = (draws[0] / (draws[0] - draws[1:])).reshape(-1, *[1] * (values.ndim - 2))
    whole, without = values[:, :1], values[:, 1:]
    with np.errstate(invalid="ignore", over="ignore"):  # infinite ratios have no error
        pseudo = h * whole - (h - 1) * without
        centre = len(h) * whole - ((1 - 1 / h) * without).sum(1, keepdims=True)
        return (pseudo - centre) / np.sqrt((h - 1) * len(h))


def covariances(values: Array, draws: Array) -> Array:
    """Covariances (row, row, ...) of several statistics (row, 1 + batch, ...), from their leave-one-out values."""
    off = deviations(values, draws)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.einsum("ib...,jb...->ij...", off, off)


def standard_error(values: Array, draws: Array) -> Array:
    """Standard error of a statistic (1 + batch, ...)."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(covariances(values[None], draws)[0, 0])


def half_width(values: Array, draws: Array) -> Array:
    """Half of the 95 % interval: the standard error times the quantile of Student's t."""
    return students_t(LEVEL, len(values) - 2) * standard_error(values, draws)


def students_t(level: float, degrees: int) -> float:
    """The number t with probability `level` between -t and t under Student's law."""
    return float(scipy.special.stdtrit(degrees, 0.5 + level / 2))


def with_ends(values: Array, draws: Array, least: float, most: float) -> Array:
    """Value, lower and upper end (..., 3) of a statistic between `least` and `most`."""
    value, width = values[0], half_width(values, draws)
    return np.stack([value, np.maximum(value - width, least), np.minimum(value + width, most)], -1)
