"""Figures of results: they select, clip for display and draw; they compute no statistic and show nothing."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation

from . import errors, files

FORMATS = ("png", "pdf", "svg")
PAPER_POINT = {"tf": 1.6, "tb": 1.3}
LAWS = {"sampled": "softmax(l/tf)", "model": "softmax(l)"}
LINES = {"sampled": ("-", "--"), "model": ("-.", ":")}  # of a figure, and of the same with sampling noise included
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX*"
WIDTH, FONT, SMALL = 5.5, 9, 7.5  # inches of a text column, points
LOG_FROM = 30  # largest over smallest value from which a logarithmic scale serves
CELLS_WRITTEN = 12


def bias_trends(
    ds: xr.Dataset,
    tf: float | None = None,
    tb: float | None = None,
    target: str | None = None,
    relative: bool = True,
) -> Figure:
    """Figure 6 of the paper: bias (top) and standard deviation (bottom) of the estimates.

    Left against tf at fixed tb, right against tb at fixed tf; the fixed point is a thin vertical line. Bias is drawn
    with the sampling noise subtracted, clipped at 0, and thin with the noise included; bands are the intervals of
    `ds`. One colour per estimator and checkpoint, one line style per target law. Points that are NaN are left out.

    Parameters
    ----------
    ds : what `gradlab.bias` returns, over a grid or a cross padded with NaN
    tf, tb : the fixed temperatures, of the grid; by default the attributes tf_fixed and tb_fixed of `ds` or the
        paper's 1.6 and 1.3, moved to the nearest value with the most points
    target : the target law to draw; by default all there are
    relative : over the norm of the exact gradient (which changes with tf for the target "sampled"), or as norms

    Raises ValueError for a Dataset of another analysis, a temperature or a target that is not in it.
    """
    ds = _bias(_chosen(ds, target=target))
    at = {"tf": _fixed(ds, "tf", tf), "tb": _fixed(ds, "tb", tb)}
    bias, raw, std = (
        ("relative_bias_debiased", "relative_bias", "relative_std")
        if relative
        else ("bias_norm_debiased", "bias_norm", "std_norm")
    )
    figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row", squeeze=False)
    series = _series(ds)
    drawn: dict[str, list[np.ndarray]] = {bias: [], std: []}
    for column, (along, other) in enumerate((("tf", "tb"), ("tb", "tf"))):
        top, bottom = axes[:, column]
        for position, one in enumerate(series):
            data = one.data.sel({other: at[other]})
            shift = 5 * (position - (len(series) - 1) / 2)
            for ax, name in ((top, bias), (bottom, std)):
                drawn[name].append(_trend(ax, one, data[along].values, _with_interval(data, name), shift))
            _thin(top, one, data[along].values, np.asarray(data[raw]))
        for ax in (top, bottom):
            _temperature_axis(ax, ds[along].values, at[along])
        top.set_title(f"at {other} = {at[other]:g}", fontsize=FONT)
        bottom.set_xlabel(_temperature_label(ds, along), fontsize=FONT)
    words = ("relative bias", "relative standard\ndeviation") if relative else ("bias", "standard deviation")
    for row, (name, what) in enumerate(zip((bias, std), words, strict=True)):
        _value_axis(axes[row, 0], "y", what + (" " if relative else "\n") + _units(ds[name]), np.concatenate(drawn[name]))
    about = f"{words[0]}: {ds[bias].attrs.get('long_name', bias)}, clipped at 0; vertical line: the fixed temperature"
    noise = Line2D([], [], color="0.4", lw=0.8, ls="--", label="sampling noise included")
    _legend(figure, [*_keys(series), noise])
    _caption(figure, ds, about, _aggregation(ds[bias]), _intervals(ds, bias))
    return figure


def comparison(ds: xr.Dataset, target: str | None = None) -> Figure:
    """Relative bias (sampling noise subtracted, clipped at 0) and relative standard deviation at one (tf, tb).

    One row per estimator and checkpoint with the intervals of `ds`; filled markers for the target "sampled", hollow
    ones for "model".

    Parameters
    ----------
    ds : what `gradlab.bias` returns for one tf and one tb
    target : the target law to draw; by default all there are

    Raises ValueError for a Dataset of another analysis, several points, or a target that is not in it.
    """
    ds = _bias(_chosen(ds, target=target))
    if ds.sizes["tf"] * ds.sizes["tb"] > 1:
        raise ValueError(
            f"ds: got {ds.sizes['tf']} tf and {ds.sizes['tb']} tb; a comparison is of one point, as of ds.sel(tf=..., tb=...)"
        )
    series = _series(ds.isel(tf=0, tb=0))
    rows = list(dict.fromkeys(one.label for one in series))
    targets = len(series) // len(rows)
    figure = Figure(figsize=(WIDTH, 1.6 + 0.26 * len(rows) * (1 + 0.4 * (targets - 1))), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = ("relative_bias_debiased", "relative_std")
    for ax, name, what in zip(panels, names, ("relative bias", "relative standard deviation"), strict=True):
        drawn = []
        for position, one in enumerate(series):
            row, of_target = divmod(position, targets)
            y = row + 0.3 * (of_target - (targets - 1) / 2)
            value, low, high = _with_interval(one.data, name)
            ax.hlines(y, low, high, color=one.colour, lw=1.2)
            ax.plot(value, y, **one.marks())
            drawn.append(value)
        _value_axis(ax, "x", f"{what} {_units(ds[name])}", np.concatenate(drawn))
        ax.grid(axis="y", color="0.9", lw=0.6)
    panels[0].set_yticks(range(len(rows)), [one or _of(ds, "estimator") or "" for one in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    if targets > 1:
        _legend(figure, _keys(series)[-targets:])
    point = ", ".join(f"{name} = {ds[name].item():g}" for name in ("tf", "tb"))
    about = f"relative bias: {ds[names[0]].attrs.get('long_name', names[0])}, clipped at 0"
    _caption(figure, ds, point, about, _aggregation(ds[names[0]]), _intervals(ds, names[0]))
    return figure


def heatmap(ds: xr.Dataset, variable: str, target: str | None = None, estimator: str | None = None) -> Figure:
    """A variable over all temperatures: tf to the right, tb upwards, cells of equal size.

    Values stand in the cells of grids up to 12 x 12; cells with tf = tb are outlined, cells without a finite value
    hatched. The colour scale is shared by all panels: logarithmic for positive values that span a factor above 30,
    diverging from 0 for values of both signs. One panel per estimator, target, definition and checkpoint.

    Parameters
    ----------
    ds : what `gradlab.bias` or `gradlab.gap` returns
    variable : name of a variable over tf and tb
    target, estimator : draw this one only

    Raises ValueError for an unknown name (with the near matches), and for a variable that has not both temperatures
    or has dims besides those named above.
    """
    ds = _chosen(ds, target=target, estimator=estimator)
    if variable not in ds.data_vars:
        raise errors.unknown_name("variable", variable, [str(name) for name in ds.data_vars])
    values = ds[variable]
    facets = [d for d in ("checkpoint", "estimator", "target", "definition") if d in values.dims]
    if set(values.dims) != {"tf", "tb", *facets}:
        raise ValueError(
            f"variable: {variable} has the dims {', '.join(map(str, values.dims))}; a heatmap takes one over tf and tb"
            " (and estimator, target, definition, checkpoint): select along the others first"
        )
    panels = [(label, one.transpose("tb", "tf").to_numpy()) for label, one in _picks(values, facets)]
    shown = np.ma.masked_invalid(np.stack([cells for _, cells in panels]))
    norm, cmap = _colours(shown.compressed())
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=_heatmap_size(values, rows, columns), layout="compressed")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (label, _), cells in zip(axes.flat, panels, shown, strict=False):
        image = ax.imshow(cells, norm=norm, cmap=cmap, origin="lower")
        ax.patch.set(facecolor="0.93", edgecolor="0.75", hatch="////", linewidth=0)
        ax.set_title(label, fontsize=FONT)
        _mark_cells(ax, cells, image.to_rgba(cells), values["tf"].values, values["tb"].values)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax in axes.flat[: len(panels)]:
        _cell_axes(ax, values)
    label = textwrap.fill(f"{values.attrs.get('long_name', variable)} {_units(values)}", 44)
    bar = figure.colorbar(image, ax=axes.ravel().tolist()[: len(panels)], aspect=25)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=SMALL)
    diagonal = "outlined: tf = tb" if np.isin(values["tf"], values["tb"]).any() else ""
    missing = "hatched: no finite value" if shown.mask.any() else ""
    _caption(figure, ds, _aggregation(values), diagonal, missing, first=variable)
    return figure


def auto(ds: xr.Dataset) -> Figure:
    """The figure that suits a Dataset.

    `comparison` for one point, `heatmap` of the relative bias for a full grid of at least 4 x 4, `bias_trends` for
    all else; for a gap analysis `heatmap` of the gap. Raises ValueError as these do.
    """
    ds = _chosen(ds)
    if "gap" in ds:
        return heatmap(ds, "gap")
    ds = _bias(ds)
    if ds.sizes["tf"] * ds.sizes["tb"] == 1:
        return comparison(ds)
    if min(ds.sizes["tf"], ds.sizes["tb"]) >= 4 and bool(ds["relative_bias_debiased"].notnull().all()):
        return heatmap(ds, "relative_bias_debiased")
    return bias_trends(ds)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, whole or not at all.

    Raises ValueError for another suffix, OSError where it cannot be written.
    """
    suffix = PurePath(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"path: got {str(path)!r}; a name that ends in {', '.join('.' + f for f in FORMATS)} would do")
    with files.written_aside(path) as aside:
        figure.savefig(aside, format=suffix, dpi=200)


