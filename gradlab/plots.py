"""Figures of results: they select, clip for display and draw; they compute no statistic and show nothing."""

from __future__ import annotations

import contextlib
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
from matplotlib.axis import Axis
from matplotlib.colors import CenteredNorm, Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from . import errors, files

FORMATS = ("png", "pdf", "svg")
PAPER_POINT = {"tf": 1.6, "tb": 1.3}
LAWS = {"sampled": "softmax(l/tf)", "model": "softmax(l)"}
LINES = {"sampled": ("-", "--"), "model": ("-.", ":")}  # with sampling noise subtracted, and included
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX*"
WIDTH, FONT, SMALL = 5.5, 9, 7.5  # inches of a text column; points
LOG_FROM = 30  # largest over smallest value from which a logarithmic scale serves
CELLS_WRITTEN = 12  # cells a side up to which values are written


def bias_trends(
    ds: xr.Dataset, tf: float | None = None, tb: float | None = None, target: str | None = None, relative: bool = True
) -> Figure:
    """Figure 6 of the paper: bias (top) and standard deviation (bottom) of the estimates.

    Left against tf at fixed tb, right against tb at fixed tf; a thin vertical line marks the fixed point.
    Bias has its sampling noise subtracted and is clipped at 0; thin, with the noise included. Bands are the
    intervals of `ds`. One colour per estimator and checkpoint, one line style per target law. Points that are
    NaN are left out; a point alone is a marker with its interval.

    Parameters
    ----------
    ds : what `gradlab.bias` returns, over a grid or a cross padded with NaN
    tf, tb : the fixed temperatures, from the grid; by default, of those with the most points, the nearest to
        the attributes tf_fixed and tb_fixed of `ds`, or else to the paper's 1.6 and 1.3
    target : the target law to draw; by default all there are
    relative : over the norm of the exact gradient (which changes with tf for the target "sampled"), or not

    Raises ValueError for a Dataset of another analysis, a temperature or a target that is not in it.
    """
    ds = _bias(_chosen(ds, target=target))
    at = {"tf": _fixed(ds, "tf", tf), "tb": _fixed(ds, "tb", tb)}
    bias, raw, std = ("bias_norm_debiased", "bias_norm", "std_norm")
    if relative:
        bias, raw, std = ("relative_bias_debiased", "relative_bias", "relative_std")
    figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row", squeeze=False)
    series = _series(ds)
    drawn: dict[str, list[np.ndarray]] = {bias: [], std: []}
    for column, (along, other) in enumerate((("tf", "tb"), ("tb", "tf"))):
        for row, name in enumerate((bias, std)):
            for position, one in enumerate(series):
                data = one.data.sel({other: at[other]})
                shift = 5 * (position - (len(series) - 1) / 2)
                raw_too = data[raw] if name == bias else None
                drawn[name].append(_trend(axes[row, column], one, along, data, name, raw_too, shift))
            _temperature_axis(axes[row, column], ds[along].values, at[along])
        axes[0, column].set_title(f"at {other} = {at[other]:.4g}", fontsize=FONT)
        axes[1, column].set_xlabel(_temperature(ds, along), fontsize=FONT)
    words = ("relative bias", "relative standard\ndeviation") if relative else ("bias", "standard deviation")
    for row, (name, what) in enumerate(zip((bias, std), words, strict=True)):
        axes[row, 0].set_ylabel(what + (" " if relative else "\n") + _units(ds[name]), fontsize=FONT)
        _value_axis(axes[row, 0], "y", np.hstack(drawn[name]))
    keys, thin = _keys(series), ""
    if ds.sizes["tf"] * ds.sizes["tb"] > 1:
        keys.append(Line2D([], [], color="0.4", lw=0.8, ls="--", label="thin: noise included"))
        thin = "thin: sampling noise included"
    _legend(figure, keys)
    _caption(figure, ds, ds[bias], f"{words[0]}: {_long_name(ds[bias])}, clipped at 0", thin)
    return figure


