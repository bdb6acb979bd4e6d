"""The thin xarray layer of the analyses: names of dims, variables with their intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .. import likelihoods, results
from ..methods import Integrated, MonteCarlo
from ..model import LatentModel
from ..sampling import batch_bounds
from ..setup import Setup
from . import metrics
from .metrics import METRICS, Metric
from .request import Request

JACKKNIFE = "95 %, delete-one-batch jackknife over batches of draws, Student's t"
INTERVALS = (
    f"{JACKKNIFE}, inverting tests where the sampling noise is subtracted; where it is included, of the figure at this"
    " number of draws"
)
NUMERICAL = "twice the estimated numerical error of the moments"
COORDINATES = ("example", "latent", "category")


def attributes(analysis: str, setup: Setup, draws: int | None, **more: Any) -> dict[str, Any]:
    """What every analysis says of itself: versions, model, observations, noise (draws None: moments without any)."""
    model, x, logits = setup.original, setup.x, setup.logits
    drawn = {"draws": draws, "draws_per_batch": draws // (len(batch_bounds(draws)) - 1)} if draws else {}
    return results.stamp(
        analysis=analysis,
        seed=setup.seed,
        device=str(logits.device),
        dtype=str(logits.dtype).removeprefix("torch."),
        **drawn,
        **more,
        loss=likelihoods.name_of(model.likelihood),
        unit=likelihoods.unit_of(model.likelihood),
        latents=model.latents,
        categories=model.categories,
        **({"groups": json.dumps(model.groups.sizes)} if model.groups else {}),
        latent_kind=model.kind.name,
        examples=len(x),
        data="given as a tensor",
        data_sha256=results.tensor_sha256(x),
        checkpoint="given as a model",
        checkpoint_sha256="",
        intervals=INTERVALS if draws else NUMERICAL,
    )


def attributes_of(setup: Setup, request: Request, draws: int | None) -> dict[str, Any]:
    """What an analysis of bias says of itself; `draws` None: moments without any."""
    listed = "estimator" not in request.dropped
    costs = [e.evaluations_at(setup.kind, setup.logits) for e in request.estimators]
    own = [{k: v for k, v in e.parameters.items() if k not in ("tf", "tb")} for e in request.estimators]
    about = attributes(
        "bias",
        setup,
        draws,
        estimator=json.dumps(request.labels if listed else request.labels[0]),
        estimator_parameters=json.dumps(own),
        equal_cost=int(isinstance(request.moments, MonteCarlo) and request.moments.equal_cost),
        evaluations=json.dumps(costs if listed else costs[0]),
        target=request.targets[0] if "target" in request.dropped else "both",
        moments="exact" if isinstance(request.moments, Integrated) else "monte-carlo",
        reference="exact",
        wrt=request.wrt,
        kl=int(request.kl),
    )
    if request.cross is not None:
        about |= {"tf_fixed": request.cross[0], "tb_fixed": request.cross[1]}
    return about


def dataset(
    variables: Mapping[str, Any], coords: Mapping[str, Any], attrs: Mapping[str, Any], without: Sequence[str]
) -> xr.Dataset:
    """The Dataset of variables and coordinates (dims, values, attributes), `without` some dims of length one."""

    def left(dims: str | Sequence[str], values: Any, attributes: dict[str, str]) -> tuple[list[str], Any, Any]:
        dims = [dims] if isinstance(dims, str) else list(dims)
        at = tuple(0 if dim in without else slice(None) for dim in dims)
        return [dim for dim in dims if dim not in without], np.asarray(values)[at], attributes

    kept = {name: left(*of) for name, of in coords.items() if name not in without}
    return xr.Dataset({name: left(*of) for name, of in variables.items()}, kept, attrs)


def with_groups(ds: xr.Dataset, model: LatentModel) -> xr.Dataset:
    """The Dataset with the name of each latent's group, where the model has groups."""
    if model.groups is None or "latent" not in ds.dims:
        return ds
    named = ("latent", model.groups.of_latents, {"long_name": "group of latents", "units": "1"})
    return ds.assign_coords(group=named)


def with_interval(name: str, dims: Sequence[str], values: np.ndarray, attributes: dict[str, str]) -> dict[str, Any]:
    """Variables NAME, NAME_low, NAME_high from an array whose last axis holds the three."""
    ends = {"": "", "_low": "lower end of the 95 % interval of ", "_high": "upper end of the 95 % interval of "}
    return {
        name + suffix: (dims, values[..., k].copy(), attributes | {"long_name": words + attributes["long_name"]})
        for k, (suffix, words) in enumerate(ends.items())
    }


def figure_variables(
    figures: Mapping[str, np.ndarray],
    dims: Sequence[str],
    of_gradient: str,
    aggregation: str,
    records: Mapping[str, Metric] = METRICS,
) -> dict[str, Any]:
    """Variables with their intervals of the metrics in `records`, `of_gradient` being the unit of a gradient."""
    units = {metrics.NONE: "1", metrics.GRADIENT: of_gradient, metrics.SQUARED: f"({of_gradient})^2"}
    variables: dict[str, Any] = {}
    for name, values in figures.items():
        metric = records[name]
        named = {"long_name": metric.long_name, "units": units[metric.unit], "aggregation": aggregation}
        variables |= with_interval(name, dims, values, named)
    return variables


def coordinate(name: str, values: Any, long_name: str = "") -> tuple[str, Any, dict[str, str]]:
    """An index along the dim of its own name."""
    return name, values, {"long_name": long_name or name, "units": "1"}


def temperatures(tfs: list[float], tbs: list[float]) -> dict[str, Any]:
    """The coordinates tf and tb."""
    return {
        "tf": coordinate("tf", tfs, "forward temperature"),
        "tb": coordinate("tb", tbs, "backward temperature"),
    }
