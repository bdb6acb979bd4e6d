"""Figures of results: they select, clip for display and draw; they compute no statistic and show nothing."""

from __future__ import annotations

from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from ..kinds import Drawing, first_metrics, kind
from .bias_figures import bias_trends, comparison
from .fidelity_figures import fidelity_and_loss
from .gap_figures import gap
from .heatmaps import heatmap
from .kl_figures import losses_by_kl
from .parameter_figures import parameters
from .pictures import reconstructions
from .publishing import FORMATS, SIZES, caption_of, save
from .recommendation_figures import recommendation
from .relation_figures import gap_and_bias
from .selection import checked
from .sweep_figures import losses, schedules
from .tracked_figures import tracked, training_curves
from .tradeoff_figures import tradeoff

WITH_TARGET = ("bias_trends", "comparison", "heatmap", "parameters", "tradeoff")

__all__ = [
    "FORMATS",
    "SIZES",
    "auto",
    "bias_trends",
    "caption_of",
    "comparison",
    "draw",
    "fidelity_and_loss",
    "gap",
    "gap_and_bias",
    "heatmap",
    "losses",
    "losses_by_kl",
    "parameters",
    "recommendation",
    "reconstructions",
    "save",
    "schedules",
    "tracked",
    "tradeoff",
    "training_curves",
]


def auto(ds: xr.Dataset, target: str | None = None) -> Figure:
    """The figure that suits a Dataset.

    `comparison` for one point, `heatmap` of the leading metric for a full grid of at least 4 x 4,
    `bias_trends` for all else; `parameters` for gradients with respect to the encoder; for a gap analysis `gap`;
    for a sweep `losses`, `schedules` where there are any, `losses_by_kl` where there are several KL terms,
    `fidelity_and_loss` where fidelity is set beside the loss;
    for bias or gap along a training `tracked`. `target` is the target law of bias to draw, by default all there are.
    Raises ValueError as these do, and for a Dataset of no kind that gradlab makes.

    Examples
    --------
    >>> ds = gradlab.open_results("gap.h5")
    >>> figure = gradlab.plots.auto(ds)
    """
    ds = checked(ds)
    return draw(ds, kind(ds).drawings(ds)[0], target)


def draw(ds: xr.Dataset, drawing: Drawing, target: str | None = None) -> Figure:
    """One of the drawings that `gradlab.kinds` lists for a Dataset. Raises ValueError as its function does."""
    given: dict[str, Any] = {"target": target} if drawing.function in WITH_TARGET else {}
    if drawing.function == "heatmap":
        given["variable"] = first_metrics(ds)[0]
    figure: Figure = globals()[drawing.function](ds, **given)
    return figure
