"""The gradient gap between relaxed and discrete forward pass (figure 5), beside what it is relative to."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from .axes_style import (
    FONT,
    WIDTH,
    caption,
    letters_across,
    long_name,
    temperature_axis,
    temperature_label,
    value_axis,
)
from .heatmaps import cell_axis, cell_facts, cells, colour_bar, draw_cells, grid_size, scale
from .lines import Style, keys, series, shifts, trend
from .notebooks import Figure
from .publishing import legend
from .selection import check_gap, chosen, names, picks, units, with_interval

# pooled: a mean of ratios explodes where some discrete gradients nearly vanish
WORDS = {"gap": "gap", "relative_gap_pooled": "relative gap"}
STYLES = [Style(line, hollow=hollow) for hollow in (False, True) for line in ("-", "--", "-.", ":")]


def gap(ds: xr.Dataset, checkpoint: str | None = None) -> Figure:
    """Figure 5 of the paper: the gradient gap (left), and beside it the relative gap, for each definition.

    The gap contains the factor 1/tb, whatever the directions of the two gradients are; the relative gap does not. Over
    a grid of temperatures, the figure has heatmaps as in `heatmap`, with one logarithmic colour scale per column. Along
    one temperature, or along checkpoints at one point, it has lines with the intervals of `ds`: one colour per
    definition, one line style per checkpoint; points that are NaN are left out.

    Parameters
    ----------
    ds : what `gradlab.gap` returns
    checkpoint : draw this one only; by default the last over a grid, else all there are

    Raises
    ------
    ValueError
        A Dataset of another analysis or a checkpoint that is not in it.

    Examples
    --------
    >>> ds = gradlab.open_results("gap.h5")
    >>> figure = gradlab.plots.gap(ds)
    """
    ds = chosen(ds, checkpoint=checkpoint)
    check_gap(ds)
    if min(ds.sizes["tf"], ds.sizes["tb"]) > 1:
        return _maps(ds.isel(checkpoint=-1) if "checkpoint" in ds.dims else ds)
    return _lines(ds)


def _maps(ds: xr.Dataset) -> Figure:
    labels = [label for label, _ in picks(ds["gap"], ["definition"])]
    width, height = grid_size(ds["gap"], len(labels), 2)
    figure = Figure(figsize=(width + 0.7, height + 1.6), layout="constrained")
    axes = figure.subplots(len(labels), 2, squeeze=False)
    facts: dict[str, None] = {}
    for column, (name, words) in enumerate(WORDS.items()):
        values = ds[name]
        shown = cells(one for _, one in picks(values, ["definition"]))
        norm, colours = scale(shown.compressed(), 0)  # the paper draws the logarithm
        for row, (ax, label, of_panel) in enumerate(zip(axes[:, column], labels, shown, strict=True)):
            image = draw_cells(ax, of_panel, values, norm, colours, label)
            cell_axis(ax.xaxis, values, "tf", outer=row == len(labels) - 1)
            cell_axis(ax.yaxis, values, "tb", outer=column == 0)
        text = f"{words}{units(values)}"
        colour_bar(figure, image, axes[:, column], text, shown.compressed(), location="top", aspect=30, pad=0.01)
        facts |= dict.fromkeys(cell_facts(values, shown))
    caption(figure, ds, ds["gap"], *facts, first=_what(ds), intervals=False)
    return figure


def _lines(ds: xr.Dataset) -> Figure:
    varied = [name for name in ("tf", "tb") if ds.sizes[name] > 1]
    along = varied[0] if varied else "checkpoint" if "checkpoint" in ds.dims else "tb"
    fixed = [name for name in ("tf", "tb") if name != along]
    data = ds.isel(dict.fromkeys(fixed, 0))
    lines = series(data, ["definition"], "" if along == "checkpoint" else "checkpoint", STYLES)
    labels = names(ds, "checkpoint") if along == "checkpoint" else []
    x = np.arange(len(labels)) if labels else ds[along].values
    figure = Figure(figsize=(WIDTH, 2.9 + 0.04 * max(map(len, labels), default=0)), layout="constrained")
    for ax, (name, words) in zip(figure.subplots(1, 2), WORDS.items(), strict=True):
        drawn = [
            trend(ax, one, x, with_interval(one.data, name), shift=shift, bars=bool(labels))
            for one, shift in zip(lines, shifts(len(lines)), strict=True)
        ]
        ax.set_ylabel(f"{words}{units(ds[name])}", fontsize=FONT)
        value_axis(ax, "y", np.hstack(drawn))
        if labels:
            _checkpoint_axis(ax, labels)
        else:
            temperature_axis(ax, x)
            ax.set_xlabel(temperature_label(ds, along), fontsize=FONT)
    legend(figure, keys(lines))
    at = ", ".join(f"{name} = {ds[name].item():.4g}" for name in fixed)
    caption(figure, ds, ds["gap"], first=f"at {at}; {_what(ds)}")
    return figure


def _checkpoint_axis(ax: Axes, labels: list[str]) -> None:
    """Ticks in order, at equal distances. Names are omitted if there is no room."""
    ticks = range(0, len(labels), math.ceil(len(labels) / 10))
    ax.set_xticks(ticks, [labels[k] for k in ticks])
    if (max(map(len, labels)) + 2) * len(ticks) > letters_across(0.4 * WIDTH):
        for text in ax.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    margin = max(0.5, 0.04 * len(labels))
    ax.set_xlim(-margin, len(labels) - 1 + margin)
    ax.set_xlabel("checkpoint", fontsize=FONT)


def _what(ds: xr.Dataset) -> str:
    return "; ".join(f"{words}: {long_name(ds[name])}" for name, words in WORDS.items())
