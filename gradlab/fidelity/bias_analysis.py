"""Bias and variance over grids of temperatures: exact gradient, sampled moments, figures -> Dataset."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import xarray as xr

from .. import errors, estimators
from ..cautions import SamplingWarning, of_sampling
from ..estimators import Estimator
from ..exact import LIMIT, TARGETS, check_enumerable, check_precision, kl_gradient
from ..model import LatentModel, check_is_model, encode, measured_copy, observations
from ..moments import check_supported
from ..numerics import plain_arithmetic, precision_and_place, working_memory
from ..sampling import ROUTES
from . import encoder_analysis
from .enumerated_analysis import bias_by_enumeration
from .labels import attributes, with_groups
from .rarity import rarity
from .reference import MOST_DRAWS, Goal, rounded
from .reference_analysis import AUTO, EXACT, bias_by_reference, resolve


def bias(
    model: LatentModel,
    x: Any,
    tf: float | Sequence[float] = 1.0,
    tb: float | Sequence[float] | None = None,
    *,
    estimator: str | Estimator | Sequence[str | Estimator] = "decoupled-st-gs",
    draws: int = 1024,
    target: str = "sampled",
    seed: int = 0,
    moments: str = "monte-carlo",
    reference: str | Estimator = "auto",
    precision: float | None = None,
    max_draws: int = MOST_DRAWS,
    wrt: str = "logits",
    cross: tuple[float, float] | None = None,
    equal_cost: bool = False,
    kl: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    exact_dtype: torch.dtype = torch.float64,
    tf32: bool = False,
    limit: int = LIMIT,
    memory: int | None = None,
    route: str = "auto",
    shown: bool = False,
) -> xr.Dataset:
    """Bias and variance of gradient estimators against the exact gradient, for every pair of temperatures.

    Where the code space is too large to enumerate, against an unbiased reference: with estimates e and reference r of
    independent draws, E[(e1 - r1).(e2 - r2)] is the squared bias, at any number of draws.

    Parameters
    ----------
    model : LatentModel
    x : observations (example, ...)
    tf, tb : forward and backward temperatures, a number or a sequence; tb defaults to the values of tf
    estimator : a name, an Estimator (its temperatures are replaced by the grid's), or a list of these
    draws : estimates per point, at least 2
    target : law whose expected loss the exact gradient differentiates: "sampled" softmax(l/tf), "model" softmax(l),
        or "both", which adds a dim `target`
    seed : the same seed gives the same numbers, whatever the chunks; the global random state is not touched
    moments : "monte-carlo", from draws, or "exact", without any: enumeration of the codes, and for the Gumbel family
        integrals over the noise of one latent with an estimated numerical error (no gumbel-softmax, rebar, disarm,
        arms, running mean). `draws`, `seed` and `equal_cost` then have no effect
    reference : what the estimates are held against: "exact", enumeration; an unbiased estimator ("rloo", "disarm",
        "arms:n=4", ...); "auto", enumeration up to `limit` configurations, else the unbiased estimator whose variance
        at equal loss evaluations is measured to be the smallest
    precision : of a reference that is sampled: draws are added until the 95 % interval of relative_bias_debiased, or of
        its value if that is above 1, is at most +- this at every point, beginning with `draws`
    max_draws : per point, where `precision` is given
    wrt : what gradients are taken with respect to: "logits", or "encoder", its parameters: of the mean over examples of
        the expected loss, which is what a training step follows, by parameter tensor (see Returns)
    cross : measure only the pairs with tf = cross[0] or tb = cross[1]; the others are NaN (figure 6)
    equal_cost : compare estimators at equal loss evaluations: one estimate is the mean of as many draws as the loss
        evaluations of one draw of the dearest estimator pay for, so variances are divided by that number (needs not
        be whole) and so many more draws are taken
    kl : add the gradient of the KL term to exact and mean gradient alike
    device, dtype : where and in which precision draws are computed; the model's own by default. All sums are float64
    exact_dtype : precision of the losses in the exact gradient; torch.float32 halves its time, and adds the variable
        `exact_gradient_error`, a bound on what it costs
    tf32 : let a GPU compute float32 with TensorFloat-32, which moves the bias
    limit : no more configurations are enumerated
    memory : see `exact_gradient`
    route : how the decoder's part of the draws is found, "table", "pairs" or "draws", the numbers being the same up to
        rounding; "auto" takes the one that needs the fewest operations and fits `memory` (see `sampling.engine`)
    shown : draw a progress bar on standard error

    Returns
    -------
    Dataset with dims tf, tb, example, latent, category (no category: binary; estimator first if a list was given).
    `exact_gradient`, `mean_gradient`, `std_gradient` per coordinate in the loss's unit per logit; per point
    `exact_norm` and the figures of `gradlab.fidelity.metrics.METRICS`, norms over example, latent and category;
    each sampled figure NAME with NAME_low and NAME_high, a 95 % interval from batches of draws. Those of figures whose
    long_name says that sampling noise is included are intervals of the figure at this number of draws.
    `expected_count`, `unseen`, `rare_examples` and `certain_examples` say where sampling cannot see, `enumerated` where
    moments of code-only estimators are therefore exact (spaces of up to 2^14 configurations). `replicates` holds each
    figure without each batch in turn: differences between temperatures, which share their noise, are sharper than their
    ends. With moments="exact" there are no replicates, the ends are twice the estimated numerical error off, and
    `mean_numerical_error` and `std_numerical_error` hold that error.

    With wrt="encoder" there is a dim `parameter`: "all", then by name each of the encoder's tensors that require
    gradients; `entries` are their sizes. Figures, `exact_norm` and `replicates` are those of G = (1/B) sum over the B
    examples of J^T g, J = d logits / d parameters, in the loss's unit per parameter, norms over the entries of a
    tensor; there are no arrays per coordinate or example. Means are pulled back in float64, the deviation of each draw
    in the precision of the draws. A tensor that the decoder shares counts through the logits only; one that the logits
    do not depend on has 0. Not with moments="exact", exact_dtype=torch.float32, nor a reference that is sampled.

    Raises
    ------
    ValueError
        Temperatures, draws, names, shapes, or values that will not do; SpaceTooLarge, a ValueError, beyond `limit` for
        reference="exact" or moments="exact".

    Warns
    -----
    UserWarning
        Where `max_draws` did not give the precision asked for, or `draws` is rounded up to whole batches.
        `gradlab.cautions.SamplingWarning`, a UserWarning, where sampling cannot see: all codes certain, or the
        categories that carry the exact gradient hardly ever drawn.

    Source: section 5.2.2, figure 6 and appendix C of the Decoupled ST-GS paper.
    """
    check_is_model(model)
    tfs = errors.temperatures("tf", tf)
    tbs = errors.temperatures("tb", tfs if tb is None else tb)
    if isinstance(cross, tuple | list):
        cross = tuple(errors.temperature("cross", t) for t in cross)  # type: ignore[assignment]
    if cross is not None and not (isinstance(cross, tuple) and len(cross) == 2 and cross[0] in tfs and cross[1] in tbs):
        raise ValueError(f"cross: got {cross}; give a pair of one of tf {tfs} and one of tb {tbs}")
    draws = errors.whole_number("draws", draws, 2, "a variance needs two")
    seed = errors.whole_number("seed", seed, 0)
    errors.choice("moments", moments, ("monte-carlo", "exact"))
    errors.choice("route", route, ROUTES)
    errors.choice("wrt", wrt, ("logits", "encoder"))
    against = resolve(reference, model)
    small = model.configurations <= errors.whole_number("limit", limit, 1)
    enumerated = EXACT in (against, moments) or (against == AUTO and small)
    targets = TARGETS if target == "both" else (errors.choice("target", target, (*TARGETS, "both")),)
    listed = not isinstance(estimator, str | Estimator) and isinstance(estimator, Iterable)
    chosen = [_resolve(e, model) for e in (list(estimator) if listed else [estimator])]  # type: ignore[arg-type]
    labels = [e.label for e in chosen]
    if not chosen or len(set(labels)) < len(labels):
        raise ValueError(f"estimator: got {labels}; give at least one, each of them once")
    without = [dim for dim, given in (("estimator", listed), ("target", target == "both")) if not given]

    if wrt == "encoder":
        encoder_analysis.check_supported(model, moments, exact_dtype, enumerated, limit)
    goal = None
    if enumerated:
        check_enumerable(model, limit)
        if not isinstance(against, str):
            raise ValueError(
                f"moments: 'exact' takes the exact gradient, and reference is {against.label}, which is sampled;"
                " reference='exact' would do, or moments='monte-carlo'"
            )
        if precision is not None:
            raise ValueError(
                "precision: goes with a reference that is sampled; here the exact gradient is enumerated"
                " (reference='rloo', say, is sampled)"
            )
    else:
        goal = _goal(draws, precision, max_draws, moments=moments, equal_cost=equal_cost, route=route)
    if moments == "exact":
        check_supported(chosen)
    precision_and_place(dtype, device)
    check_precision(exact_dtype, "exact_dtype")
    with plain_arithmetic(tf32):
        measured = measured_copy(model, dtype, device)
        x = observations(measured, x)
        memory = working_memory(memory, x.device)
        logits = encode(measured, x)
        model.unit_shape = measured.unit_shape
        wide = logits.double()
        every = [(i, j) for i in range(len(tfs)) for j in range(len(tbs))]
        pairs = [(i, j) for i, j in every if cross is None or tfs[i] == cross[0] or tbs[j] == cross[1]]
        costs = [e.evaluations_at(model.kind, logits) for e in chosen]
        shift = kl_gradient(model, wide) if kl else torch.zeros_like(wide)
        about = attributes(
            "bias",
            model,
            x,
            logits,
            None if moments == "exact" else goal.draws if goal else draws,
            seed,
            tf32=int(tf32),
            estimator=json.dumps(labels if listed else labels[0]),
            estimator_parameters=json.dumps([_own_parameters(e) for e in chosen]),
            equal_cost=int(equal_cost),
            evaluations=json.dumps(costs if listed else costs[0]),
            target=target,
            moments=moments,
            reference=EXACT,
            wrt=wrt,
            kl=int(kl),
        )
        if cross is not None:
            about |= {"tf_fixed": float(cross[0]), "tb_fixed": float(cross[1])}
        if goal is not None:
            rare = rarity(model.kind, wide, tfs)
            sampled = (measured, x, logits, chosen, against, tfs, tbs, pairs, targets)
            ds, of_reference = bias_by_reference(*sampled, goal, shift, rare, seed, memory, shown)
            ds = ds.isel(dict.fromkeys(without, 0), drop=True).assign_attrs(about | of_reference)
        else:
            ds = bias_by_enumeration(
                model,
                measured,
                x,
                logits,
                chosen,
                tfs,
                tbs,
                pairs,
                targets,
                shift,
                draws=draws,
                seed=seed,
                moments=moments,
                wrt=wrt,
                equal_cost=equal_cost,
                exact_dtype=exact_dtype,
                memory=memory,
                route=route,
                shown=shown,
                labels=labels,
                about=about,
                without=without,
            )
    for sentence in of_sampling(ds):
        warnings.warn(sentence, SamplingWarning, stacklevel=2)
    return with_groups(ds, model)


def _goal(draws: int, precision: float | None, max_draws: int, *, moments: str, equal_cost: bool, route: str) -> Goal:
    """Of a sampled reference. ValueError for what goes with enumeration alone."""
    for name, given, usual in (("moments", moments, "monte-carlo"), ("equal_cost", equal_cost, False)):
        if given != usual:
            raise ValueError(f"{name}: got {given!r}; a reference that is sampled takes {usual!r} only")
    if route not in ("auto", "draws"):
        raise ValueError(f"route: got {route!r}; a reference that is sampled takes 'draws' only, or 'auto'")
    if precision is not None:
        precision = errors.positive("precision", precision)
    if (taken := rounded(draws)) != draws:
        warnings.warn(f"draws: got {draws}; a sampled reference takes whole batches, {taken} draws", stacklevel=3)
    return Goal(taken, precision, errors.whole_number("max_draws", max_draws, 2))


def _resolve(given: str | Estimator, model: LatentModel) -> Estimator:
    if isinstance(given, str):
        given = estimators.get(given)
    if not isinstance(given, Estimator):
        raise ValueError(f"estimator: got {given!r}; a name of gradlab.estimators.names(), or an Estimator, would do")
    if model.kind.name not in given.kinds:
        raise ValueError(
            f"estimator: {given.name} is for {' and '.join(given.kinds)} latents, the model's are {model.kind.name}"
        )
    return given


def _own_parameters(estimator: Estimator) -> dict[str, Any]:
    return {k: v for k, v in estimator.parameters.items() if k not in ("tf", "tb")}
