"""Losses of a sweep: over pairs of temperatures (figures 2 to 4), and schedules beside each other (table 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .axes_style import (
    FONT,
    SMALL,
    WIDTH,
    caption,
    long_name,
    serves_log,
    temperature_axis,
    temperature_label,
    value_axis,
)
from .fitting import keep_panels, key_above
from .heatmaps import cell_axis, cell_facts, cells, colour_bar, draw_cells, grid_size, scale
from .lines import COLOURS, Series, Style, aside, shifts, trend
from .notebooks import Figure
from .publishing import legend
from .selection import units, with_interval
from .sweep_points import (
    FINAL,
    MEAN,
    MEDIAN,
    comparable,
    done,
    facts,
    has_schedules,
    label,
    loss_label,
    lowest,
    pairs,
    partly_done,
    single,
    temperature,
    trained,
)

BESIDE = 3.1  # inches: width of the lines beside the heatmap
OTHER, SAME = COLOURS[:2]  # tf and tb apart, tf = tb
LOST = "#CC79A7"  # of seeds that collapsed
BEST = "#E69F00"  # stands out from the dark end of the colour scale, where the lowest loss is
POINT: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3, "mec": "none", "alpha": 0.4}  # a single seed
CHOSEN = "lowest ones are chosen on the seeds shown: with new seeds their loss is likely higher"


def losses(ds: xr.Dataset) -> Figure:
    """Figures 2 to 4 of the paper: the validation loss after training, mean over seeds.

    Left a heatmap, tf to the right and tb upwards; the pair with the lowest mean has a thick outline, pairs with
    tf = tb a thin one; pairs of which no training is done are hatched, and a dot marks those with fewer seeds done
    than others, which are never called the lowest. Right, for each tf, the loss at tf = tb against the lowest of
    tb ≠ tf, with intervals over seeds and a point for each seed. Where seeds collapsed, the corner of a cell tells how
    many, and on the right stand their pairs' medians, too, and the loss without a code.

    Parameters
    ----------
    ds : a sweep over numbers tf and tb, with means over seeds, as gradlab.sweeps.with_means returns it

    Raises
    ------
    ValueError
        Another Dataset, one without the means, or one with schedules.

    Examples
    --------
    >>> ds = gradlab.sweeps.with_means(gradlab.open_results("sweep.h5"))
    >>> figure = gradlab.plots.losses(ds)
    """
    ds = trained(ds)
    if has_schedules(ds):
        raise ValueError("ds: expected a sweep of numbers, got a sweep of schedules; use plots.schedules")
    of = pairs(ds)
    width, height = grid_size(ds[MEAN], 1, 1)
    figure = Figure(figsize=(width + 1.1 + BESIDE, max(height, 2.4) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(width + 1.1, BESIDE))
    keep_panels(figure, [left, right], 3.6, 3.3)
    (best,) = lowest(of, comparable(of))
    shown = draw_losses(figure, left, ds, of, best)
    at = _lines(right, ds, of)
    chosen = [f"thick outline: lowest mean, {label(of.isel(pair=best))}"]
    if at:
        chosen.append(f"lowest of tb ≠ tf: from left to right at tb = {', '.join(at)}")
    fewer = "dot: fewer seeds done" if partly_done(of).any() else ""
    lost = f"corner: seeds of {ds.sizes['seed']} that collapsed; intervals end at the frame" if _collapsed(ds) else ""
    _caption(figure, ds, of, *cell_facts(ds[MEAN], shown), fewer, lost, *chosen)
    return figure


def draw_losses(figure: Figure, ax: Axes, ds: xr.Dataset, of: xr.Dataset, best: int) -> np.ma.MaskedArray:
    """The heatmap of the means, with an outline around pair `best`; returns what it shows."""
    values = ds[MEAN]
    shown = cells([values])
    finite = shown.compressed()
    image = draw_cells(ax, shown[0], values, *scale(finite), loss_label(values), written=_digits(finite))
    cell_axis(ax.xaxis, values, "tf", outer=True)
    cell_axis(ax.yaxis, values, "tb", outer=True)
    columns, rows = (np.searchsorted(ds[name], of[name]) for name in ("tf", "tb"))
    fewer = partly_done(of)
    ax.plot(columns[fewer] + 0.37, rows[fewer] + 0.37, ls="", marker="o", ms=2.5, mfc="white", mec="black", mew=0.4)
    if _collapsed(ds):
        ink: dict[str, Any] = {"ha": "left", "va": "top", "fontsize": 4.5, "fontweight": "bold", "color": "white"}
        for column, row, count in zip(columns, rows, of["collapsed"].to_numpy(), strict=True):
            if count:
                box: dict[str, Any] = {"boxstyle": "circle,pad=0.15", "fc": LOST, "ec": "none"}
                ax.text(column - 0.42, row + 0.42, f"{count}", **ink, bbox=box)
    corner = columns[best] - 0.5, rows[best] - 0.5
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=BEST, lw=2, clip_on=False, zorder=3))
    colour_bar(figure, image, ax, "", finite, aspect=25)
    return shown


def _collapsed(ds: xr.Dataset) -> bool:
    """Whether seeds are known to have collapsed."""
    return "collapsed" in ds and bool(ds["collapsed"].any())


def _digits(values: np.ndarray) -> Callable[[float], str] | None:
    """A function for texts with enough decimals to distinguish the values (at most five digits), or None."""
    if serves_log(values):
        return None
    span, whole = float(values.max() - values.min()), len(f"{abs(values).max():.0f}")
    decimals = 2 - math.floor(math.log10(span)) if span > 0 else 2
    return f"{{:.{min(max(decimals, 0), 5 - whole)}f}}".format


def _lines(ax: Axes, ds: xr.Dataset, of: xr.Dataset) -> list[str]:
    """Loss against tf; returns the tb at which the lowest of tb ≠ tf were found."""
    tf, same = of["tf"].to_numpy(), single(of)
    others = [k for one in ds["tf"].to_numpy() for k in lowest(of, ~same & (tf == one))]
    diagonal = np.flatnonzero(same & (done(of) > 0)).tolist()
    drawn = []
    looks = ((others, "lowest of tb ≠ tf", OTHER, "o"), (diagonal, "tf = tb", SAME, "s"))
    for (at, name, colour, marker), shift in zip(looks, shifts(2), strict=True):
        one = Series(name, "", of.isel(pair=at), colour, marker, Style("-"))
        where, losses = _seeds(one, tf[at])
        ax.plot(where, losses, **POINT, mfc=colour, transform=aside(ax, shift))
        values = with_interval(one.data, MEAN, least=-np.inf)
        shown = trend(ax, one, tf[at], values, shift=shift, bars=True)
        # an interval from a collapsed seed and two others is wider than all losses together
        drawn += [shown[[0, 0, 0]] if _collapsed(ds) else shown, np.stack([losses] * 3)]
        if _collapsed(ds):
            medians = one.data[MEDIAN].where(one.data["collapsed"] > 0).to_numpy()
            ax.plot(tf[at], medians, **one.marks(mfc="white", ms=6, mew=1, zorder=1), transform=aside(ax, shift))
        if at:
            ax.plot([], [], **one.marks(ls="-", lw=0.8), label=name)
    if ds.sizes["seed"] > 1:
        ax.plot([], [], **POINT, mfc="black", label="single seeds")
    if _collapsed(ds):
        ax.plot([], [], ls="", marker="o", ms=6, mew=1, mfc="white", color="0.3", label="medians")
        ax.axhline(ds.attrs["loss_without_code"], color="0.4", lw=0.8, ls=":", zorder=0, label="without a code")
        drawn.append(np.full((3, 1), ds.attrs["loss_without_code"]))
    temperature_axis(ax, ds["tf"].to_numpy())
    value_axis(ax, "y", np.hstack(drawn), zero=False)
    ax.set_xlabel(temperature_label(ds, "tf"), fontsize=FONT)
    ax.set_ylabel(loss_label(ds[MEAN]), fontsize=FONT)
    key_above(ax, ax.get_legend_handles_labels()[0], 2, SMALL)
    return [temperature(one) for one in of["tb"].to_numpy()[others].tolist()]


def _seeds(one: Series, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of single seeds stand, and their losses, of pairs that stand `at`; none of one seed alone."""
    values = one.data[FINAL].transpose("pair", "seed").to_numpy()
    count = values.shape[1] if values.shape[1] > 1 else 0
    return np.repeat(at, count), values[:, :count].ravel()


