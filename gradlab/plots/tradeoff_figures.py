"""Bias against standard deviation: which estimator errs least when n estimates are averaged."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .. import errors
from .axes_style import FONT, SMALL, WIDTH, caption, log_ticks
from .bias_figures import by_estimator
from .lines import COLOURS, Series, keys
from .notebooks import Figure
from .publishing import legend
from .selection import check_bias, chosen, with_interval

X, Y = "relative_std", "relative_bias_debiased"
AVERAGED = (1, 10, 100)
LOOKS = ("-", "--", ":")
FAR = 200  # standard deviations this many times the smallest one are drawn at the edge
MEMBERS = "osD^P*X"  # of a family; a bias that is not resolved has the marker v


def tradeoff(
    ds: xr.Dataset,
    target: str | None = None,
    averaged: Sequence[int] = AVERAGED,
    families: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Relative bias against relative standard deviation, with intervals on both axes, a point per estimator and tb.

    The average of n estimates is off by error(n), the root of bias^2 + standard deviation^2 / n. One curve for each n
    of `averaged` passes through all points of the least error that `ds` has; what lies on it errs as little. Markers of
    one estimator are joined in the order of tb. The thin line at relative bias 1 is a bias as large as the gradient.
    A bias whose interval holds 0 is a hollow marker at its upper end, with a line down to the axis; one that is too
    small to matter for any n is at the axis. A standard deviation of 0, or far beyond all others, is at the edge.
    Along a dim `model`, each model has a panel of its own.

    Parameters
    ----------
    ds : Dataset
        What `gradlab.bias` returns, at one tf; estimators compare at equal cost with MonteCarlo(equal_cost=True).
    target : str
        The target law to draw; by default the first.
    averaged : sequence of int
        Numbers of estimates averaged.
    families : mapping of str to sequences of str
        Titles and labels of estimators: a colour for each title, a marker for each estimator under it. By default
        each estimator has a colour and a marker.

    Raises
    ------
    ValueError
        A Dataset of another analysis or of several tf, a target that is not in it, no positive whole number, an
        estimator that is in no family.

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
    models = [str(name) for name in ds["model"].values] if "model" in ds.dims else [""]
    looks = _looks(ds, families)
    figure = Figure(figsize=(WIDTH, 4.2 if len(models) == 1 else 0.3 + 2.7 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), squeeze=False)[:, 0]
    entries: dict[str, Line2D] = {}
    least = []
    for ax, model in zip(panels, models, strict=True):
        marked = by_estimator((ds.sel(model=model) if model else ds).isel(tf=0))
        marked = [one._replace(**looks.get(one.label, {})) for one in marked]
        lines, told = _panel(ax, marked, counts, alone=not model)
        ax.set_title(model, fontsize=FONT)
        ax.set_ylabel("relative bias", fontsize=FONT)
        least.append(f"{model}: {told}" if model else "")
        entries |= {str(key.get_label()): key for key in [*keys(marked), *lines]}
    panels[-1].set_xlabel("relative standard deviation of one estimate", fontsize=FONT)
    legend(figure, _in_families(entries, families))
    tbs = ", ".join(f"{tb:g}" for tb in ds["tb"].values)
    what = f"markers of an estimator are joined in the order of tb = {tbs}" if ds.sizes["tb"] > 1 else f"tb = {tbs}"
    curves = "curves: equal error of n averaged estimates, through the least"
    first = f"tf = {ds['tf'].item():g}; relative bias against {X}"
    hollow = "hollow: not resolved from 0, at the upper end"
    caption(figure, ds, ds[Y], what, hollow, curves, *filter(None, least), first=first)
    return figure


def _looks(ds: xr.Dataset, families: Mapping[str, Sequence[str]] | None) -> dict[str, dict[str, Any]]:
    """Colour and marker of each label, a colour to a family."""
    if families is None:
        return {}
    looks = {
        label: {"colour": colour, "marker": marker}
        for of, colour in zip(families.values(), itertools.cycle(COLOURS), strict=False)
        for label, marker in zip(of, itertools.cycle(MEMBERS), strict=False)
    }
    for label in map(str, np.atleast_1d(ds["estimator"].values)):
        if label not in looks:
            raise ValueError(f"families: expected each estimator in one, got none with {label}")
    return looks


def _in_families(entries: Mapping[str, Line2D], families: Mapping[str, Sequence[str]] | None) -> list[Line2D]:
    """Entries of the legend, those of a family under its title, those of lines last."""
    found = []
    for title, of in (families or {}).items():
        if there := [entries[label] for label in of if label in entries]:
            found += [Line2D([], [], ls="", label=title), *there]
    return [
        *found,
        *(key for key in entries.values() if key not in found and not _is_line(key)),
        *filter(_is_line, entries.values()),
    ]


def _is_line(key: Line2D) -> bool:
    return key.get_marker() in ("", "None", None)


def _panel(ax: Axes, marked: Sequence[Series], counts: Sequence[int], alone: bool) -> tuple[list[Line2D], str]:
    """Points and curves of one model; the entries of its lines in the legend, and the least errors in words."""
    drawn = {one.label: np.stack([with_interval(one.data, name, -np.inf) for name in (X, Y)]) for one in marked}
    values = np.concatenate([of.reshape(2, 3, -1) for of in drawn.values()], -1)  # (axis, value and ends, point)
    known = np.isfinite(values[:, 0]).all(0)
    ax.tick_params(labelsize=SMALL)
    if not known.any():
        ax.text(0.5, 0.5, "no finite value", transform=ax.transAxes, ha="center", fontsize=FONT)
        return [], "no finite value"
    std, bias = values[:, 0][:, known]
    least = [float(np.sqrt((np.maximum(bias, 0) ** 2 + std**2 / n).min())) for n in counts]
    limits = _limits(values[..., known], min(least))
    for one in marked:
        _points(ax, one, drawn[one.label], limits)
    lines = _curves(ax, counts, least, limits, alone)
    ax.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
    for axis, (low, high) in zip((ax.xaxis, ax.yaxis), limits, strict=True):
        log_ticks(axis, np.array([low, high]))
    if limits[1][0] < 1 < limits[1][1]:
        lines.append(ax.axhline(1, color="0.75", lw=0.7, zorder=0, label="relative bias 1"))
    return lines, "least error " + ", ".join(f"{e:.2g} at n = {n}" for n, e in zip(counts, least, strict=True))


def _limits(values: np.ndarray, least: float) -> list[tuple[float, float]]:
    """Both axes' ranges. A bias far below the `least` error changes no error: it is drawn at the lower edge.

    So is a standard deviation FAR times the smallest one, at the right edge.
    """
    (x, x_low, x_high), (y, y_low, y_high) = values
    above = np.concatenate([x, x_low])
    left = above[above > 0].min(initial=np.inf)
    left = left if np.isfinite(left) else 0.1
    bottom = y[(y_low > 0) & (y > 0.02 * least)].min(initial=0.5 * least) or 0.1
    right = min(x_high[np.isfinite(x_high)].max(initial=left), FAR * left)
    top = max(y_high[np.isfinite(y_high)].max(initial=0), y.max(), bottom)
    return [(left * 0.75, right * 1.35), (bottom * 0.6, top * 1.35)]


def _points(ax: Axes, one: Series, of: np.ndarray, limits: Sequence[tuple[float, float]]) -> None:
    """Markers of a series with both intervals; a bias that is not resolved has a hollow marker at its upper end."""
    (x, x_low, x_high), (y, y_low, y_high) = of
    (left, right), (floor, _) = limits
    resolved = np.isfinite(x) & (y_low > 0) & (y > floor)
    at = np.where(resolved, y, np.maximum(y_high, 1.15 * floor))
    there = np.clip(x, 1.06 * left, right / 1.06)  # also of what has no noise
    ax.vlines(there, np.where(resolved, y_low, floor), np.where(resolved, y_high, at), color=one.colour, lw=1.1)
    ax.hlines(at, np.minimum(x_low, there), np.where(x < right, x_high, right), color=one.colour, lw=1.1)
    ax.plot(there, at, **one.marks(ls="-", lw=0.5, marker=""))
    ax.plot(there[resolved], at[resolved], **one.marks(mfc=one.colour))
    hollow = ~resolved & np.isfinite(x)
    ax.plot(there[hollow], at[hollow], **one.marks(mfc="white"))


def _curves(
    ax: Axes, counts: Sequence[int], least: Sequence[float], limits: Sequence[tuple[float, float]], alone: bool
) -> list[Line2D]:
    """For each n the curve bias^2 + std^2 / n = least error^2; their entries in the legend."""
    entries = []
    for n, error, look in zip(counts, least, LOOKS * len(counts), strict=False):
        across = np.geomspace(limits[0][0], error * np.sqrt(n) * (1 - 1e-9), 400)
        (curve,) = ax.plot(across, np.sqrt(np.maximum(error**2 - across**2 / n, 0)), color="0.45", lw=0.9, ls=look)
        curve.set_label(f"error {error:.2g} at n = {n}" if alone else f"least error at n = {n}")
        entries.append(curve)
    return entries
