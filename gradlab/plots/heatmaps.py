"""Values over a grid of temperatures, as coloured cells."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import CenteredNorm, Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from .. import errors, rounding
from ..schema import ENDS, short_name
from .axes_style import FONT, LOG_FROM, SMALL, caption, log_ticks, serves_log, temperature_label
from .fitting import IN_CELL
from .notebooks import Figure
from .selection import chosen, described, picks, units

LESS_IS_BETTER = re.compile("bias|std|gap")  # in the name of a metric
CELLS_WRITTEN = 12  # cells a side up to which values are written


def heatmap(ds: xr.Dataset, variable: str, target: str | None = None, estimator: str | None = None) -> Figure:
    """A variable over all temperatures: tf to the right, tb upwards, cells of equal size.

    Values stand in the cells of grids up to 12 x 12; cells with tf = tb are outlined, cells without a finite
    value hatched. Of a bias, a standard deviation or a gap, the least value has a thick outline, and cells whose
    interval reaches that of the least a dot. Where all intervals have a value in common, all cells are grey, since
    noise is no structure. One panel per checkpoint, estimator, target law and definition, all on one colour scale:
    logarithmic for positive values that span a factor above 30, diverging from 0 for values of both signs.

    Parameters
    ----------
    ds : what `gradlab.bias` or `gradlab.gap` returns
    variable : name of a variable over tf and tb
    target, estimator : draw this one only

    Raises
    ------
    ValueError
        An unknown name (with the near matches) and for a variable that lacks a temperature or has dims besides
        those named above.

    Examples
    --------
    >>> ds = gradlab.open_results("bias.h5")
    >>> figure = gradlab.plots.heatmap(ds, "relative_bias_debiased")
    """
    ds = chosen(ds, target=target, estimator=estimator)
    if variable not in ds.data_vars:
        raise errors.unknown_name("variable", variable, [str(name) for name in ds.data_vars])
    values = ds[variable]
    facets = [d for d in ("checkpoint", "estimator", "target", "definition") if d in values.dims]
    if set(values.dims) != {"tf", "tb", *facets}:
        raise ValueError(
            "variable: expected one over tf and tb (and checkpoint, estimator, target, definition), got"
            f" {variable} with the dims {', '.join(map(str, values.dims))}"
        )
    panels = dict(picks(values, facets))
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    width, height = grid_size(values, rows, columns)
    figure = Figure(figsize=(width + 1.3, height + 1.0), layout="constrained")
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(len(panels))]
    shown = cells(panels.values())
    pair = [ds[variable + end] for end in ENDS if end and variable + end in ds]
    ends = [cells(of for _, of in picks(one, facets)) for one in pair]
    if len(ends) == 2 and bool(((ends[0] > shown) | (ends[1] < shown)).any()):
        ends = []  # of other values
    alike = len(ends) == 2 and ends[0].count() > 1 and bool(ends[0].max() <= ends[1].min())
    norm, colours = scale(shown.compressed())
    if alike:
        norm, colours = Normalize(float(ends[0].min()), float(ends[1].max())), ListedColormap(["0.85"])
    for k, (ax, label, of_panel) in enumerate(zip(axes, panels, shown, strict=True)):
        of_ends = [of[k].filled(np.nan) for of in ends]
        image = draw_cells(ax, of_panel, values, norm, colours, label, ends=of_ends if len(ends) == 2 else None)
        cell_axis(ax.xaxis, values, "tf", outer=k + columns >= len(panels))
        cell_axis(ax.yaxis, values, "tb", outer=k % columns == 0)
    marked = ""
    if len(ends) == 2 and not alike and LESS_IS_BETTER.search(variable):
        marked = "thick outline: least value of a panel; dots: intervals that reach the interval of the least"
        for ax, of_panel, low, high in zip(axes, shown, *ends, strict=True):
            _mark_least(ax, of_panel, low, high)
    noise = "all intervals have a value in common, so that differences between cells may be noise" if alike else ""
    told = f"{short_name(ds, variable)}{units(values)}" + ("; no cell differs from another" if alike else "")
    text = textwrap.fill(told, int(13 * (height - 0.2)))
    colour_bar(figure, image, axes, text, shown.compressed(), aspect=25)
    first = f"{short_name(ds, variable)}: {described(ds, variable)}"
    caption(figure, ds, values, *cell_facts(values, shown), marked, noise, first=first, intervals=False)
    return figure


def _mark_least(ax: Axes, shown: np.ma.MaskedArray, low: np.ma.MaskedArray, high: np.ma.MaskedArray) -> None:
    """A thick outline around the least value, a dot in each cell whose interval reaches that of the least."""
    if not shown.count() or shown.size == 1:
        return
    row, column = np.unravel_index(int(shown.argmin()), shown.shape)
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec="#D55E00", lw=1.8, clip_on=False, zorder=3))
    near = np.argwhere(((low <= high[row, column]) & (high >= low[row, column])).filled(False))
    others = near[(near != (row, column)).any(1)]
    ax.scatter(others[:, 1] + 0.36, others[:, 0] + 0.34, s=5, color="#D55E00", lw=0, zorder=3)


def cells(panels: Iterable[xr.DataArray]) -> np.ma.MaskedArray:
    """(panel, tb, tf), masked where there is no finite value."""
    return np.ma.masked_invalid(np.stack([values.transpose("tb", "tf").to_numpy() for values in panels]))


def scale(values: np.ndarray, log_from: float = LOG_FROM) -> tuple[Normalize, Colormap]:
    """Colours for finite values; logarithmic for positive ones whose largest is over `log_from` times the smallest."""
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if least < 0 < most:
        return CenteredNorm(0, max(-least, most)), colormaps["RdBu_r"]
    return (LogNorm if serves_log(values, log_from) else Normalize)(least, most), colormaps["viridis"]


def grid_size(values: xr.DataArray, rows: int, columns: int) -> tuple[float, float]:
    """Inches: room for the values in the cells, and for the labels beside few cells."""
    most = max(values.sizes["tf"], values.sizes["tb"])
    cell = 0.36 if most <= CELLS_WRITTEN else 4.0 / most
    width, height = (max(values.sizes[name] * cell, 2.1) for name in ("tf", "tb"))
    return columns * (width + 0.2), rows * (height + 0.3)


def draw_cells(
    ax: Axes,
    shown: np.ma.MaskedArray,
    values: xr.DataArray,
    norm: Normalize,
    colours: Colormap,
    title: str = "",
    written: Callable[[float], str] | None = None,
    ends: Sequence[np.ndarray] | None = None,
) -> AxesImage:
    """One panel, `shown` (tb, tf) of `values`; `written` writes a value, by default to the digits of its `ends`."""
    write = written or _short
    image = ax.imshow(shown, norm=norm, cmap=colours, origin="lower", aspect="auto")
    ax.patch.set(facecolor="0.93", edgecolor="0.75", hatch="////", linewidth=0)
    ax.set_title(title, fontsize=FONT)
    painted = image.to_rgba(shown)
    diagonal = np.isclose(values["tb"].to_numpy()[:, None], values["tf"].to_numpy())
    for (row, column), value in np.ndenumerate(shown.filled(np.nan)):
        light = np.isnan(value) or painted[row, column, :3] @ (0.299, 0.587, 0.114) > 0.5
        ink = "black" if light else "white"
        if diagonal[row, column]:
            ax.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec=ink, lw=0.7))
        if max(shown.shape) <= CELLS_WRITTEN and np.isfinite(value):
            text = write(value)
            if ends is not None and written is None:
                text = min(rounding.three(value, *(float(end[row, column]) for end in ends))[0], text, key=len)
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink, gid=IN_CELL)
    return image


def cell_axis(axis: Axis, values: xr.DataArray, name: str, outer: bool) -> None:
    """Ticks at the cells; temperatures only at an outer panel."""
    known = values[name].values
    step = math.ceil(len(known) / 10) if len(known) > CELLS_WRITTEN else 1
    digits = next((d for d in (3, 6) if len({f"{v:.{d}g}" for v in known}) == len(known)), 12)
    axis.set_ticks(range(0, len(known), step), [f"{v:.{digits}g}" if outer else "" for v in known[::step]])
    axis.set_tick_params(labelsize=SMALL, length=2)
    if outer:
        axis.set_label_text(temperature_label(values, name), fontsize=FONT)


def colour_bar(figure: Figure, image: AxesImage, axes: Any, text: str, shown: np.ndarray, **place: Any) -> None:
    """The bar of the colours that panels share, labelled with `text`; `shown` are the values in them."""
    bar = figure.colorbar(image, ax=axes, **place)
    bar.set_label(text, fontsize=FONT)
    bar.ax.tick_params(labelsize=SMALL)
    bar.long_axis.get_offset_text().set_fontsize(SMALL)
    if isinstance(image.norm, LogNorm):
        # side by side, numbers take more room than on top of each other
        crowded = bar.orientation == "horizontal" and serves_log(shown)
        log_ticks(bar.long_axis, shown, steps=(1, 3) if crowded else (1, 2, 5))


def cell_facts(values: xr.DataArray, shown: np.ma.MaskedArray) -> tuple[str, str]:
    """For the caption: what outlines and hatching say, where there are any."""
    diagonal = "outlined: tf = tb" if np.isin(values["tf"], values["tb"]).any() else ""
    return diagonal, "hatched: no finite value" if shown.mask.any() else ""


def _short(value: float) -> str:
    """Two or three digits, zeros at the end too, as a cell has room for."""
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 999.5:
        return f"{value:#.{3 if abs(value) >= 0.1 else 2}g}".rstrip(".")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