class _Series(NamedTuple):
    """What is drawn in one colour and line style: a Dataset of one estimator, checkpoint and target law."""

    label: str
    target: str
    data: xr.Dataset
    colour: str
    marker: str

    @property
    def lines(self) -> tuple[str, str]:
        return LINES.get(self.target, LINES["sampled"])

    def marks(self) -> dict[str, Any]:
        face = "white" if self.target == "model" else self.colour
        return {"marker": self.marker, "ms": 4, "color": self.colour, "mfc": face, "mec": self.colour, "ls": ""}


def _series(ds: xr.Dataset) -> list[_Series]:
    dims = [d for d in ("checkpoint", "estimator") if d in ds.dims]
    targets = [str(t) for t in ds["target"].values] if "target" in ds.dims else [""]
    return [
        _Series(label, t, one.sel(target=t) if t else one, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, (label, one) in enumerate(_picks(ds, dims))
        for t in targets
    ]


def _picks(data: Any, dims: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Label and selection for every combination of the coordinates of `dims`."""
    for index in itertools.product(*(range(data.sizes[d]) for d in dims)):
        pick = dict(zip(dims, index, strict=True))
        names = [("target " if d == "target" else "") + str(data[d].values[i]) for d, i in pick.items()]
        yield ", ".join(names), data.isel(pick)


def _chosen(ds: xr.Dataset, **names: str | None) -> xr.Dataset:
    """`ds` with temperatures as sorted dims, of each dim in `names` the one named, and no other dim of length 1."""
    if not isinstance(ds, xr.Dataset):
        raise ValueError(f"ds: got {type(ds).__name__}; an xarray.Dataset, as gradlab.bias returns, is needed")
    if absent := [d for d in ("tf", "tb") if d not in ds.coords]:
        raise ValueError(f"ds: got a Dataset without {' and '.join(absent)}; what gradlab.bias returns would do")
    for dim, name in names.items():
        if name is not None:
            known = [str(v) for v in ds[dim].values] if dim in ds.dims else [_of(ds, dim) or "none"]
            name = errors.choice(dim, name, known)
            ds = ds.sel({dim: name}) if dim in ds.dims else ds
    ds = ds.expand_dims([d for d in ("tf", "tb") if d not in ds.dims])
    alone = [d for d in ("checkpoint", "estimator", "target", "definition") if ds.sizes.get(d) == 1]
    return ds.isel(dict.fromkeys(alone, 0)).sortby(["tf", "tb"])


def _bias(ds: xr.Dataset) -> xr.Dataset:
    for name in ("relative_bias_debiased", "relative_bias", "relative_std"):
        if name not in ds or not {"tf", "tb"} <= set(ds[name].dims):
            raise ValueError(f"ds: got a Dataset without {name} over tf and tb; what gradlab.bias returns would do")
    return ds


def _fixed(ds: xr.Dataset, name: str, given: float | None) -> float:
    """The value of the grid at which `name` is held."""
    known = ds[name].values
    if given is not None:
        near = np.isclose(known, errors.temperature(name, given), rtol=1e-6)
        if not near.any():
            raise ValueError(f"{name}: got {given}; one of {', '.join(f'{v:g}' for v in known)} would do")
        return float(known[near][0])
    finite = np.isfinite(ds["relative_std"])
    points = finite.sum([d for d in finite.dims if d != name]).to_numpy()
    fullest = known[points == points.max()]
    wanted = float(ds.attrs.get(f"{name}_fixed", PAPER_POINT[name]))
    return float(fullest[np.argmin(np.abs(fullest - wanted))])


def _with_interval(data: xr.Dataset, name: str) -> list[np.ndarray]:
    """Value, low and high end, clipped at 0; the ends are the value where `data` has none."""
    return [
        np.maximum(np.atleast_1d(data[name + end if name + end in data else name]), 0) for end in ("", "_low", "_high")
    ]


def _trend(ax: Axes, one: _Series, x: np.ndarray, ends: list[np.ndarray], shift: float) -> np.ndarray:
    """One figure of one series with its interval; returns the values that were drawn."""
    keep = np.isfinite(ends[0])
    x, (value, low, high) = x[keep], (end[keep] for end in ends)
    if len(x) == 1:
        # several series would stand on each other: put each `shift` points aside
        assert ax.figure is not None
        aside = ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans)
        ax.vlines(x, low, high, color=one.colour, lw=1.2, transform=aside)
        ax.plot(x, value, **one.marks(), transform=aside)
    else:
        ax.fill_between(x, low, high, color=one.colour, alpha=0.2, lw=0)
        size = 3.5 if len(x) <= 24 else 0
        ax.plot(x, value, **(one.marks() | {"ls": one.lines[0], "lw": 1.4, "ms": size}))
    return value


def _thin(ax: Axes, one: _Series, x: np.ndarray, value: np.ndarray) -> None:
    keep = np.isfinite(value)
    if keep.sum() > 1:
        ax.plot(x[keep], value[keep], color=one.colour, lw=0.8, ls=one.lines[1])


def _temperature_axis(ax: Axes, grid: np.ndarray, fixed: float) -> None:
    ax.tick_params(labelsize=SMALL)
    if len(grid) == 1:
        ax.set_xticks(grid, [f"{grid[0]:g}"])
        return
    ax.axvline(fixed, color="0.6", lw=0.6, zorder=0)
    if _serves_log(grid):
        ax.set_xscale("log")


def _value_axis(ax: Axes, which: str, label: str, drawn: np.ndarray) -> None:
    """Label, and a scale from 0, or logarithmic where that serves."""
    ax.tick_params(labelsize=SMALL)
    ax.set_axisbelow(True)
    if _serves_log(drawn):
        ax.set(**{f"{which}scale": "log"})
    else:
        ax.set(**{f"{which}lim": (0, None)})
    ax.set(**{f"{which}label": label})
    (ax.xaxis if which == "x" else ax.yaxis).label.set_fontsize(FONT)


def _serves_log(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() / values.min() > LOG_FROM)


def _colours(values: np.ndarray) -> tuple[Normalize, Colormap]:
    if not values.size:
        return Normalize(0, 1), colormaps["viridis"]
    least, most = float(values.min()), float(values.max())
    if least < 0 < most:
        return CenteredNorm(0, max(-least, most)), colormaps["RdBu_r"]
    if _serves_log(values):
        return LogNorm(least, most), colormaps["viridis"]
    return Normalize(least, most), colormaps["viridis"]


def _heatmap_size(values: xr.DataArray, rows: int, columns: int) -> tuple[float, float]:
    """Inches: cells wide enough for their values, grids of more cells as wide as a text column."""
    across, up = values.sizes["tf"], values.sizes["tb"]
    cell = 0.36 if max(across, up) <= CELLS_WRITTEN else 3.9 / max(across, up)
    width, height = max(across * cell, 1.2), max(up * cell, 1.2)
    return max(columns * (width + 0.3) + 1.3, 3.5), rows * (height + 0.35) + 1.3


def _cell_axes(ax: Axes, values: xr.DataArray) -> None:
    for axis, name in ((ax.xaxis, "tf"), (ax.yaxis, "tb")):
        known = values[name].values
        step = math.ceil(len(known) / CELLS_WRITTEN)
        digits = next((d for d in (3, 6) if len({f"{v:.{d}g}" for v in known}) == len(known)), 12)
        axis.set_ticks(range(0, len(known), step), [f"{v:.{digits}g}" for v in known[::step]])
        axis.set_tick_params(labelsize=SMALL, length=2)
        if ax.get_subplotspec().is_last_row() if name == "tf" else ax.get_subplotspec().is_first_col():
            axis.set_label_text(_temperature_label(values, name), fontsize=FONT)


def _mark_cells(ax: Axes, cells: np.ma.MaskedArray, colours: np.ndarray, tf: np.ndarray, tb: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(cells.filled(np.nan)):
        ink = "black" if colours[row, column, :3] @ (0.299, 0.587, 0.114) > 0.5 else "white"
        if np.isclose(tb[row], tf[column]):
            ax.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec=ink, lw=0.7))
        if max(cells.shape) <= CELLS_WRITTEN and np.isfinite(value):
            ax.text(column, row, _short(value), ha="center", va="center", fontsize=6.5, color=ink)


def _short(value: float) -> str:
    """At most three digits, to fit a cell."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _temperature_label(data: xr.Dataset | xr.DataArray, name: str) -> str:
    return f"{data[name].attrs.get('long_name', 'temperature')} {name} (1)"


def _units(values: xr.DataArray) -> str:
    return f"({values.attrs['units']})" if "units" in values.attrs else ""


def _keys(series: Sequence[_Series]) -> list[Line2D]:
    """Legend entries: colours and markers for labels, line styles for targets, where there are several."""
    labels = {one.label: one for one in series if one.label}
    targets = {one.target: one for one in series if one.target}
    keys = [Line2D([], [], **(one.marks() | {"mfc": one.colour, "ls": "-"}), label=name) for name, one in labels.items()]
    return keys + [
        Line2D([], [], **(one.marks() | {"ls": one.lines[0]}), label=f"target {name}") for name, one in targets.items()
    ]


def _legend(figure: Figure, keys: list[Line2D]) -> None:
    widest = max(len(str(key.get_label())) for key in keys)
    columns = max(1, min(len(keys), 100 // (widest + 7)))
    figure.legend(handles=keys, loc="outside upper center", ncols=columns, fontsize=SMALL, frameon=False)


def _of(ds: xr.Dataset, name: str) -> str | None:
    """The estimator, target law or other fact of the whole Dataset, where it is known."""
    if name in ds.coords and ds[name].ndim == 0:
        return str(ds[name].item())
    text = str(ds.attrs.get(name, ""))
    if name == "estimator":
        try:
            text = str(json.loads(text))
        except ValueError:
            pass
    return text or None


def _aggregation(values: xr.DataArray) -> str:
    return values.attrs.get("aggregation", "")


def _intervals(ds: xr.Dataset, name: str) -> str:
    known = f"{name}_low" in ds and ds.attrs.get("intervals")
    return f"interval: {known}" if known else ""


def _caption(figure: Figure, ds: xr.Dataset, *more: str, first: str = "") -> None:
    """What was measured and how, under the figure."""
    laws = [str(t) for t in np.atleast_1d(ds["target"])] if "target" in ds.coords else [_of(ds, "target")]
    law = " and ".join(f"{name}, {LAWS[name]}" for name in laws if name in LAWS)
    code = "{categories}x{latents}".format_map(ds.attrs) if {"categories", "latents"} <= set(ds.attrs) else ""
    facts = [
        first,
        "" if "estimator" in ds.dims else _of(ds, "estimator") or "",
        f"target law {law}" if law else "",
        f"{int(ds.attrs['draws']):,} draws" if "draws" in ds.attrs else "",
        f"{int(ds.attrs['examples']):,} examples" if "examples" in ds.attrs else "",
        f"code {code}" if code else "",
        f"loss {ds.attrs['loss']}" if "loss" in ds.attrs else "",
        *more,
    ]
    figure.supxlabel("; ".join(filter(None, facts)) + ".", x=0.02, ha="left", fontsize=SMALL, color="0.25", wrap=True)
