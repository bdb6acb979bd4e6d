"""Attributes of a result: versions, model, observations, noise, and the method of its intervals."""

from __future__ import annotations

from typing import Any

import xarray as xr

from .. import likelihoods, results
from ..attributes import of_groups, of_parameters, stored
from ..methods import Integrated, MonteCarlo
from ..model import LatentModel
from ..sampling import batch_bounds
from ..setup import Setup
from .request import Request

JACKKNIFE = "95 %, delete-one-batch jackknife over batches of draws, Student's t"
INTERVALS = (
    f"{JACKKNIFE}, inverting tests where the sampling noise is subtracted; where it is included, of the metric at this"
    " number of draws"
)
OVER_EXAMPLES = "95 %, delta method over examples, Student's t; they contain the noise of the draws"
ONE_EXAMPLE = "none: one example has no spread"
NO_SUM = "none: the norm of a gradient that is a mean over examples depends on their number"
NUMERICAL = "twice the estimated numerical error of the moments"


def attributes(analysis: str, setup: Setup, draws: int | None, **more: Any) -> dict[str, Any]:
    """Attributes of any analysis: versions, model, observations, noise. `draws` is None for moments without draws."""
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
        **(of_groups(model.groups.sizes) if model.groups else {}),
        latent_kind=model.kind.name,
        **({} if model.top_k is None else {"top_k": model.top_k}),
        examples=len(x),
        data="given as a tensor",
        data_sha256=results.tensor_sha256(x),
        checkpoint="given as a model",
        checkpoint_sha256="",
        intervals=INTERVALS if draws else NUMERICAL,
        population_intervals=OVER_EXAMPLES if len(x) > 1 else ONE_EXAMPLE,
    )


def attributes_of(setup: Setup, request: Request, draws: int | None) -> dict[str, Any]:
    """Attributes of an analysis of bias. `draws` is None for moments without draws."""
    costs = [e.evaluations_at(setup.kind, setup.logits) for e in request.estimators]
    own = [{k: v for k, v in e.parameters.items() if k not in ("tf", "tb")} for e in request.estimators]
    about = attributes(
        "bias",
        setup,
        draws,
        estimator=stored(request.labels),
        estimator_parameters=stored([of_parameters(one) for one in own]),
        equal_cost=int(isinstance(request.moments, MonteCarlo) and request.moments.equal_cost),
        evaluations=stored(costs),
        target=request.targets[0] if "target" in request.dropped else "both",
        moments="exact" if isinstance(request.moments, Integrated) else "monte-carlo",
        reference="exact",
        wrt=request.wrt,
        kl=int(request.kl),
    )
    if all(e.law == "model" for e in request.estimators):
        about["law"] = "softmax(l), whatever tf"  # of the codes, so that target "sampled" is that of softmax(l)
    if request.wrt == "encoder":
        about["population_intervals"] = NO_SUM
    if request.cross is not None:
        about |= {"tf_fixed": request.cross[0], "tb_fixed": request.cross[1]}
    return about


def with_groups(ds: xr.Dataset, model: LatentModel) -> xr.Dataset:
    """The Dataset with the name of each latent's group, if the model has groups."""
    if model.groups is None or "latent" not in ds.dims:
        return ds
    named = ("latent", model.groups.of_latents, {"long_name": "group of latents", "units": "1"})
    return ds.assign_coords(group=named)
