"""Norms and ratios of exact gradients and mean estimates over coordinates, and quantiles of ratios.

Arguments are numpy arrays or tensors `(..., coordinate)`; results are on the device of the arguments.
"""

from __future__ import annotations

import numpy as np

from .jackknife import Array, Numbers, like

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def norms(exact: Numbers, mean: Numbers) -> list[Numbers]:
    """The fields of `Norms` in order, for `mean` (..., coordinate) and an `exact` that broadcasts to it."""
    squared_exact, along = _inner(exact, exact), _inner(mean, exact)
    # computed from m - a g, because |m|^2 - <m, g>^2 / |g|^2 cancels where it is small
    a = along * (squared_exact > 0) / (squared_exact + (squared_exact == 0))
    return [squared_exact, _inner(mean, mean), along, _square(mean - exact), _square(_across(a, exact, mean))]


def norms_by_example(exact: Numbers, mean: Numbers, examples: int) -> list[Numbers]:
    """What `Norms` holds of each example, (..., example); what m has across g with the scale of all examples."""
    squared_exact, along = _inner(exact, exact), _inner(mean, exact)
    a = along * (squared_exact > 0) / (squared_exact + (squared_exact == 0))

    def by_example(of: Numbers) -> Numbers:
        return of.reshape(*of.shape[:-1], examples, -1)

    g, m = by_example(exact), by_example(mean)
    off = _square(by_example(mean - exact))
    return [_inner(g, g), _inner(m, m), _inner(m, g), off, _square(by_example(_across(a, exact, mean)))]


def scale(*arrays: Numbers) -> float:
    """A power of two to divide by before squaring, so that squares stay in the range of float64; usually 1."""
    return scale_of(max(max(float(each.max()), -float(each.min())) for each in arrays))  # without a copy


def scale_of(largest: float) -> float:
    """`scale` of numbers whose largest magnitude is this."""
    return 1.0 if largest == 0 or 1e-100 < largest < 1e100 or not np.isfinite(largest) else 2.0 ** np.frexp(largest)[1]


def largest_of_each(rows: Numbers) -> list[float]:
    """The largest magnitude of each row of a tensor (row, ...), in one transfer from a GPU and without a copy."""
    others = tuple(range(1, rows.ndim))
    return rows.amax(others).maximum(-rows.amin(others)).tolist()


def within(squares: Numbers, size: float) -> Numbers:
    """Squares of numbers divided by `size`; NaN where float64 lost them in the sum."""
    return squares / size / size if 1e-140 < size < 1e140 else squares * np.nan


def norm(a: Array) -> Array:
    """Euclidean norm over the last axis, without overflow or underflow of the squares."""
    largest = np.abs(a).max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(largest > 0, largest * np.linalg.norm(a / largest, axis=-1, keepdims=True), largest)[..., 0]


def _inner(a: Numbers, b: Numbers) -> Numbers:
    """Inner product over the last axis."""
    return np.einsum("...i,...i->...", a, b) if isinstance(a, np.ndarray) else (a * b).sum(-1)


def _across(a: Numbers, exact: Numbers, mean: Numbers) -> Numbers:
    """mean - a exact, in place in one new array."""
    found = -a[..., None] * exact
    found += mean
    return found


def _square(a: Numbers) -> Numbers:
    """Squared norm over the last axis."""
    return _inner(a, a)


def on_host(given: Numbers) -> Array:
    return given.cpu().numpy() if hasattr(given, "cpu") else np.asarray(given)


def per_example_ratios(exact: Numbers, mean: Numbers, examples: int) -> Numbers:
    """|mean - exact| / |exact| of each example: (..., example); NaN where an example's exact gradient is 0."""
    off = mean - exact  # its leading dims are those of both together
    off = off.reshape(*off.shape[:-1], examples, -1)
    of_example = exact.reshape(*exact.shape[:-1], examples, -1)
    squared = _inner(of_example, of_example)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if bool((squared < 1e-250).any()):  # the squares of a small example have lost digits, or are 0
            largest = _largest(of_example)
            off, of_example = off / largest, of_example / largest
            squared = _inner(of_example, of_example)
        return (_inner(off, off) / squared) ** 0.5 * (squared / squared)


def _largest(a: Numbers) -> Numbers:
    """Largest magnitude along the last axis, which is kept with length one."""
    return np.abs(a).max(-1, keepdims=True) if isinstance(a, np.ndarray) else a.abs().amax(-1, keepdim=True)


def elementwise_ratios(exact: Numbers, mean: Numbers) -> Numbers:
    """|mean - exact| / |exact| of each coordinate; NaN where the exact gradient is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = mean - exact
        ratios /= exact  # in place: of many images this is what takes most memory
        ratios = np.abs(ratios, out=ratios) if isinstance(ratios, np.ndarray) else ratios.abs_()
        ratios *= exact / exact
        return ratios


def quantiles(ratios: Numbers) -> Numbers:
    """QUANTILES of ratios (..., row, ratio) over the last axis: (..., row, quantile).

    A ratio that is NaN in one row is left out of all rows. The result is NaN if no ratio remains. There is no mean,
    because ratios explode where the divisor is near 0.
    """
    keep = (ratios == ratios).all(-2)  # NaN is not equal to itself
    place = keep.sum(-1)[..., None] * like(ratios, np.array(QUANTILES)) - 1  # numpy's "inverted_cdf"
    # numpy sorts whole rows, NaN last, in a fifth of the time that it takes to select from them
    if isinstance(ratios, np.ndarray):
        ratios = ratios if keep.all() else np.where(keep[..., None, :], ratios, np.nan)
        at = np.maximum(np.ceil(place), 0).astype(int)[..., None, :]
        return np.take_along_axis(np.sort(ratios, axis=-1), at, -1)
    at = place.ceil().clamp(min=0).long()[..., None, :].expand(*ratios.shape[:-1], len(QUANTILES))
    return ratios.masked_fill(~keep[..., None, :], np.nan).sort(-1)[0].gather(-1, at)
