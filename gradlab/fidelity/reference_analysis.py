"""Figures against an unbiased reference -> Dataset, of the dims and names that those against enumeration have."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from .. import estimators, likelihoods
from ..errors import unknown_name
from ..estimators import Estimator, promises
from ..model import LatentModel
from ..sampling import BATCHES
from .grid_accumulator import NORM
from .labels import coordinate, figure_variables, temperatures
from .metrics import NONE
from .rarity import Rarity, variables
from .reference import Goal, Point, candidates, choose, measured, rounded
from .reference_figures import FIGURES, intervals, values

AUTO, EXACT = "auto", "exact"
INTERVALS = (
    "95 %, by inverting tests, from the variance of U-statistics over batches of draws, Student's t; the sampling noise"
    " is subtracted from all"
)


def resolve(given: str | Estimator, model: LatentModel) -> Estimator | str:
    """The reference: "auto", "exact", or an unbiased estimator for the model's kind of latent. ValueError else."""
    if isinstance(given, str):
        if given in (AUTO, EXACT):
            return given
        if given.partition(":")[0] not in estimators.names():
            raise unknown_name("reference", given, (AUTO, EXACT, *estimators.names()))
        given = estimators.parse(given)
    known = f"auto, exact, {', '.join(e.name for e in candidates(model.kind))}"
    if not isinstance(given, Estimator) or not given.unbiased:
        name = given.label if isinstance(given, Estimator) else repr(given)
        raise ValueError(f"reference: got {name}, which is no unbiased estimator; {known} would do")
    if not promises.holds(type(given), "unbiased", "points", "estimate"):
        raise ValueError(
            f"reference: expected a class that states `unbiased = True` itself, got {type(given).__name__}, which"
            f" overrides points or estimate of one that does; state it there, or take one of {known}"
        )
    _check_drawn(given, "reference")
    if model.kind.name not in given.kinds:
        raise ValueError(
            f"reference: {given.name} is for {' and '.join(given.kinds)} latents, the model's are {model.kind.name};"
            f" {known} would do"
        )
    return given


def _check_drawn(e: Estimator, argument: str) -> None:
    if e.all_configurations:
        raise ValueError(f"{argument}: {e.name} enumerates the code space; take one that is sampled")
    if e.baseline_decay is not None:
        raise ValueError(
            f"{argument}: {e.label} depends on the draws before, and so on the other examples; take one whose draws are"
            " independent"
        )


def bias_by_reference(
    model: LatentModel,
    x: Tensor,
    logits: Tensor,
    chosen: Sequence[Estimator],
    reference: Estimator | str,
    tfs: list[float],
    tbs: list[float],
    pairs: Sequence[tuple[int, int]],
    targets: Sequence[str],
    goal: Goal,
    shift: Tensor,
    rare: Rarity,
    seed: int,
    memory: int,
    shown: bool,
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Dataset over (estimator, target, tf, tb), without attributes, and what it says of its reference."""
    for e in chosen:
        _check_drawn(e, "estimator")
    about: dict[str, Any] = {}
    if isinstance(reference, str):
        reference, over = choose(model, x, logits, tfs, seed, memory, shown)
        about["reference_candidates"] = json.dumps(over)
    points = [
        Point(e.at(tfs[i], tbs[j]), t, (k, t, i, j), tfs[i])
        for i, j in pairs
        for k, e in enumerate(chosen)
        for t in range(len(targets))
    ]
    grid = (len(chosen), len(targets), len(tfs), len(tbs))
    figures = {name: np.full((*grid, 3), np.nan) for name in FIGURES}
    replicates = np.full((len(FIGURES), BATCHES, *grid), np.nan)
    draws = np.full(grid, np.nan)
    wide = []
    nothing_left = dict(zip(tfs, rare.nothing_left.tolist(), strict=True))
    goals = {tf: dataclasses.replace(goal, precision=None) if nothing_left[tf] else goal for tf in tfs}
    given = (model, x, logits, points, reference, targets, shift, goals, seed, memory, shown)
    for point, found, taken in measured(*given):
        if not (np.isfinite(found.value).all() and np.isfinite(found.without).all()):
            raise ValueError(
                f"tf, tb: estimates at tf = {point.tf:g}, tb = {tbs[point.at[3]]:g} are not finite; larger"
                " temperatures, or finite losses, would do"
            )
        k, t, i, j = point.at
        replicates[:, :, k, t, i, j] = np.stack(list(values(found.without).values()))
        for name, ends in intervals(found).items():
            figures[name][k, t, i, j] = ends
        if nothing_left[point.tf]:
            for position, (name, metric) in enumerate(FIGURES.items()):
                if metric.unit == NONE:
                    figures[name][k, t, i, j] = replicates[position, :, k, t, i, j] = np.nan
        draws[k, t, i, j] = taken
        if (missed := goals[point.tf].missed_by([found])) > 1:
            wide.append(missed)
    if wide:
        widest = f"±{max(wide) * goal.precision:.2g}" if goal.precision and math.isfinite(max(wide)) else "without ends"
        warnings.warn(
            f"precision: {len(wide)} of {len(points)} points have wider intervals than asked, the widest {widest};"
            " raise max_draws",
            stacklevel=3,
        )
    about |= {
        "reference": reference.label,
        "intervals": INTERVALS,
        "draws": int(np.nanmin(draws)),  # of each point: see the variable
        "draws_per_batch": int(np.nanmin(draws)) // BATCHES,
        "max_draws": goal.most if goal.precision else rounded(goal.draws),
        "precision": goal.precision or 0.0,
    }
    unit = f"{likelihoods.unit_of(model.likelihood)} per logit"
    labels = [e.label for e in chosen]
    return _dataset(figures, replicates, draws, variables(rare, draws), labels, targets, tfs, tbs, unit), about


def _dataset(
    figures: dict[str, np.ndarray],
    replicates: np.ndarray,
    draws: np.ndarray,
    of_rarity: dict[str, Any],
    labels: Sequence[str],
    targets: Sequence[str],
    tfs: list[float],
    tbs: list[float],
    unit: str,
) -> xr.Dataset:
    grid = ("estimator", "target", "tf", "tb")
    found = figure_variables(figures, grid, unit, NORM, FIGURES) | of_rarity
    words = "1 where the interval of the squared bias excludes 0; 0: not resolved at this number of draws"
    known = ~np.isnan(figures["relative_bias_debiased"][..., 0])  # else the reference does not tell |g| from 0
    resolved = np.where(np.isnan(draws), np.nan, known & (figures["squared_bias_debiased"][..., 1] > 0))
    found["resolved"] = (grid, resolved, {"long_name": words, "units": "1"})
    found["draws"] = (grid, draws, {"long_name": "draws of estimates and reference", "units": "1"})
    words = "each figure without each batch of draws in turn"
    found["replicates"] = (("figure", "batch", *grid), replicates, {"long_name": words, "units": "as the figure"})
    coordinates = {
        "estimator": coordinate("estimator", list(labels)),
        "target": coordinate("target", list(targets), "target law"),
        **temperatures(tfs, tbs),
        "figure": coordinate("figure", list(FIGURES)),
        "batch": coordinate("batch", np.arange(BATCHES)),
    }
    return xr.Dataset(found, coordinates)
