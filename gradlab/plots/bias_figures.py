"""Bias and standard deviation: trends over temperatures (figure 6), and estimators beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .. import errors
from ..kinds import first_metrics, metric_names
from ..schema import POPULATION, includes_noise, short_name
from .axes_style import FONT, WIDTH, caption, temperature_axis, temperature_label, value_axis
from .lines import Series, Style, keys, series, shifts, trend
from .notebooks import Figure
from .publishing import legend
from .selection import check_bias, chosen, described, known_name, least_drawn, over_examples, panel_label, with_interval

RELATIVE, ABSOLUTE = ("relative_bias_debiased", "relative_std"), ("bias_norm_debiased", "std_norm")
_THINNER = "thinner line: interval over examples, of the data distribution"
PAPER_POINT = {"tf": 1.6, "tb": 1.3}
STYLES = {"sampled": Style("-", "--"), "model": Style("-.", ":", hollow=True)}


def bias_trends(
    ds: xr.Dataset,
    tf: float | None = None,
    tb: float | None = None,
    target: str | None = None,
    relative: bool = True,
    metrics: Sequence[str] | None = None,
) -> Figure:
    """Figure 6 of the paper: bias (top) and standard deviation (bottom) of the estimates, or other metrics.

    Left against tf at fixed tb, right against tb at fixed tf, one of them where only one temperature varies; a thin
    vertical line marks the fixed point, a thin horizontal one a bias as large as the gradient.
    Bias has its sampling noise subtracted and is clipped at 0; thin, with the noise included, where `ds` has it.
    Bands are the intervals of `ds` over draws, lighter ones those over examples. One colour per estimator and
    checkpoint, one line style per target law. Points that are NaN are left out; a point alone is a marker with its
    interval.

    Parameters
    ----------
    ds : what `gradlab.bias` returns, over a grid or a cross padded with NaN
    tf, tb : the fixed temperatures, from the grid; by default, of those with the most points, the nearest to
        the attributes tf_fixed and tb_fixed of `ds`, or else to the paper's 1.6 and 1.3
    target : the target law to draw; by default all there are
    relative : over the norm of the exact gradient (which changes with tf for the target "sampled"), or not
    metrics : names of the metrics to draw instead, a row each

    Raises
    ------
    ValueError
        A Dataset of another analysis, a temperature, a target or a metric that is not in it.

    Examples
    --------
    >>> ds = gradlab.open_results("bias.h5")
    >>> figure = gradlab.plots.bias_trends(ds)
    """
    ds = chosen(ds, target=target)
    check_bias(ds)
    names = [
        errors.choice("metrics", name, metric_names(ds)) for name in metrics or (RELATIVE if relative else ABSOLUTE)
    ]
    at = {"tf": fixed(ds, "tf", tf), "tb": fixed(ds, "tb", tb)}
    figure = Figure(figsize=(WIDTH, 1.5 + 1.7 * len(names)), layout="constrained")
    ways = [(along, other) for along, other in (("tf", "tb"), ("tb", "tf")) if ds.sizes[along] > 1]
    ways = ways or [("tf", "tb"), ("tb", "tf")]
    axes = figure.subplots(len(names), len(ways), sharex="col", sharey="row", squeeze=False)
    lines = by_estimator(ds)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    outer_drawn = False
    for column, (along, other) in enumerate(ways):
        for row, name in enumerate(names):
            for one, shift in zip(lines, shifts(len(lines)), strict=True):
                data = one.data.sel({other: at[other]})
                thin = data[raw].values if (raw := _with_noise(ds, name)) else None
                x, values = data[along].values, with_interval(data, name, least_drawn(ds, name))
                outer = over_examples(data, name, least_drawn(ds, name))
                outer_drawn |= outer is not None and bool(np.isfinite(outer).any())
                drawn[name].append(trend(axes[row, column], one, x, values, thin, shift, outer=outer))
            temperature_axis(axes[row, column], ds[along].values, at[along] if len(ways) > 1 else None)
        axes[0, column].set_title(f"at {other} = {at[other]:.4g}", fontsize=FONT)
        axes[-1, column].set_xlabel(temperature_label(ds, along), fontsize=FONT)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(panel_label(ds, name), fontsize=FONT)
        value_axis(axes[row, 0], "y", np.hstack(drawn[name]))
    entries, noise = keys(lines), ""
    entries += bias_of_one([(ax, name) for row, name in zip(axes, names, strict=True) for ax in row], "y")
    if ds.sizes["tf"] * ds.sizes["tb"] > 1 and any(_with_noise(ds, name) for name in names):
        entries.append(Line2D([], [], color="0.4", lw=0.8, ls="--", label="thin: noise included"))
        noise = "thin: sampling noise included"
    legend(figure, entries)
    lead = names[0]
    bands = "lighter band: interval over examples, of the data distribution" if outer_drawn else ""
    caption(figure, ds, ds[lead], f"{short_name(ds, lead)}: {described(ds, lead)}", noise, bands)
    return figure


def bias_of_one(panels: Sequence[tuple[Axes, str]], which: str) -> list[Line2D]:
    """Draws a thin line where a relative bias is 1, as large as the gradient; its entry in the legend, if any."""
    drawn = []
    for ax, name in panels:
        low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
        if name.startswith("relative_bias") and low < 1 < high:
            draw = ax.axvline if which == "x" else ax.axhline
            drawn.append(draw(1, color="0.75", lw=0.7, zorder=0, label="relative bias 1"))
    return drawn[:1]


def _with_noise(ds: xr.Dataset, name: str) -> str:
    """The metric that is the same but for its sampling noise, if the Dataset has it."""
    raw = name.removesuffix("_debiased")
    return raw if raw != name and raw in ds and includes_noise(ds, raw) else ""


def comparison(ds: xr.Dataset, target: str | None = None) -> Figure:
    """The two first metrics at one (tf, tb): relative bias (clipped at 0) and relative standard deviation.

    One row per estimator and checkpoint, with the intervals of `ds`, thinner those over examples. Markers are filled
    for the target law "sampled" and hollow for "model"; `target` draws one of them only.

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
        raise ValueError(f"ds: expected one point for a comparison, got {sizes}; use ds.sel(tf=..., tb=...)")
    names = first_metrics(ds)[:2]
    marked = by_estimator(ds.isel(tf=0, tb=0))
    rows = list(dict.fromkeys(one.label for one in marked))
    targets = len(marked) // len(rows)
    size = WIDTH + 0.06 * max(0, max(map(len, rows)) - 16), 1.7 + 0.26 * len(rows) + 0.1 * len(marked)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        drawn = [with_interval(one.data, name, least_drawn(ds, name)) for one in marked]
        for position, (one, (value, low, high)) in enumerate(zip(marked, drawn, strict=True)):
            row, law = divmod(position, targets)
            y = row + 0.3 * (law - (targets - 1) / 2)
            ax.hlines(y, low, high, color=one.colour, lw=1.2)
            if (outer := over_examples(one.data, name, least_drawn(ds, name))) is not None:
                ax.hlines(y, *outer, color=one.colour, lw=0.5)
                drawn[position] = np.vstack([drawn[position], outer])
            ax.plot(value, y, **one.marks())
        ax.set_xlabel(panel_label(ds, name, width=40), fontsize=FONT)
        ax.grid(axis="y", color="0.9", lw=0.6)
        value_axis(ax, "x", np.hstack(drawn), log_from=10)
    panels[0].set_yticks(range(len(rows)), [label or known_name(ds, "estimator") or "" for label in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    line = bias_of_one(list(zip(panels, names, strict=True)), "x")
    legend(figure, [*(keys(marked)[-targets:] if targets > 1 else []), *line])
    point = ", ".join(f"{name} = {ds[name].item():g}" for name in ("tf", "tb"))
    lead = names[0]
    bands = _THINNER if any(f"{lead}{end}" in ds for end in POPULATION) else ""
    caption(figure, ds, ds[lead], f"{short_name(ds, lead)}: {described(ds, lead)}", bands, first=point)
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
            raise ValueError(f"{name}: expected one of {', '.join(f'{v:g}' for v in known)}, got {given}")
        return float(known[same][0])
    measured = ds["relative_std"].notnull()
    points = measured.sum([d for d in measured.dims if d != name]).to_numpy()
    fullest = known[points == points.max()]
    wanted = float(ds.attrs.get(f"{name}_fixed", PAPER_POINT[name]))
    return float(fullest[np.argmin(np.abs(fullest - wanted))])