def schedules(ds: xr.Dataset) -> Figure:
    """Table 1 of the paper as a figure: the validation loss after training, one line per pair (tf, tb) trained.

    Sorted by the mean over seeds, with intervals over seeds and a point for each seed. Pairs with both temperatures
    fixed have another colour, and a vertical line stands at the lowest of them. Pairs of which no training is done
    come last.

    Parameters
    ----------
    ds : a sweep with means over seeds, as gradlab.sweeps.with_means returns it

    Raises
    ------
    ValueError
        Another Dataset, or one without the means.

    Examples
    --------
    >>> ds = gradlab.sweeps.with_means(gradlab.open_results("schedules.h5"))
    >>> figure = gradlab.plots.schedules(ds)
    """
    ds = trained(ds)
    of = pairs(ds)
    of = of.isel(pair=np.argsort(of[MEAN].to_numpy(), kind="stable"))  # NaN last
    count, names = done(of), [label(of.isel(pair=k)) for k in range(of.sizes["pair"])]
    labels = [name + _count(k, count.max()) for name, k in zip(names, count, strict=True)]
    size = WIDTH + 0.06 * max(0, max(map(len, labels)) - 16), 1.8 + 0.22 * len(labels)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    fixed = np.array(["→" not in name for name in names])
    drawn, entries = [], []
    for name, among, colour, marker in (("schedule", ~fixed, OTHER, "o"), ("both fixed", fixed, SAME, "s")):
        if len(at := np.flatnonzero(among & (count > 0))):
            one = Series(name, "", of.isel(pair=at), colour, marker, Style("-"))
            drawn.append(_dots(ax, one, at))
            entries.append(Line2D([], [], **one.marks(), label=name))
    if not fixed.all():
        for pair in lowest(of, fixed):
            ax.axvline(of[MEAN][pair].item(), color=SAME, lw=0.8, ls="--", zorder=0)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", color="0.9", lw=0.6)
    ax.set_xlabel(f"validation loss{units(ds[MEAN])}", fontsize=FONT)
    value_axis(ax, "x", np.hstack(drawn), zero=False)
    if ds.sizes["seed"] > 1:
        entries.append(Line2D([], [], **POINT, mfc="black", label="single seeds"))
    legend(figure, entries)
    _caption(figure, ds, of, "sorted by the mean")
    return figure


def _dots(ax: Axes, one: Series, at: np.ndarray) -> np.ndarray:
    """Means with their intervals and single seeds, in the rows `at`; returns what was drawn, for the scale."""
    value, low, high = values = with_interval(one.data, MEAN, least=-np.inf)
    rows, losses = _seeds(one, at)
    ax.plot(losses, rows, **POINT, mfc=one.colour)
    ax.hlines(at, low, high, color=one.colour, lw=1.2)
    ax.plot(value, at, **one.marks())
    return np.hstack([values, [losses] * 3])


def _count(seeds: int, most: int) -> str:
    if seeds == most:
        return ""
    return f" ({seeds} of {most} seeds)" if seeds else " (failed)"


def _caption(figure: Figure, ds: xr.Dataset, of: xr.Dataset, *more: str) -> None:
    chosen = CHOSEN if of.sizes["pair"] > 1 else ""
    first = f"mean over seeds of the {long_name(ds[FINAL])}"
    caption(figure, ds, ds[FINAL], *facts(ds, of), *more, chosen, first=first)
