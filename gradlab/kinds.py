"""The kinds of analysis: how to tell them, along which dims their points stand, what draws them.

`gradlab show`, `plot` and `report` go by this table, so that whatever gradlab writes they take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import xarray as xr

from .schema import ABOUT_SAMPLING, POINT_DIMS, along, is_end, is_metric, ranked, variable

FINAL = "final_validation_loss"
SHOWN = 3  # metrics in short tables and headlines
LEAST_GRID = 4  # temperatures a side, from which on a heatmap is drawn


@dataclass(frozen=True)
class Drawing:
    """A figure of a result: its title, and the function of `gradlab.plots` that draws it."""

    title: str
    function: str


@dataclass(frozen=True)
class Kind:
    """A kind of analysis.

    Parameters
    ----------
    name : what `attrs["analysis"]` says, or what tells it from others of that name
    title : for a page
    drawings : what suits a Dataset, what `gradlab plot` draws first
    point_dims : along which its points stand; any of them may be missing
    of_trainings : whether it is made of losses, over seeds
    """

    name: str
    title: str
    drawings: Callable[[xr.Dataset], list[Drawing]]
    point_dims: tuple[str, ...] = POINT_DIMS
    of_trainings: bool = False


def _of_bias(ds: xr.Dataset) -> list[Drawing]:
    if "parameter" in ds.dims:
        return [Drawing("Bias and standard deviation of each parameter tensor", "parameters")]
    sizes = [ds.sizes.get(name, 1) for name in ("tf", "tb")]
    if max(sizes) == 1:
        return [Drawing("Bias and standard deviation", "comparison")]
    if min(sizes) < LEAST_GRID or not bool(ds[first_metrics(ds)[0]].notnull().all()):
        return [Drawing("Bias and standard deviation", "bias_trends")]
    trends = Drawing("Bias and standard deviation along each temperature", "bias_trends")
    return [Drawing("Bias over the temperatures", "heatmap"), trends]


def _of_sweep(ds: xr.Dataset) -> list[Drawing]:
    schedules = any(ds[name].dtype.kind not in "fiu" for name in ("tf", "tb") if name in ds.coords)
    after = Drawing("Validation loss after training", "schedules" if schedules else "losses")
    return [after, Drawing("Validation loss by epoch", "training_curves")]


def _of_fidelity(ds: xr.Dataset) -> list[Drawing]:
    return [Drawing("Fidelity of gradients and the loss they lead to", "fidelity_and_loss"), *_of_sweep(ds)]


def _always(*drawings: Drawing) -> Callable[[xr.Dataset], list[Drawing]]:
    return lambda ds: list(drawings)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("bias", "Bias and variance", _of_bias),
        Kind("gap", "Gradient gap", _always(Drawing("Gradient gap", "gap"))),
        Kind("bias-along-training", "Bias along a training", _always(Drawing("Bias along the training", "tracked"))),
        Kind("gap-along-training", "Gap along a training", _always(Drawing("Gap along the training", "tracked"))),
        Kind(
            "recommendation",
            "Which estimator, which temperature",
            _always(Drawing("Error of an average, by candidate", "recommendation")),
            ("checkpoint", "candidate"),
        ),
        Kind("gap-and-bias", "Gap and bias", _always(Drawing("Bias against the gap", "gap_and_bias"))),
        Kind("sweep", "Sweep", _of_sweep, ("tf", "tb"), True),
        Kind("sweep cell", "A training of a sweep", _of_sweep, ("tf", "tb"), True),
        Kind(
            "sweep-by-kl",
            "Sweeps by KL term",
            _always(Drawing("Validation loss for each KL term", "losses_by_kl")),
            ("tf", "tb"),
            True,
        ),
        Kind("fidelity-and-loss", "Fidelity and loss", _of_fidelity, ("tf", "tb"), True),
    )
}


def kind(ds: xr.Dataset) -> Kind:
    """The kind of a Dataset, by what it says of itself or, where it says nothing, by what it holds.

    Raises ValueError for a Dataset of something else.
    """
    named = str(ds.attrs.get("analysis", "")) or _by_content(ds)
    if named == "sweep":
        named = "fidelity-and-loss" if "matched_error" in ds else "sweep-by-kl" if "kl" in ds.dims else named
    if named not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"results: expected a file that gradlab wrote, of {known}, got analysis {named[:80]!r}")
    return KINDS[named]


def _by_content(ds: xr.Dataset) -> str:
    bias, gap = "relative_bias_debiased" in ds, "gap" in ds
    if FINAL in ds:
        return "sweep"
    if bias and gap:
        return "gap-and-bias"
    along_training = "-along-training" if along(ds) else ""
    return f"{'bias' if bias else 'gap'}{along_training}" if bias or gap else ""


def point_dims(ds: xr.Dataset) -> list[str]:
    """Dims along which the points of a result stand."""
    return [dim for dim in kind(ds).point_dims if dim in ds.dims]


def metric_names(ds: xr.Dataset) -> list[str]:
    """Names of what every point has one of, without ends of intervals and what is about sampling: metrics first of all.

    A metric that does not depend on some of the dims counts too, as the bias does beside two definitions of the gap.
    """
    dims = set(point_dims(ds))
    found = []
    for name in map(str, ds.data_vars):
        whole = set(variable(ds, name).dims)
        of_point = whole == dims or (is_metric(ds, name) and whole < dims)
        if of_point and variable(ds, name).dtype.kind in "fiub" and name not in ABOUT_SAMPLING and not is_end(ds, name):
            found.append(name)
    return found


def first_metrics(ds: xr.Dataset) -> list[str]:
    """Names of the metrics to show first, those of the lowest ranks. Raises ValueError where there are none."""
    found = ranked(ds, metric_names(ds))
    if not found:
        raise ValueError(f"results: expected metrics over {', '.join(point_dims(ds)) or 'one point'}, got none")
    return found[:SHOWN]
