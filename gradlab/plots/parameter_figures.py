"""Bias and standard deviation of the encoder's gradient, one row per parameter tensor."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..kinds import first_metrics
from ..schema import short_name
from .axes_style import FONT, SMALL, WIDTH, caption, value_axis
from .bias_figures import bias_of_one, by_estimator, fixed
from .lines import keys
from .notebooks import Figure
from .publishing import legend
from .selection import check_bias, chosen, described, least_drawn, panel_label, with_interval

_ROW = 0.22  # inches, at least; a mark takes 0.09


def parameters(ds: xr.Dataset, tf: float | None = None, tb: float | None = None, target: str | None = None) -> Figure:
    """The two first metrics of each tensor's gradient: relative bias (clipped at 0) and relative standard deviation.

    One row per parameter tensor of the encoder, from the input down, with its number of entries; all of them together
    above the line. Bars are the intervals of `ds`, colours estimators and checkpoints; markers are filled for the
    target law "sampled" and hollow for "model". Tensors whose exact gradient is 0 have no mark.

    Parameters
    ----------
    ds : what `gradlab.bias(..., wrt="encoder")` returns
    tf, tb : the point, from the grid; by default as for `bias_trends`
    target : the target law to draw; by default all there are

    Raises
    ------
    ValueError
        A Dataset of another analysis, a temperature or a target that is not in it.

    Examples
    --------
    >>> ds = gradlab.open_results("encoder.h5")
    >>> figure = gradlab.plots.parameters(ds)
    """
    if not isinstance(ds, xr.Dataset) or "parameter" not in ds.dims:
        raise ValueError(
            "ds: expected a Dataset of gradlab.bias(..., wrt='encoder'), got one without the dim parameter"
        )
    ds = chosen(ds, target=target, whole=False)
    check_bias(ds)
    names_drawn = first_metrics(ds)[:2]
    at = {"tf": fixed(ds, "tf", tf), "tb": fixed(ds, "tb", tb)}
    marked = by_estimator(ds.sel(at))
    names = [f"{name} ({int(n):,})" for name, n in zip(ds["parameter"].values, ds["entries"].values, strict=True)]
    height = max(_ROW, 0.09 * len(marked)) * len(names)
    size = WIDTH + 0.06 * max(0, max(map(len, names)) - 16), 1.7 + height + 0.05 * len(marked)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(names_drawn), sharey=True, squeeze=False)[0]
    rows = np.arange(len(names))
    for ax, name in zip(panels, names_drawn, strict=True):
        drawn = [with_interval(one.data, name, least_drawn(ds, name)) for one in marked]
        for position, (one, (value, low, high)) in enumerate(zip(marked, drawn, strict=True)):
            y = rows + 0.6 * ((position + 0.5) / len(marked) - 0.5)
            ax.hlines(y, low, high, color=one.colour, lw=1.2)
            ax.plot(value, y, **one.marks(ms=3.5))
        ax.axhline(0.5, color="0.6", lw=0.6)
        ax.set_xlabel(panel_label(ds, name, width=40), fontsize=FONT)
        ax.grid(axis="x", color="0.9", lw=0.6)
        value_axis(ax, "x", np.hstack(drawn))
    panels[0].set_yticks(rows, names)
    panels[0].tick_params(axis="y", labelsize=SMALL, length=0)
    panels[-1].tick_params(axis="y", length=0)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    legend(figure, [*keys(marked), *bias_of_one(list(zip(panels, names_drawn, strict=True)), "x")])
    lead = names_drawn[0]
    point = ", ".join(f"{name} = {value:g}" for name, value in at.items())
    what = f"{short_name(ds, lead)}: {described(ds, lead)}"
    caption(figure, ds, ds[lead], "in brackets: entries", what, first=point)
    return figure
