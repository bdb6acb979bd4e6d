"""The comparison of a recommendation: the error of an average against the backward temperature, by estimator."""

from __future__ import annotations

import itertools

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from .axes_style import FONT, SMALL, WIDTH, temperature_axis
from .lines import COLOURS, MARKERS
from .selection import checked, with_interval

MOST_SERIES = 8


def recommendation(ds: xr.Dataset) -> Figure:
    """The error of an average against tb, a line for each estimator; without a tb, a level across.

    `ds` is the table of `gradlab.recommend`. The MOST_SERIES estimators with the smallest errors are drawn; of several
    tf, those at the tf of the choice.
    Raises ValueError for another Dataset.

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
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    ax = figure.add_subplot()
    labels = list(dict.fromkeys(str(label) for label in ds.estimator.values[np.argsort(ds.error.values)]))
    tbs = np.unique(ds.tb.values[np.isfinite(ds.tb.values)])
    looks = zip(labels[:MOST_SERIES], itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    for label, colour, marker in looks:
        of = ds.isel(candidate=np.nonzero(ds.estimator.values == label)[0])
        of = of.isel(candidate=np.argsort(of.tb.values))
        value, low, high = with_interval(of, "error")
        if np.isnan(of.tb.values).all():
            ax.axhspan(low[0], high[0], color=colour, alpha=0.15, lw=0)
            ax.axhline(value[0], color=colour, lw=1.2, ls="--", label=label)
        else:
            ax.fill_between(of.tb.values, low, high, color=colour, alpha=0.15, lw=0)
            ax.plot(of.tb.values, value, color=colour, marker=marker, ms=3.5, lw=1.2, label=label)
    if len(tbs):
        temperature_axis(ax, tbs)
    ax.set_xlabel(f"backward temperature tb{at_tf}", fontsize=FONT)
    ax.set_ylabel(f"matched error of {int(ds.attrs['averaged']):,} evaluations", fontsize=FONT)
    ax.set_ylim(0, 1.02)
    ax.legend(fontsize=SMALL, ncols=2, frameon=False)
    return figure


def _at_one_tf(ds: xr.Dataset) -> tuple[xr.Dataset, str]:
    """The candidates at the tf of the choice, and words that say so where there are others."""
    if ds.tf.ndim == 0 or len(np.unique(ds.tf.values)) < 2:
        return ds, ""
    chosen = ds.chosen.item() if "chosen" in ds.coords else ds.attrs["chosen"]
    tf = float(ds.tf.values[list(map(str, ds.candidate.values)).index(str(chosen))])
    return ds.isel(candidate=np.nonzero(ds.tf.values == tf)[0]), f", at tf = {tf:g}"
