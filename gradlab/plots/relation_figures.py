"""The gradient gap against the bias over a grid of temperatures."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .axes_style import FONT, SMALL, caption, log_ticks, value_axis
from .fitting import keep_panels
from .notebooks import Figure
from .publishing import legend
from .selection import checked, units, with_interval

COLUMNS = {"gap": "gap", "relative_gap_pooled": "relative gap"}
BIAS = "relative_bias_debiased"


def gap_and_bias(ds: xr.Dataset) -> Figure:
    """Relative bias (up) against the gap (right), raw and relative, a row per model, a column per definition and gap.

    One colour per tf; lines go along tb, from its least, a hollow marker, on. With the intervals of `ds`. Were the gap
    a stand-in for the bias, all lines of a panel would rise together.

    Parameters
    ----------
    ds : of the analysis gap-and-bias, dims model, definition, tf, tb

    Raises
    ------
    ValueError
        Another Dataset.
    """
    ds = checked(ds)
    missing = [name for name in (BIAS, *COLUMNS) if name not in ds or not {"tf", "tb"} <= set(ds[name].dims)]
    if missing or not {"model", "definition"} <= set(ds.dims):
        raise ValueError(f"ds: expected a Dataset of gap-and-bias, got one without {', '.join(missing) or 'models'}")
    panels = [(definition, name) for definition in ds.definition.values for name in COLUMNS]
    figure = Figure(figsize=(2.1 * len(panels), 2.2 * ds.sizes["model"] + 1.2), layout="constrained")
    axes = figure.subplots(ds.sizes["model"], len(panels), squeeze=False, sharey="row")
    keep_panels(figure, axes, 1.6, 2.0)
    colours = colormaps["viridis"](np.linspace(0, 0.9, ds.sizes["tf"]))
    for row, model in enumerate(ds.model.values):
        for column, (definition, name) in enumerate(panels):
            _panel(axes[row, column], ds.sel(model=model, definition=definition), name, colours)
            if row == 0:
                axes[row, column].set_title(str(definition), fontsize=FONT)
        axes[row, 0].set_ylabel(f"{model}\nrelative bias", fontsize=FONT)
    keys = [
        Line2D([], [], color=colour, marker="o", ms=3, lw=1, label=f"tf {tf:g}")
        for colour, tf in zip(colours, ds.tf.values, strict=True)
    ]
    keys.append(Line2D([], [], color="0.4", marker="o", ms=4, mfc="white", lw=0, label=f"tb {ds.tb.values.min():g}"))
    legend(figure, keys)
    caption(figure, ds, ds[BIAS], "lines go along tb; bias clipped at 0")
    return figure


def _panel(ax: Axes, one: xr.Dataset, name: str, colours: np.ndarray) -> None:
    across, up = [], []
    power = math.floor(math.log10(float(abs(one[name]).max()) or 1))
    power = power if power < -2 else 0
    unit, word = 10.0**power, f"1e{power} " if power else ""
    for colour, tf in zip(colours, one.tf.values, strict=True):
        line = one.sel(tf=tf).sortby("tb")
        x, y = with_interval(line, name) / unit, with_interval(line, BIAS)
        ax.plot(x[0], y[0], color=colour, lw=1, marker="o", ms=3)
        ax.plot(x[0, 0], y[0, 0], color=colour, marker="o", ms=4, mfc="white", zorder=3)
        ax.hlines(y[0], x[1], x[2], color=colour, lw=0.8)
        ax.vlines(x[0], y[1], y[2], color=colour, lw=0.8)
        across.append(x)
        up.append(y)
    if name == "gap":
        ax.tick_params(labelsize=SMALL)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    else:
        ax.set_xscale("log")
        log_ticks(ax.xaxis, np.hstack(across)[0])
    value_axis(ax, "y", np.hstack(up))
    of_unit = f" ({word}{one[name].attrs.get('units', '1')})" if word else units(one[name])
    ax.set_xlabel(f"{COLUMNS[name]}{of_unit}", fontsize=SMALL + 0.5)
    ax.grid(color="0.92", lw=0.5)
