"""Losses of trainings that differ in the KL term of their loss."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from .axes_style import FONT, SMALL, caption, long_name, value_axis
from .fitting import keep_panels, key_above
from .heatmaps import cell_facts, cells
from .lines import COLOURS, MARKERS
from .notebooks import Figure
from .sweep_figures import draw_losses
from .sweep_points import FINAL, MEAN, comparable, facts, loss_label, lowest, pairs, trained

TERMS = {"none": "without KL", "model": "KL(softmax(l))", "sampled": "KL(softmax(l/tf))"}
PUBLISHED = "published"


def losses_by_kl(ds: xr.Dataset) -> Figure:
    """The validation loss after training, mean over seeds, for each KL term of the training loss.

    A heatmap for each, on a colour scale of its own, as `losses` draws it; then all pairs of each by the size of their
    loss and, where the Dataset has them, published losses whose pairs are not known.

    Parameters
    ----------
    ds : sweeps with means over seeds along a dim kl, as `gradlab reproduce figure4-kl` writes them

    Raises
    ------
    ValueError
        Another Dataset, or one without the means.

    Examples
    --------
    >>> ds = gradlab.sweeps.with_means(gradlab.open_results("figure4-kl.h5"))
    >>> figure = gradlab.plots.losses_by_kl(ds)
    """
    terms = [str(kl) for kl in ds["kl"].values]
    each = [trained(ds.sel(kl=kl)) for kl in terms]
    figure = Figure(figsize=(8.2, 3.6 * math.ceil((len(each) + 1) / 2) + 0.8), layout="constrained")
    grid = figure.subplots(math.ceil((len(each) + 1) / 2), 2)
    keep_panels(figure, grid, 2.5, 2.4)
    axes = grid.ravel()
    for ax, one, kl in zip(axes, each, terms, strict=False):
        of = pairs(one)
        (best,) = lowest(of, comparable(of))
        shown = draw_losses(figure, ax, one, of, best)
        ax.set_title(f"trained {TERMS[kl]}" if kl == "none" else f"trained with {TERMS[kl]}", fontsize=FONT)
    _sorted(axes[len(each)], each, terms, ds)
    for ax in axes[len(each) + 1 :]:
        ax.remove()
    first = f"mean over seeds of the {long_name(ds[FINAL])}"
    lost = f"corner: seeds of {ds.sizes['seed']} that collapsed" if "collapsed" in ds and ds["collapsed"].any() else ""
    known = "published: cells of the paper's figure 4 (arXiv 2410.13331 v1) whose tf and tb are not known"
    more = (*cell_facts(each[0][MEAN], shown), lost, "thick outline: lowest mean", known if PUBLISHED in ds else "")
    trained_how = [fact for fact in facts(each[0], pairs(each[0])) if "interval" not in fact]
    caption(figure, each[0], each[0][FINAL], *trained_how, *more, first=first, intervals=False)
    return figure


def _sorted(ax: Axes, each: list[xr.Dataset], terms: list[str], ds: xr.Dataset) -> None:
    """All cells from the lowest to the highest, against the share of cells below."""
    drawn = []
    lines = [(TERMS[kl], cells([one[MEAN]]).compressed()) for kl, one in zip(terms, each, strict=True)]
    if PUBLISHED in ds:
        lines.append(("published", ds[PUBLISHED].to_numpy()))
    for (name, values), colour, marker in zip(lines, (*COLOURS[: len(each)], COLOURS[-1]), MARKERS, strict=False):
        values = np.sort(values)
        share = (np.arange(len(values)) + 0.5) / len(values)
        ax.plot(share, values, color=colour, marker=marker, ms=2.5, lw=0.8, label=f"{name} ({len(values)})")
        drawn.append(np.stack([values] * 3))
    value_axis(ax, "y", np.hstack(drawn), zero=False)
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("share of the cells, from the lowest", fontsize=FONT)
    ax.set_ylabel(loss_label(each[0][MEAN]), fontsize=FONT)
    key_above(ax, ax.get_legend_handles_labels()[0], 2, SMALL)
