"""Bias against standard deviation: which estimator errs least when n estimates are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import errors
from .axes_style import FONT, SMALL, WIDTH, caption, log_ticks
from .bias_figures import by_estimator
from .lines import Series, keys
from .publishing import legend
from .selection import check_bias, chosen, with_interval

X, Y = "relative_std", "relative_bias_debiased"
AVERAGED = (1, 10, 100)
LOOKS = ("-", "--", ":")


def tradeoff(ds: xr.Dataset, target: str | None = None, averaged: Sequence[int] = AVERAGED) -> Figure:
    """Relative bias against relative standard deviation, with intervals on both axes, a point per estimator and tb.

    The average of n estimates is off by error(n), the root of bias^2 + standard deviation^2 / n. One curve for each n
    of `averaged` passes through all points of the least error that `ds` has; what lies on it errs as little. Markers of
    one estimator are joined in the order of tb. The thin line at relative bias 1 is a bias as large as the gradient.
    A bias whose interval holds 0 is drawn as a line from its upper end down to the axis.

    Parameters
    ----------
    ds : Dataset
        What `gradlab.bias` returns, at one tf; estimators compare at equal cost with MonteCarlo(equal_cost=True).
    target : str
        The target law to draw; by default the first.
    averaged : sequence of int
        Numbers of estimates averaged.

    Raises
    ------
    ValueError
        A Dataset of another analysis or of several tf, a target that is not in it, no positive whole number.

    Examples
    --------
    >>> ds = gradlab.open_results("estimators.h5")
    >>> figure = gradlab.plots.tradeoff(ds)
    """
    counts = [errors.whole_number("averaged", n, 1) for n in averaged]
    ds = chosen(ds, target=target)
    if "target" in ds.dims:
        ds = ds.isel(target=0)
    check_bias(ds)
    if ds.sizes["tf"] > 1:
        raise ValueError(f"ds: expected one tf, got {ds.sizes['tf']}; use ds.sel(tf=[...])")
    marked = by_estimator(ds.isel(tf=0))
    drawn = {one.label: np.stack([with_interval(one.data, name, -np.inf) for name in (X, Y)]) for one in marked}
    values = np.concatenate([of.reshape(2, 3, -1) for of in drawn.values()], -1)  # (axis, value and ends, point)
    known = np.isfinite(values[:, 0]).all(0)
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = figure.subplots()
    if not known.any():
        ax.text(0.5, 0.5, "no finite value", transform=ax.transAxes, ha="center", fontsize=FONT)
    else:
        limits = _limits(values[..., known])
        for one in marked:
            _points(ax, one, drawn[one.label], limits[1][0])
        least = _curves(ax, values[:, 0][:, known], counts, limits)
        ax.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
        for axis, (low, high) in zip((ax.xaxis, ax.yaxis), limits, strict=True):
            log_ticks(axis, np.array([low, high]))
        if limits[1][0] < 1 < limits[1][1]:
            least.append(ax.axhline(1, color="0.75", lw=0.7, zorder=0, label="relative bias 1"))
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("relative standard deviation of one estimate (1)", fontsize=FONT)
    ax.set_ylabel("relative bias (1)", fontsize=FONT)
    legend(figure, [*keys(marked), *(least if known.any() else [])])
    tbs = ", ".join(f"{tb:g}" for tb in ds["tb"].values)
    what = f"markers of an estimator are joined in the order of tb = {tbs}" if ds.sizes["tb"] > 1 else f"tb = {tbs}"
    curves = "curves: equal error of n averaged estimates, through the least"
    caption(figure, ds, ds[Y], what, curves, first=f"tf = {ds['tf'].item():g}; relative bias against {X}")
    return figure


def _limits(values: np.ndarray) -> list[tuple[float, float]]:
    """Both axes' ranges, in which every positive value and upper end has room."""
    found = []
    for name, (value, low, high) in zip((X, Y), values, strict=True):
        shown = np.concatenate([value, low, high])
        shown = shown[shown > 0]
        least, most = (shown.min(), shown.max()) if shown.size else (0.1, 1.0)
        found.append((least * (0.75 if name == X else 0.6), most * 1.35))
    return found


def _points(ax: Axes, one: Series, of: np.ndarray, floor: float) -> None:
    """Markers of a series with both intervals; a bias that is not resolved is an arrow down from its upper end."""
    (x, x_low, x_high), (y, y_low, y_high) = of
    resolved = np.isfinite(x) & (y_low > 0)
    at = np.where(resolved, y, np.maximum(y_high, floor))
    ax.vlines(x, np.where(resolved, y_low, floor), np.where(resolved, y_high, at), color=one.colour, lw=1.1)
    ax.hlines(at, x_low, x_high, color=one.colour, lw=1.1)
    ax.plot(x, at, **one.marks(ls="-", lw=0.5, marker=""))
    ax.plot(x[resolved], at[resolved], **one.marks())
    hollow = ~resolved & np.isfinite(x)
    ax.plot(x[hollow], at[hollow], **one.marks(marker="v", mfc="white"))


def _curves(ax: Axes, points: np.ndarray, counts: Sequence[int], limits: Sequence[tuple[float, float]]) -> list[Line2D]:
    """For each n the curve bias^2 + std^2 / n = least error^2; their entries in the legend."""
    std, bias = points
    entries = []
    for n, look in zip(counts, LOOKS * len(counts), strict=False):
        error = float(np.sqrt((np.maximum(bias, 0) ** 2 + std**2 / n).min()))
        across = np.geomspace(limits[0][0], error * np.sqrt(n) * (1 - 1e-9), 400)
        (curve,) = ax.plot(across, np.sqrt(np.maximum(error**2 - across**2 / n, 0)), color="0.45", lw=0.9, ls=look)
        curve.set_label(f"error {error:.2g} at n = {n}")
        entries.append(curve)
    return entries
