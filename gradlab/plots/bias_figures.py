"""Bias and standard deviation: trends over temperatures (figure 6), and estimators beside each other."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import errors
from .axes_style import FONT, WIDTH, caption, long_name, temperature_axis, temperature_label, units, value_axis
from .lines import Series, Style, keys, legend, series, shifts, trend
from .selection import check_bias, chosen, known_name, with_interval

PAPER_POINT = {"tf": 1.6, "tb": 1.3}
STYLES = {"sampled": Style("-", "--"), "model": Style("-.", ":", hollow=True)}


def bias_trends(
    ds: xr.Dataset, tf: float | None = None, tb: float | None = None, target: str | None = None, relative: bool = True
) -> Figure:
    """Figure 6 of the paper: bias (top) and standard deviation (bottom) of the estimates.

    Left against tf at fixed tb, right against tb at fixed tf; a thin vertical line marks the fixed point.
    Bias has its sampling noise subtracted and is clipped at 0; thin, with the noise included, where `ds` has it.
    Bands are the intervals of `ds`. One colour per estimator and checkpoint, one line style per target law. Points
    that are NaN are left out; a point alone is a marker with its interval.

    Parameters
    ----------
    ds : what `gradlab.bias` returns, over a grid or a cross padded with NaN
    tf, tb : the fixed temperatures, from the grid; by default, of those with the most points, the nearest to
        the attributes tf_fixed and tb_fixed of `ds`, or else to the paper's 1.6 and 1.3
    target : the target law to draw; by default all there are
    relative : over the norm of the exact gradient (which changes with tf for the target "sampled"), or not

    Raises
    ------
    ValueError
        A Dataset of another analysis, a temperature or a target that is not in it.

    Examples
    --------
    >>> ds = gradlab.open_results("bias.h5")
    >>> figure = gradlab.plots.bias_trends(ds)
    """
    ds = chosen(ds, target=target)
    check_bias(ds)
    at = {"tf": fixed(ds, "tf", tf), "tb": fixed(ds, "tb", tb)}
    bias, raw, std = ("bias_norm_debiased", "bias_norm", "std_norm")
    if relative:
        bias, raw, std = ("relative_bias_debiased", "relative_bias", "relative_std")
    figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row", squeeze=False)
    lines = by_estimator(ds)
    drawn: dict[str, list[np.ndarray]] = {bias: [], std: []}
    for column, (along, other) in enumerate((("tf", "tb"), ("tb", "tf"))):
        for row, name in enumerate((bias, std)):
            for one, shift in zip(lines, shifts(len(lines)), strict=True):
                data = one.data.sel({other: at[other]})
                thin = data[raw].values if name == bias and raw in data else None
                x, values = data[along].values, with_interval(data, name)
                drawn[name].append(trend(axes[row, column], one, x, values, thin, shift))
            temperature_axis(axes[row, column], ds[along].values, at[along])
        axes[0, column].set_title(f"at {other} = {at[other]:.4g}", fontsize=FONT)
        axes[1, column].set_xlabel(temperature_label(ds, along), fontsize=FONT)
    words = ("relative bias", "relative standard\ndeviation") if relative else ("bias", "standard deviation")
    for row, (name, what) in enumerate(zip((bias, std), words, strict=True)):
        axes[row, 0].set_ylabel(what + (" " if relative else "\n") + units(ds[name]), fontsize=FONT)
        value_axis(axes[row, 0], "y", np.hstack(drawn[name]))
    entries, noise = keys(lines), ""
    if ds.sizes["tf"] * ds.sizes["tb"] > 1 and raw in ds:
        entries.append(Line2D([], [], color="0.4", lw=0.8, ls="--", label="thin: noise included"))
        noise = "thin: sampling noise included"
    legend(figure, entries)
    caption(figure, ds, ds[bias], f"{words[0]}: {long_name(ds[bias])}, clipped at 0", noise)
    return figure


def comparison(ds: xr.Dataset, target: str | None = None) -> Figure:
    """Relative bias (noise subtracted, clipped at 0) and relative standard deviation at one (tf, tb).

    One row per estimator and checkpoint, with the intervals of `ds`. Markers are filled for the target law
    "sampled" and hollow for "model"; `target` draws one of them only.

    Raises ValueError for a Dataset of another analysis or of several points, or a target that is not in it.

    Examples
    --------
    >>> ds = gradlab.open_results("estimators.h5")
    >>> figure = gradlab.plots.comparison(ds)
    """
    ds = chosen(ds, target=target)
    check_bias(ds)
    if ds.sizes["tf"] * ds.sizes["tb"] > 1:
        sizes = f"{ds.sizes['tf']} tf and {ds.sizes['tb']} tb"
        raise ValueError(f"ds: got {sizes}; a comparison takes one point, ds.sel(tf=..., tb=...) would do")
    marked = by_estimator(ds.isel(tf=0, tb=0))
    rows = list(dict.fromkeys(one.label for one in marked))
    targets = len(marked) // len(rows)
    size = WIDTH + 0.06 * max(0, max(map(len, rows)) - 16), 1.7 + 0.26 * len(rows) + 0.1 * len(marked)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = {"relative_bias_debiased": "relative bias", "relative_std": "relative standard deviation"}
    for ax, (name, what) in zip(panels, names.items(), strict=True):
        drawn = [with_interval(one.data, name) for one in marked]
        for position, (one, (value, low, high)) in enumerate(zip(marked, drawn, strict=True)):
            row, law = divmod(position, targets)
            y = row + 0.3 * (law - (targets - 1) / 2)
            ax.hlines(y, low, high, color=one.colour, lw=1.2)
            ax.plot(value, y, **one.marks())
        ax.set_xlabel(f"{what} {units(ds[name])}", fontsize=FONT)
        ax.grid(axis="y", color="0.9", lw=0.6)
        value_axis(ax, "x", np.hstack(drawn), log_from=10)
    panels[0].set_yticks(range(len(rows)), [label or known_name(ds, "estimator") or "" for label in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    if targets > 1:
        legend(figure, keys(marked)[-targets:])
    point = ", ".join(f"{name} = {ds[name].item():g}" for name in ("tf", "tb"))
    bias = ds["relative_bias_debiased"]
    caption(figure, ds, bias, f"relative bias: {long_name(bias)}, clipped at 0", first=point)
    return figure


def by_estimator(ds: xr.Dataset) -> list[Series]:
    laws = [str(t) for t in ds["target"].values] if "target" in ds.dims else ["sampled"]
    styles = [STYLES.get(law, STYLES["sampled"]) for law in laws]
    return series(ds, ("checkpoint", "estimator"), "target", styles)


def fixed(ds: xr.Dataset, name: str, given: float | None) -> float:
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