def comparison(ds: xr.Dataset, target: str | None = None) -> Figure:
    """Relative bias (noise subtracted, clipped at 0) and relative standard deviation at one (tf, tb).

    One row per estimator and checkpoint, with the intervals of `ds`. Markers are filled for the target law
    "sampled" and hollow for "model"; `target` draws one of them only.

    Raises ValueError for a Dataset of another analysis or of several points, or a target that is not in it.
    """
    ds = _bias(_chosen(ds, target=target))
    if ds.sizes["tf"] * ds.sizes["tb"] > 1:
        sizes = f"{ds.sizes['tf']} tf and {ds.sizes['tb']} tb"
        raise ValueError(f"ds: got {sizes}; a comparison takes one point, ds.sel(tf=..., tb=...) would do")
    series = _series(ds.isel(tf=0, tb=0))
    rows = list(dict.fromkeys(one.label for one in series))
    targets = len(series) // len(rows)
    size = WIDTH + 0.06 * max(0, max(map(len, rows)) - 16), 1.7 + 0.26 * len(rows) + 0.1 * len(series)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = {"relative_bias_debiased": "relative bias", "relative_std": "relative standard deviation"}
    for ax, (name, what) in zip(panels, names.items(), strict=True):
        drawn = [_with_interval(one.data, name) for one in series]
        for position, (one, (value, low, high)) in enumerate(zip(series, drawn, strict=True)):
            row, law = divmod(position, targets)
            y = row + 0.3 * (law - (targets - 1) / 2)
            ax.hlines(y, low, high, color=one.colour, lw=1.2)
            ax.plot(value, y, **one.marks())
        ax.set_xlabel(f"{what} {_units(ds[name])}", fontsize=FONT)
        ax.grid(axis="y", color="0.9", lw=0.6)
        _value_axis(ax, "x", np.hstack(drawn))
    panels[0].set_yticks(range(len(rows)), [label or _of(ds, "estimator") or "" for label in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    if targets > 1:
        _legend(figure, _keys(series)[-targets:])
    point = ", ".join(f"{name} = {ds[name].item():g}" for name in ("tf", "tb"))
    bias = ds["relative_bias_debiased"]
    _caption(figure, ds, bias, f"relative bias: {_long_name(bias)}, clipped at 0", first=point)
    return figure


def heatmap(ds: xr.Dataset, variable: str, target: str | None = None, estimator: str | None = None) -> Figure:
    """A variable over all temperatures: tf to the right, tb upwards, cells of equal size.

    Values stand in the cells of grids up to 12 x 12; cells with tf = tb are outlined, cells without a finite
    value hatched. One panel per checkpoint, estimator, target law and definition, all on one colour scale:
    logarithmic for positive values that span a factor above 30, diverging from 0 for values of both signs.

    Parameters
    ----------
    ds : what `gradlab.bias` or `gradlab.gap` returns
    variable : name of a variable over tf and tb
    target, estimator : draw this one only

    Raises ValueError for an unknown name (with the near matches) and for a variable that lacks a temperature
    or has dims besides those named above.
    """
    ds = _chosen(ds, target=target, estimator=estimator)
    if variable not in ds.data_vars:
        raise errors.unknown_name("variable", variable, [str(name) for name in ds.data_vars])
    values = ds[variable]
    facets = [d for d in ("checkpoint", "estimator", "target", "definition") if d in values.dims]
    if set(values.dims) != {"tf", "tb", *facets}:
        raise ValueError(
            f"variable: {variable} has the dims {', '.join(map(str, values.dims))}; one over tf and tb"
            " (and checkpoint, estimator, target, definition) would do"
        )
    panels = {label: one.transpose("tb", "tf").to_numpy() for label, one in _picks(values, facets)}
    shown = np.ma.masked_invalid(np.stack(list(panels.values())))
    norm, cmap = _colours(shown.compressed())
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    width, height = _heatmap_size(values, rows, columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(len(panels))]
    for k, (ax, label, cells) in enumerate(zip(axes, panels, shown, strict=True)):
        image = ax.imshow(cells, norm=norm, cmap=cmap, origin="lower", aspect="auto")
        ax.patch.set(facecolor="0.93", edgecolor="0.75", hatch="////", linewidth=0)
        ax.set_title(label, fontsize=FONT)
        _write_cells(ax, cells, image.to_rgba(cells), values)
        _cell_axis(ax.xaxis, values, "tf", outer=k + columns >= len(panels))
        _cell_axis(ax.yaxis, values, "tb", outer=k % columns == 0)
    bar = figure.colorbar(image, ax=axes, aspect=25)
    label = f"{_long_name(values)} {_units(values)}"
    bar.set_label(textwrap.fill(label, int(13 * (height - 1.2))), fontsize=FONT)
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.yaxis.get_offset_text().set_fontsize(SMALL)
    if isinstance(norm, LogNorm):
        _log_ticks(bar.ax.yaxis, shown.compressed())
    diagonal = "outlined: tf = tb" if np.isin(values["tf"], values["tb"]).any() else ""
    missing = "hatched: no finite value" if shown.mask.any() else ""
    _caption(figure, ds, values, diagonal, missing, first=variable)
    return figure


def auto(ds: xr.Dataset, target: str | None = None) -> Figure:
    """The figure that suits a Dataset.

    `comparison` for one point, `heatmap` of the relative bias for a full grid of at least 4 x 4,
    `bias_trends` for all else; for a gap analysis `heatmap` of the gap. `target` is the target law to draw, by
    default all there are. Raises ValueError as these do.
    """
    ds = _chosen(ds)
    if "gap" in ds:
        return heatmap(ds, "gap")
    ds = _bias(ds)
    if ds.sizes["tf"] * ds.sizes["tb"] == 1:
        return comparison(ds, target)
    if min(ds.sizes["tf"], ds.sizes["tb"]) >= 4 and bool(ds["relative_bias_debiased"].notnull().all()):
        return heatmap(ds, "relative_bias_debiased", target)
    return bias_trends(ds, target=target)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, whole or not at all.

    Raises ValueError for another suffix, OSError where it cannot be written.
    """
    suffix = PurePath(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        endings = ", ".join(f".{known}" for known in FORMATS)
        raise ValueError(f"path: got {str(path)!r}; a name that ends in one of {endings} would do")
    with files.written_aside(path) as aside:
        figure.savefig(aside, format=suffix, dpi=200)


class _Series(NamedTuple):
    """What is drawn in one colour and line style: one estimator, checkpoint and target law."""

    label: str
    target: str
    data: xr.Dataset
    colour: str
    marker: str

    @property
    def lines(self) -> tuple[str, str]:
        return LINES.get(self.target, LINES["sampled"])

    def marks(self, **changes: Any) -> dict[str, Any]:
        face = "white" if self.target == "model" else self.colour
        return {"marker": self.marker, "ms": 4, "color": self.colour, "mfc": face, "ls": ""} | changes


def _series(ds: xr.Dataset) -> list[_Series]:
    dims = [d for d in ("checkpoint", "estimator") if d in ds.dims]
    laws = [str(t) for t in ds["target"].values] if "target" in ds.dims else [""]
    return [
        _Series(label, law, one.sel(target=law) if law else one, colour, marker)
        for (label, one), colour, marker in zip(
            _picks(ds, dims), itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False
        )
        for law in laws
    ]


def _picks(data: Any, dims: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Label and selection for every combination of the coordinates of `dims`."""
    for index in itertools.product(*(range(data.sizes[d]) for d in dims)):
        pick = dict(zip(dims, index, strict=True))
        yield ", ".join(_names(data, d)[i] for d, i in pick.items()), data.isel(pick)


def _names(data: Any, dim: str) -> list[str]:
    """What the coordinates of `dim` are called in a figure: checkpoints without folder, where that tells them apart."""
    names = [str(value) for value in data[dim].values]
    stems = [PurePath(name).stem for name in names]
    if dim == "checkpoint" and len(set(stems)) == len(stems):
        return stems
    return [f"target {name}" for name in names] if dim == "target" else names


def _chosen(ds: xr.Dataset, **names: str | None) -> xr.Dataset:
    """`ds` with sorted dims tf and tb, of other dims what `names` asks for, and no other dim of length 1."""
    if not isinstance(ds, xr.Dataset):
        raise ValueError(f"ds: got {type(ds).__name__}; an xarray.Dataset, as gradlab.bias returns, would do")
    if absent := [d for d in ("tf", "tb") if d not in ds.coords]:
        raise ValueError(f"ds: got a Dataset without {' and '.join(absent)}; one of gradlab.bias would do")
    for dim, name in names.items():
        if name is not None:
            known = [str(v) for v in ds[dim].values] if dim in ds.dims else [_of(ds, dim) or "none"]
            name = errors.choice(dim, name, known)
            ds = ds.sel({dim: name}) if dim in ds.dims else ds
    ds = ds.expand_dims([d for d in ("tf", "tb") if d not in ds.dims])
    alone = [d for d in ("checkpoint", "estimator", "target", "definition") if ds.sizes.get(d) == 1]
    ds = ds.isel(dict.fromkeys(alone, 0))
    # sorting copies every array, gradients included: only where it must
    return ds.sortby([d for d in ("tf", "tb") if not ds.indexes[d].is_monotonic_increasing])


def _bias(ds: xr.Dataset) -> xr.Dataset:
    for name in ("relative_bias_debiased", "relative_bias", "relative_std"):
        if name not in ds or not {"tf", "tb"} <= set(ds[name].dims):
            raise ValueError(f"ds: got a Dataset without {name} over tf and tb; one of gradlab.bias would do")
    return ds


def _fixed(ds: xr.Dataset, name: str, given: float | None) -> float:
    """The value of the grid at which `name` is held."""
    known = ds[name].values
    if given is not None:
        same = np.isclose(known, errors.temperature(name, given))
        if not same.any():
            raise ValueError(f"{name}: got {given}; one of {', '.join(f'{v:g}' for v in known)} would do")
        return float(known[same][0])
    measured = ds["relative_std"].notnull()
    points = measured.sum([d for d in measured.dims if d != name]).to_numpy()
    fullest = known[points == points.max()]
    wanted = float(ds.attrs.get(f"{name}_fixed", PAPER_POINT[name]))
    return float(fullest[np.argmin(np.abs(fullest - wanted))])


def _with_interval(data: xr.Dataset, name: str) -> np.ndarray:
    """Value, low and high end in rows, clipped at 0; without an interval the ends are the value."""
    ends = [name + end if name + end in data else name for end in ("", "_low", "_high")]
    return np.maximum(np.stack([np.atleast_1d(data[end]) for end in ends]), 0)


def _trend(
    ax: Axes, one: _Series, along: str, data: xr.Dataset, name: str, thin: xr.DataArray | None, shift: float
) -> np.ndarray:
    """Draw one figure of one series with its interval; returns what was drawn."""
    drawn = _with_interval(data, name)
    keep = np.isfinite(drawn[0])
    x, drawn = data[along].values[keep], drawn[:, keep]
    value, low, high = drawn
    if len(x) == 1:
        # several series would stand on each other: each goes `shift` points aside
        aside = ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans)
        ax.vlines(x, low, high, color=one.colour, lw=1.2, transform=aside)
        ax.plot(x, value, **one.marks(), transform=aside)
        return drawn
    ax.fill_between(x, low, high, color=one.colour, alpha=0.2, lw=0)
    ax.plot(x, value, **one.marks(ls=one.lines[0], lw=1.4, ms=3.5 if len(x) <= 24 else 0))
    if thin is not None:
        ax.plot(x, thin.values[keep], color=one.colour, lw=0.8, ls=one.lines[1])
    return drawn


def _temperature_axis(ax: Axes, grid: np.ndarray, fixed: float) -> None:
    ax.tick_params(labelsize=SMALL)
    low, high = grid.min(), grid.max()
    if low == high:
        ax.set_xlim(0.5 * low, 1.5 * low)
        ax.set_xticks([low], [f"{low:g}"])
        return
    ax.axvline(fixed, color="0.6", lw=0.6, zorder=0)
    if _serves_log(grid):
        ax.set_xscale("log")
        ax.set_xlim(low / 1.2, high * 1.2)
        _log_ticks(ax.xaxis, grid)
    else:
        ax.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _value_axis(ax: Axes, which: str, drawn: np.ndarray) -> None:
    """A scale from 0, or logarithmic where that serves; `drawn` as `_with_interval` gives it."""
    ax.tick_params(labelsize=SMALL)
    ax.set_axisbelow(True)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.get_offset_text().set_fontsize(SMALL)
    finite = drawn[np.isfinite(drawn)]
    if _serves_log(drawn[0]) and finite.min() > 0:
        margin = (finite.max() / finite.min()) ** 0.04
        ax.set(**{f"{which}scale": "log", f"{which}lim": (finite.min() / margin, finite.max() * margin)})
        _log_ticks(axis, finite)
    else:
        most = finite.max(initial=0)
        ax.set(**{f"{which}lim": (-0.03 * most, 1.05 * most or 1)})


def _serves_log(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() / values.min() > LOG_FROM)


def _log_ticks(axis: Axis, values: np.ndarray) -> None:
    """Plain numbers at 1, 2 and 5 where there are few decades; powers of ten stay where there are many."""
    if values.max() / values.min() < 200:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _colours(values: np.ndarray) -> tuple[Normalize, Colormap]:
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if least < 0 < most:
        return CenteredNorm(0, max(-least, most)), colormaps["RdBu_r"]
    return (LogNorm if _serves_log(values) else Normalize)(least, most), colormaps["viridis"]


def _heatmap_size(values: xr.DataArray, rows: int, columns: int) -> tuple[float, float]:
    """Inches: room for the values in the cells, and for the labels beside few cells."""
    most = max(values.sizes["tf"], values.sizes["tb"])
    cell = 0.36 if most <= CELLS_WRITTEN else 4.0 / most
    width, height = (max(values.sizes[name] * cell, 2.1) for name in ("tf", "tb"))
    return columns * (width + 0.2) + 1.3, rows * (height + 0.3) + 1.0


def _cell_axis(axis: Axis, values: xr.DataArray, name: str, outer: bool) -> None:
    known = values[name].values
    step = math.ceil(len(known) / 10) if len(known) > CELLS_WRITTEN else 1
    digits = next((d for d in (3, 6) if len({f"{v:.{d}g}" for v in known}) == len(known)), 12)
    axis.set_ticks(range(0, len(known), step), [f"{v:.{digits}g}" if outer else "" for v in known[::step]])
    axis.set_tick_params(labelsize=SMALL, length=2)
    if outer:
        axis.set_label_text(_temperature(values, name), fontsize=FONT)


def _write_cells(ax: Axes, cells: np.ma.MaskedArray, colours: np.ndarray, values: xr.DataArray) -> None:
    for (row, column), value in np.ndenumerate(cells.filled(np.nan)):
        light = np.isnan(value) or colours[row, column, :3] @ (0.299, 0.587, 0.114) > 0.5
        ink = "black" if light else "white"
        if np.isclose(values["tb"][row], values["tf"][column]):
            ax.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec=ink, lw=0.7))
        if max(cells.shape) <= CELLS_WRITTEN and np.isfinite(value):
            ax.text(column, row, _short(value), ha="center", va="center", fontsize=6.5, color=ink)


