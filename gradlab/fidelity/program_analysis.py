"""Bias and variance of a program's gradients, against the enumerated or a sampled reference -> Dataset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import errors, progress, results
from ..attributes import of_parameters, stored
from ..choices import BOTH, TARGETS
from ..estimators import Estimator
from ..estimators.score_function import RLOO
from ..methods import AUTO, Compute, Enumerated, MonteCarlo, Sampled, moments_of, reference_of
from ..numerics import plain_arithmetic, precision_and_place, working_memory
from ..programs.enumeration import Exact, along_greedy, check_paths, enumerated
from ..programs.layers import arrays_of, check_serves, paths_of
from ..programs.program import Program
from ..programs.run import Run
from ..programs.sites import StructureChanged, described, paths
from ..sampling import batch_bounds
from .encoder_analysis import ParameterPoints
from .enumerated_analysis import draws_alike
from .labels import INTERVALS, NO_SUM
from .program_draws import Draws, is_exact
from .program_gradients import Flat, FlatMoments, ProgramStatistics
from .rarity import CERTAIN, Rarity, variables
from .reference_analysis import by_reference, stopping_rule
from .request import EQUAL_COST_SAMPLED, Request, check_laws, cross_of, dropped, estimator_of, listed, temperatures_of
from .room import check_result, of_program

AUTO_ROWS = 2**20  # paths x examples that "auto" enumerates
AUTO_NUMBERS = 2**31  # that their runs keep for the way back, likewise
AUTO_PATHS = 2**12  # the same, where they are followed one by one
UNIT = "loss"


def bias_of_program(
    program: Program, x: Any, tf: Any, tb: Any, *, seed: Any, compute: Compute | None, **asked: Any
) -> xr.Dataset:
    """The Dataset of `gradlab.bias` of a program; arguments as its. Raises ValueError as that does."""
    compute, seed = compute or Compute(), errors.whole_number("seed", seed, 0)
    precision_and_place(compute.dtype, compute.device)
    with (
        plain_arithmetic(compute.tf32),
        Run(program, x, compute.dtype or torch.float64, compute.device).prepared() as run,
    ):
        request = _requested(run, tf, tb, **asked)
        names, sizes = run.names_and_sizes()
        check_result(len(request.tfs), len(request.tbs), run.examples, of_program(request, len(names) - 1, sizes[0]))
        measured = _against_exact if isinstance(request.reference, Enumerated) else _against_sampled
        try:
            ds = measured(run, x, request, seed, compute)
        except StructureChanged:  # of codes that the probes did not meet
            run.by_row = True
            ds = measured(run, x, request, seed, compute)
    return ds.assign_attrs(tf32=int(compute.tf32))


def _requested(
    run: Run,
    tf: Any,
    tb: Any,
    *,
    estimator: Any,
    draws: int | None,
    target: str,
    wrt: str | None,
    moments: Any,
    reference: Any,
    cross: Any,
    kl: bool,
) -> Request:
    given = listed(estimator)
    tfs, tbs = temperatures_of(tf, tb, given)
    chosen = tuple(estimator_of(one) for one in given)
    labels = [e.label for e in chosen]
    if not chosen or len(set(labels)) < len(labels):
        raise ValueError(f"estimator: expected at least one, each of them once, got {labels}")
    for e in chosen:
        check_serves(e, run.sites)
    method = moments_of(moments, draws)
    _check_combination(method, wrt, kl)
    request = Request(
        chosen,
        tfs,
        tbs,
        TARGETS if target == BOTH else (errors.choice("target", target, (*TARGETS, BOTH)),),
        method,
        reference_for(reference, run),
        "encoder",
        False,
        cross_of(cross, tfs, tbs),
        dropped(estimator, target),
    )
    check_laws(request)
    if isinstance(method, MonteCarlo) and method.equal_cost and isinstance(request.reference, Sampled):
        raise errors.Excluded(EQUAL_COST_SAMPLED)
    exact = [e.label for e in chosen if is_exact(e)]
    if exact and isinstance(request.reference, Sampled):
        raise ValueError(f"estimator: expected one that is sampled beside a sampled reference, got {exact[0]}")
    return request


def _check_combination(method: Any, wrt: str | None, kl: bool) -> None:
    """Raises ValueError for what a program has not."""
    if not isinstance(method, MonteCarlo):
        raise errors.Excluded("moments: expected 'monte-carlo' for a Program, got 'exact'")
    if method.decoder not in (AUTO, "draws"):
        raise errors.Excluded(f"decoder: expected 'auto' for a Program, got {method.decoder!r}")
    if wrt not in (None, "encoder"):
        raise errors.Excluded(
            f"wrt: expected none for a Program, whose gradients are those of Program(wrt=...), got {wrt!r}"
        )
    if kl:
        raise errors.Excluded("kl: expected False for a Program, got True; add the term to its loss")


def reference_for(given: Any, run: Run) -> Enumerated | Sampled:
    """The reference of a program, from what is asked for. Raises ValueError for one that it has not."""
    reference = reference_of(given)
    if isinstance(reference, str):  # "auto"
        every = paths(run.sites)
        few = every * run.examples <= (AUTO_PATHS if run.by_row else AUTO_ROWS)
        return Enumerated() if few and every * run.saved <= AUTO_NUMBERS else Sampled()
    if isinstance(reference, Enumerated):
        check_paths(run, reference.max_configurations)
        return reference
    rloo_of(reference)
    return reference


def rloo_of(reference: Sampled) -> Estimator:
    """The estimator of a sampled reference: leave-one-out over whole paths."""
    given = reference.estimator
    found = RLOO() if given == AUTO else estimator_of(given, "reference")
    if not isinstance(found, RLOO):
        raise ValueError(
            f"reference: expected 'exact', 'auto' or rloo for a Program (leave-one-out over whole paths), got"
            f" {found.label}"
        )
    return found


# --- against the exact gradient ---


def _against_exact(run: Run, x: Any, request: Request, seed: int, compute: Compute) -> xr.Dataset:
    assert isinstance(request.reference, Enumerated)
    assert isinstance(request.moments, MonteCarlo)
    memory, draws = working_memory(compute.memory, run.device), request.moments.draws
    tfs = list(dict.fromkeys([*request.law_tfs, *([1.0] if "model" in request.targets else [])]))
    exact = enumerated_at(run, x, tfs, request.reference, memory, compute.progress)
    rare = rarity_of([exact[t] for t in request.law_tfs])
    laws = [[exact[t if target == "sampled" else 1.0] for t in request.law_tfs] for target in request.targets]
    vectors = np.stack([[_flat(law.gradients) for law in of] for of in laws])
    flat = Flat(run)
    points = ParameterPoints(request, draws, rare.nothing_left, flat)
    cells = [(e, i, j) for e in range(len(request.estimators)) for i, j in request.pairs]
    draws_of = _draws_of(request)
    noise = Draws(run, max(map(arrays_of, request.estimators)), seed, memory, max(draws_of))
    with progress.bar("drawing", sum(draws_of[e] for e, _, _ in cells), compute.progress) as advance:
        for e, i, j in cells:
            tf, tb = request.tfs[i], request.tbs[j]
            moments, of_point = FlatMoments(flat, len(batch_bounds(draws)) - 1, run.device), draws_of[e]
            estimator = request.estimators[e].at(tf, tb)
            if is_exact(estimator):
                moments.fill(of_point, torch.as_tensor(_flat(exact[tf].gradients)).to(run.device))
                advance(of_point)
            else:
                _draw(moments, noise, estimator, of_point, advance)
            points.fill([(e, i, j)], vectors, np.zeros(vectors.shape[-1]), moments, draws / of_point)
    shape = (len(request.estimators), len(request.targets), len(request.tfs), len(request.tbs))
    taken = np.full(shape, np.nan)
    for e, i, j in cells:
        taken[e, :, i, j] = draws_of[e]
    about = _attributes(run, request, seed, draws) | {"exact_dtype": request.reference.dtype}
    return points.dataset(vectors, None, request, about, variables(rare, taken))


def _draws_of(request: Request) -> list[int]:
    """The number of draws of each estimator: at equal cost, more of cheaper ones."""
    assert isinstance(request.moments, MonteCarlo)
    draws, count = request.moments.draws, len(request.estimators)
    if not request.moments.equal_cost:
        return [draws] * count
    alike = draws_alike([paths_of(e) for e in request.estimators], draws)
    return [next(draws for draws, members in alike.items() if e in members) for e in range(count)]


def _draw(moments: FlatMoments, noise: Draws, estimator: Estimator, draws: int, advance: progress.Advance) -> None:
    if estimator.noise_free:
        moments.fill(draws, noise.gradients(estimator, 0, 1)[0])
        advance(draws)
        return
    bounds, step = batch_bounds(draws), noise.at_once(estimator)
    for start in range(0, draws, step):
        stop = min(draws, start + step)
        gradients = noise.gradients(estimator, start, stop)
        for batch, (begin, end) in enumerate(itertools.pairwise(bounds)):
            if start < end and begin < stop:
                moments.add(batch, gradients[max(begin - start, 0) : end - start])
        advance(stop - start)


def enumerated_at(
    run: Run, x: Any, tfs: Sequence[float], reference: Enumerated, memory: int, shown: bool
) -> dict[float, Exact]:
    """By temperature of the law. In float64, whatever the precision of the draws, unless float32 is asked for."""
    dtype = getattr(torch, reference.dtype)
    wide = run
    if run.dtype != dtype:
        with Run(run.program, x, dtype, run.device).prepared() as wide:
            return {tf: enumerated(wide, tf, reference.max_configurations, memory, shown) for tf in tfs}
    return {tf: enumerated(wide, tf, reference.max_configurations, memory, shown) for tf in tfs}


def _flat(gradients: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([gradient.flatten() for gradient in gradients]).double().cpu().numpy()


def rarity_of(found: Sequence[Exact]) -> Rarity:
    """The Rarity of exact gradients, one for each tf."""
    return Rarity(
        np.array([of.per_draw_of_all for of in found]),
        np.stack([of.per_draw.cpu().numpy() for of in found]),
        np.stack([(of.unlikely < CERTAIN).cpu().numpy() for of in found]),
    )


# --- against a sampled reference ---


def _against_sampled(run: Run, x: Any, request: Request, seed: int, compute: Compute) -> xr.Dataset:
    assert isinstance(request.reference, Sampled)
    assert isinstance(request.moments, MonteCarlo)
    memory = working_memory(compute.memory, run.device)
    rule = stopping_rule(request.moments, request.reference)
    of = ProgramStatistics(run, seed, memory, compute.progress)
    rare = rarity_of([along_greedy(run, t) for t in request.law_tfs])
    ds = by_reference(request, of, rloo_of(request.reference), rule, rare, UNIT, of.flat)
    return ds.assign_attrs(_attributes(run, request, seed, rule.draws) | ds.attrs)


def _attributes(run: Run, request: Request, seed: int, draws: int) -> dict[str, Any]:
    own = [{k: v for k, v in e.parameters.items() if k not in ("tf", "tb")} for e in request.estimators]
    assert isinstance(request.moments, MonteCarlo)
    return attributes_of_program(
        "bias",
        run,
        seed,
        draws,
        estimator=stored([e.label for e in request.estimators]),
        estimator_parameters=stored([of_parameters(one) for one in own]),
        equal_cost=int(request.moments.equal_cost),
        evaluations=stored([paths_of(e) for e in request.estimators]),
        target=request.targets[0] if "target" in request.dropped else "both",
        moments="monte-carlo",
        reference="exact",
        kl=0,
        population_intervals=NO_SUM,
        **({"tf_fixed": request.cross[0], "tb_fixed": request.cross[1]} if request.cross else {}),
    )


def attributes_of_program(analysis: str, run: Run, seed: int, draws: int, **more: Any) -> dict[str, Any]:
    """Attributes of any analysis of a program, as `labels.attributes` of a model."""
    shapes = [site.size for site in run.sites]
    return results.stamp(
        analysis=analysis,
        seed=seed,
        device=str(run.device),
        dtype=str(run.dtype).removeprefix("torch."),
        draws=draws,
        draws_per_batch=draws // (len(batch_bounds(draws)) - 1),
        **more,
        wrt="parameters",
        program=run.program.name,
        sites=stored(shapes),
        paths="decided by the codes" if run.by_row else described(run.sites),
        loss="of the program",
        unit=UNIT,
        examples=run.examples,
        data="given as tensors",
        data_sha256=results.tensors_sha256(run.x),
        checkpoint="given as a program",
        checkpoint_sha256="",
        intervals=INTERVALS,
    )
