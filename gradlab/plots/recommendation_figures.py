"""The comparison of a recommendation: what each estimator errs by, and how that goes with the backward temperature."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .axes_style import FONT, SMALL, WIDTH, caption, temperature_axis
from .fitting import keep_panels, key_above
from .lines import COLOURS, MARKERS
from .notebooks import Figure
from .selection import checked, with_interval

MOST_ROWS, MOST_SERIES = 18, 3
BEST, ALIKE, WORSE = "#D55E00", "#0072B2", "0.55"


def recommendation(ds: xr.Dataset) -> Figure:
    """The errors of an average, with their intervals: a row for each estimator, at its tb of least error.

    The recommended one is orange, what is within noise of it blue, the others grey. Beside the rows, the error against
    tb of the MOST_SERIES estimators of least error that have a tb; a filled marker is within noise of the recommended.

    Parameters
    ----------
    ds : the table of `gradlab.recommend`; of several checkpoints the last is drawn, of several tf that of the choice

    Raises
    ------
    ValueError
        Another Dataset.

    Examples
    --------
    >>> ds = gradlab.open_results("recommendation.h5")
    >>> figure = gradlab.plots.recommendation(ds)
    """
    ds = checked(ds)
    if "error" not in ds or "candidate" not in ds.dims:
        raise ValueError("ds: expected the table of gradlab.recommend, got a Dataset without errors by candidate")
    if "checkpoint" in ds.dims:
        ds = ds.isel(checkpoint=-1)
    ds, at_tf = _at_one_tf(ds)
    ds = ds.isel(candidate=np.flatnonzero(np.isfinite(ds["error"].values)))
    ds = ds.isel(candidate=np.argsort(ds["error"].values, kind="stable"))
    best_of = dict(zip(ds["estimator"].values[::-1], range(ds.sizes["candidate"])[::-1], strict=True))
    if (chosen := np.flatnonzero(ds["candidate"].values.astype(str) == _chosen(ds))).size:
        best_of[ds["estimator"].values[chosen[0]]] = chosen[0]
    leaders = [int(best_of[name]) for name in dict.fromkeys(ds["estimator"].values)][:MOST_ROWS]
    varied = [str(ds["estimator"].values[k]) for k in leaders if _temperatures(ds, ds["estimator"].values[k]).size > 1]
    figure = Figure(figsize=(WIDTH, 1.3 + 0.19 * max(len(leaders), 8)), layout="constrained")
    axes = figure.subplots(1, 2 if varied else 1, squeeze=False)
    keep_panels(figure, axes, 2.9, [0.7 + 0.19 * len(leaders), 2.9][: axes.size])
    _rows(axes[0, 0], ds.isel(candidate=leaders), _label(ds))
    if varied:
        _against_tb(axes[0, 1], ds, varied[:MOST_SERIES], _label(ds))
    words = "orange: recommended; blue: within noise of it; rows stand at the tb of least error, or recommended"
    more = "" if len(varied) <= MOST_SERIES else f"beside them the {MOST_SERIES} of least error that have a tb"
    filled = "filled: within noise of the recommended" if varied else ""
    one = ds.drop_vars("draws", errors="ignore")
    one.attrs = {name: value for name, value in ds.attrs.items() if name not in ("estimator", "draws")}
    caption(figure, one, ds["error"], words, more, filled, first=_label(ds) + at_tf)
    return figure


def _at_one_tf(ds: xr.Dataset) -> tuple[xr.Dataset, str]:
    """The candidates at the tf of the choice, and words that say so where there are others."""
    if ds.tf.ndim == 0 or len(np.unique(ds.tf.values)) < 2:
        return ds, ""
    tf = float(ds.tf.values[list(map(str, ds.candidate.values)).index(_chosen(ds))])
    return ds.isel(candidate=np.nonzero(ds.tf.values == tf)[0]), f", at tf = {tf:g}"


def _chosen(ds: xr.Dataset) -> str:
    """The recommended candidate; of several models each has its own."""
    return str(ds["chosen"].item() if "chosen" in ds.coords else ds.attrs.get("chosen"))


def _label(ds: xr.Dataset) -> str:
    return f"matched error of {int(ds.attrs['averaged']):,} evaluations"


def _temperatures(ds: xr.Dataset, estimator: object) -> np.ndarray:
    """The finite tb of an estimator's candidates."""
    tb = ds["tb"].values[ds["estimator"].values == estimator]
    return np.unique(tb[np.isfinite(tb)])


def _rows(ax: Axes, ds: xr.Dataset, label: str) -> None:
    value, low, high = with_interval(ds, "error")
    names = [
        f"{name}, tb {tb:g}" if np.isfinite(tb) else str(name)
        for name, tb in zip(ds["estimator"].values, ds["tb"].values, strict=True)
    ]
    chosen = ds["candidate"].values.astype(str) == _chosen(ds)
    alike = ds["equivalent"].values > 0
    colours = np.where(chosen, BEST, np.where(alike, ALIKE, WORSE))
    for k, colour in enumerate(colours):
        ax.hlines(k, low[k], high[k], color=colour, lw=1.2)
        ax.plot(value[k], k, ls="", marker="D" if chosen[k] else "o", ms=4, color=colour)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, 1.02)
    ax.tick_params(labelsize=SMALL)
    ax.grid(axis="x", color="0.92", lw=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel(label, fontsize=FONT)


def _against_tb(ax: Axes, ds: xr.Dataset, names: list[str], label: str) -> None:
    entries = []
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        of = ds.isel(candidate=np.flatnonzero((ds["estimator"].values == name) & np.isfinite(ds["tb"].values)))
        of = of.isel(candidate=np.argsort(of["tb"].values))
        tb, (value, low, high), alike = of["tb"].values, with_interval(of, "error"), of["equivalent"].values > 0
        ax.fill_between(tb, low, high, color=colour, alpha=0.15, lw=0)
        ax.plot(tb, value, color=colour, lw=1.0)
        for among, face in ((alike, colour), (~alike, "white")):
            ax.plot(tb[among], value[among], ls="", marker=marker, ms=3.5, color=colour, mfc=face)
        entries.append(Line2D([], [], color=colour, marker=marker, ms=3.5, lw=1, label=name))
    temperature_axis(ax, np.unique(np.concatenate([_temperatures(ds, name) for name in names])))
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("backward temperature tb", fontsize=FONT)
    ax.set_ylabel(label, fontsize=FONT)
    key_above(ax, entries, 2, SMALL)
