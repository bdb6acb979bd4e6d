"""Figures of results: they select, clip for display and draw; they compute no statistic and show nothing."""

from __future__ import annotations

from pathlib import Path, PurePath

import xarray as xr
from matplotlib.figure import Figure

from .. import files
from .bias_figures import bias_trends, comparison
from .fidelity_figures import fidelity_and_loss
from .gap_figures import gap
from .heatmaps import heatmap
from .kl_figures import losses_by_kl
from .parameter_figures import parameters
from .pictures import reconstructions
from .relation_figures import gap_and_bias
from .selection import check_bias, check_dataset, chosen
from .sweep_figures import losses, schedules
from .sweep_points import FINAL, has_schedules
from .tracked_figures import tracked, training_curves

FORMATS = ("png", "pdf", "svg")

__all__ = [
    "FORMATS",
    "auto",
    "bias_trends",
    "comparison",
    "fidelity_and_loss",
    "gap",
    "gap_and_bias",
    "heatmap",
    "losses",
    "losses_by_kl",
    "parameters",
    "reconstructions",
    "save",
    "schedules",
    "tracked",
    "training_curves",
]


def auto(ds: xr.Dataset, target: str | None = None) -> Figure:
    """The figure that suits a Dataset.

    `comparison` for one point, `heatmap` of the relative bias for a full grid of at least 4 x 4,
    `bias_trends` for all else; `parameters` for gradients with respect to the encoder; for a gap analysis `gap`;
    for a sweep `losses`, `schedules` where there are any, `losses_by_kl` where there are several KL terms,
    `fidelity_and_loss` where fidelity is set beside the loss;
    for bias or gap along a training `tracked`. `target` is the target law of bias to draw, by default all there are.
    Raises ValueError as these do.

    Examples
    --------
    >>> ds = gradlab.open_results("gap.h5")
    >>> figure = gradlab.plots.auto(ds)
    """
    check_dataset(ds)
    if "matched_error" in ds:
        return fidelity_and_loss(ds)
    if FINAL in ds and "kl" in ds.dims:
        return losses_by_kl(ds)
    if FINAL in ds:
        return schedules(ds) if has_schedules(ds) else losses(ds)
    if "epoch" in ds.dims:
        return tracked(ds)
    if ds.attrs.get("analysis") == "gap-and-bias":
        return gap_and_bias(ds)
    if "parameter" in ds.dims:
        return parameters(ds, target=target)
    ds = chosen(ds)
    if ds.attrs.get("analysis") == "gap" or "gap" in ds:
        return gap(ds)
    check_bias(ds)
    if ds.sizes["tf"] * ds.sizes["tb"] == 1:
        return comparison(ds, target)
    if min(ds.sizes["tf"], ds.sizes["tb"]) >= 4 and bool(ds["relative_bias_debiased"].notnull().all()):
        return heatmap(ds, "relative_bias_debiased", target)
    return bias_trends(ds, target=target)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, whole or not at all.

    Raises ValueError for another suffix, OSError where it cannot be written.

    Examples
    --------
    >>> figure = gradlab.plots.auto(gradlab.open_results("bias.h5"))
    >>> gradlab.plots.save(figure, "bias.png")
    """
    suffix = PurePath(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        endings = ", ".join(f".{known}" for known in FORMATS)
        raise ValueError(f"path: got {str(path)!r}; a name that ends in one of {endings} would do")
    with files.written_aside(path) as aside:
        figure.savefig(aside, format=suffix, dpi=200)