def _short(value: float) -> str:
    """Two or three digits, as a cell has room for."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.{3 if abs(value) >= 0.1 else 2}g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _temperature(data: xr.Dataset | xr.DataArray, name: str) -> str:
    return f"{data[name].attrs.get('long_name', 'temperature')} {name} (1)"


def _long_name(values: xr.DataArray) -> str:
    return values.attrs.get("long_name", str(values.name))


def _units(values: xr.DataArray) -> str:
    return f"({values.attrs['units']})" if "units" in values.attrs else ""


def _keys(series: Sequence[_Series]) -> list[Line2D]:
    """Legend entries: colour and marker of each label, line style of each target law."""
    labels = {one.label: one for one in series if one.label}
    laws = {one.target: one for one in series if one.target}
    plain = {"color": "0.4", "marker": "o"} if labels else {}
    keys = [Line2D([], [], **one.marks(mfc=one.colour, ls="-"), label=name) for name, one in labels.items()]
    for name, one in laws.items():
        key = Line2D([], [], **one.marks(ls=one.lines[0], **plain), label=f"target {name}")
        key.set_markerfacecolor("white" if name == "model" else key.get_color())
        keys.append(key)
    return keys


def _legend(figure: Figure, keys: list[Line2D]) -> None:
    if not keys:
        return
    widest = max(len(str(key.get_label())) for key in keys)
    columns = max(1, min(len(keys), 96 // (widest + 9)))
    figure.legend(handles=keys, loc="outside upper center", ncols=columns, fontsize=SMALL, frameon=False)


def _of(ds: xr.Dataset, name: str) -> str | None:
    """The estimator, the target law: of the selection, or of the whole Dataset, where it is known."""
    if name in ds.coords and ds[name].ndim == 0:
        return str(ds[name].item())
    text = str(ds.attrs.get(name, ""))
    with contextlib.suppress(ValueError):
        text = str(json.loads(text))
    return text or None


def _caption(figure: Figure, ds: xr.Dataset, values: xr.DataArray, *more: str, first: str = "") -> None:
    """What was measured, and how, under the figure."""
    about = ds.attrs
    laws = [str(t) for t in ds["target"].values] if "target" in ds.dims else [_of(ds, "target")]
    named = " and ".join(f"{law} ({LAWS[law]})" for law in laws if law in LAWS)
    intervals = about.get("intervals") if f"{values.name}_low" in ds else ""
    facts = [
        first,
        "" if "estimator" in ds.dims else _of(ds, "estimator"),
        f"target law{'s' if len(laws) > 1 else ''} {named}" if named else "",
        f"{int(about['draws']):,} draws" if "draws" in about else "",
        f"{int(about['examples']):,} examples" if "examples" in about else "",
        *(PurePath(known).name for known in (_of(ds, "checkpoint"), _of(ds, "data")) if known and known[:5] != "given"),
        f"code {about['categories']}x{about['latents']}" if {"categories", "latents"} <= set(about) else "",
        f"loss {about['loss']} ({about.get('unit', '')})" if "loss" in about else "",
        *more,
        f"aggregation: {values.attrs['aggregation']}" if "aggregation" in values.attrs else "",
        f"interval: {intervals}" if intervals else "",
    ]
    text = "; ".join(fact for fact in facts if fact).replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    across = int(figure.get_figwidth() * 72 / (0.53 * SMALL))  # letters are about half as wide as high
    lines = textwrap.fill(f"{text}.", across, break_on_hyphens=False)
    figure.supxlabel(lines, x=0.02, ha="left", fontsize=SMALL, color="0.25")
