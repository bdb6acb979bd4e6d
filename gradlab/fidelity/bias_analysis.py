"""The function `bias`: it parses the request, prepares the model, measures, and returns the Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr

from .. import errors
from ..cautions import SamplingWarning, of_sampling
from ..estimators import Estimator
from ..methods import Compute, Enumerated, Integrated, MonteCarlo, Sampled
from ..model import LatentModel, check_is_model
from ..moved import moved
from ..numerics import plain_arithmetic
from ..programs.program import Program
from ..setup import prepare
from .encoder_gradients import encoder_parameters
from .enumerated_analysis import bias_by_enumeration
from .labels import with_groups
from .program_analysis import bias_of_program
from .reference_analysis import bias_by_reference
from .request import requested
from .room import check_room

_MOVED = {
    **{name: f"compute=gradlab.Compute({name}={{}})" for name in ("device", "dtype", "tf32", "memory")},
    "shown": "compute=gradlab.Compute(progress={})",
    "exact_dtype": "reference=gradlab.Enumerated(dtype={})",
    "limit": "reference=gradlab.Enumerated(max_configurations={})",
    "precision": "reference=gradlab.Sampled('auto', precision={})",
    "max_draws": "reference=gradlab.Sampled('auto', precision=..., max_draws={})",
    "equal_cost": "moments=gradlab.MonteCarlo(equal_cost={})",
    "route": "moments=gradlab.MonteCarlo(decoder={})",
}


@moved(_MOVED)
def bias(
    model: LatentModel | Program,
    x: Any,
    tf: float | Sequence[float] = 1.0,
    tb: float | Sequence[float] | None = None,
    *,
    estimator: str | Estimator | Sequence[str | Estimator] = "decoupled-st-gs",
    draws: int | None = None,
    target: str = "sampled",
    seed: int = 0,
    wrt: str | None = None,
    moments: str | MonteCarlo | Integrated = "monte-carlo",
    reference: str | Estimator | Enumerated | Sampled = "auto",
    compute: Compute | None = None,
    cross: tuple[float, float] | None = None,
    kl: bool = False,
) -> xr.Dataset:
    """Bias and variance of gradient estimators against the exact gradient, for every pair of temperatures.

    If the code space is too large to enumerate, the reference is an unbiased estimator: with estimates e and references
    r of independent draws, E[(e1 - r1).(e2 - r2)] is the squared bias for any number of draws.

    Parameters
    ----------
    model : LatentModel, or Program: gradients are then those of its parameters (see Returns, wrt="encoder")
    x : observations (example, ...); of a Program a tensor, or a dict or tuple of tensors
    tf, tb : forward and backward temperatures, a number or a sequence; tb defaults to the values of tf
    estimator : a name such as "reinmax" or "rloo:n=4", an Estimator (its temperatures are replaced by the grid's), or a
        list of these
    draws : estimates per point, by default 1024; short for moments=MonteCarlo(draws=...)
    target : law whose expected loss the exact gradient differentiates: "sampled" softmax(l/tf), "model" softmax(l),
        or "both", which adds a dim `target`
    seed : the same seed gives the same numbers for any chunk size; the global random state is not touched
    wrt : "logits": gradients with respect to the logits. "encoder": gradients with respect to the encoder's parameters,
        of the expected loss averaged over examples, as in a training step; one result per parameter tensor. By default
        "logits"
    moments : how to compute mean and variance of the estimates. "monte-carlo" or MonteCarlo: from draws. "exact" or
        Integrated: by enumeration of the codes; the Gumbel family also needs integrals over the noise of one latent,
        with an estimated numerical error. gumbel-softmax, rebar, disarm, arms and running means have no exact moments
    reference : what the estimates are compared with. "exact" or Enumerated: the enumerated gradient. The name of an
        unbiased estimator ("rloo", "disarm", "arms:n=4", ...) or Sampled: that estimator's mean. "auto": Enumerated for
        up to 2^24 configurations, Sampled("auto") for more
    compute : Compute: device, precision, memory, progress bar
    cross : measure only the pairs with tf = cross[0] or tb = cross[1]; all other pairs are NaN (figure 6)
    kl : add the gradient of the KL term to both the exact and the mean gradient

    Returns
    -------
    Dataset with dims tf, tb, example, latent, category. A list of estimators adds the dim estimator; binary latents
    have no dim category.
    `exact_gradient`, `mean_gradient` and `std_gradient` hold one value per coordinate, in the loss's unit per logit.
    `exact_norm` and the metrics of `gradlab.metrics` hold one value per point; norms are over example, latent and
    category. Each sampled metric NAME has a 95 % interval from batches of draws, NAME_low to NAME_high. If a metric's
    long_name says that sampling noise is included, its interval is that of the metric at this number of draws.
    Each metric NAME of unit 1 also has a 95 % interval for the data distribution, NAME_population_low to
    NAME_population_high: examples as a sample, the noise of the draws included; NaN with one example.
    `effective_examples` is the number of examples that carry the exact gradient's norm, and `example_replicates` holds
    each metric without each example in turn.
    `expected_count`, `unseen`, `rare_examples` and `certain_examples` say where draws miss what carries the gradient.
    There, moments of code-only estimators and of leg are enumerated in spaces of up to 2^14 configurations;
    `enumerated` marks these points. `replicates` holds each metric without each batch in turn. Use it for
    differences between temperatures (`gradlab.fidelity.differences.change`): temperatures share their noise, so
    intervals of differences are narrower. With moments="exact" there are no replicates, the interval is the value ±
    twice the estimated numerical error, and `mean_numerical_error` and `std_numerical_error` hold that error.

    With wrt="encoder", the dim `parameter` holds "all" and the name of each encoder tensor that requires gradients;
    `entries` are the sizes of these tensors. Metrics, `exact_norm` and `replicates` are those of
    G = (1/B) sum_b J_b^T g_b over the B examples, with J = d logits / d parameters, in the loss's unit per parameter;
    norms are over the entries of a tensor. There are no arrays per coordinate or example. Means are pulled back in
    float64, deviations of draws in the precision of the draws. If encoder and decoder share a tensor, only its effect
    on the logits counts. Tensors that do not affect the logits have the value 0.

    Raises
    ------
    ValueError
        Invalid temperatures, draws, names, shapes or values; methods that cannot be combined. SpaceTooLarge (a
        ValueError): the code space is too large for reference="exact" or moments="exact".

    Warns
    -----
    UserWarning
        `max_draws` did not give the requested precision, or `draws` is rounded up to whole batches.
    SamplingWarning
        From `gradlab.cautions`, a UserWarning: all codes are certain, or draws rarely show the categories that carry
        the exact gradient.

    Source: section 5.2.2, figure 6 and appendix C of the Decoupled ST-GS paper.

    Examples
    --------
    >>> import gradlab
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample", "test").first(4).floats()
    >>> ds = gradlab.bias(model, x, tf=1.6, tb=[0.9, 1.3], draws=64)
    >>> dict(ds.relative_bias_debiased.sizes)
    {'tf': 1, 'tb': 2}
    """
    if isinstance(model, Program):
        ds = bias_of_program(
            model,
            x,
            tf,
            tb,
            estimator=estimator,
            draws=draws,
            target=target,
            seed=seed,
            wrt=wrt,
            moments=moments,
            reference=reference,
            compute=compute,
            cross=cross,
            kl=kl,
        )
        return _warned(ds)
    check_is_model(model)
    request = requested(
        model,
        tf,
        tb,
        estimator=estimator,
        draws=draws,
        target=target,
        wrt=wrt or "logits",
        moments=moments,
        reference=reference,
        cross=cross,
        kl=kl,
    )
    if request.wrt == "encoder":
        encoder_parameters(model)  # refused before anything is drawn or enumerated
    compute = compute or Compute()
    with plain_arithmetic(compute.tf32):
        setup = prepare(model, x, compute, seed)
        check_room(setup, request)
        measured = bias_by_enumeration if isinstance(request.reference, Enumerated) else bias_by_reference
        ds = measured(setup, request)
    ds.attrs["tf32"] = int(compute.tf32)
    return _warned(with_groups(ds, model))


def _warned(ds: xr.Dataset) -> xr.Dataset:
    for sentence in of_sampling(ds):
        errors.warn(sentence, SamplingWarning)
    return ds
