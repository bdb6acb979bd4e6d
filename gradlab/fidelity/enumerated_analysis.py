"""Bias and variance against the enumerated exact gradient: moments from draws, or without any -> Dataset."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import progress
from ..estimators import Estimator
from ..exact import exact_gradients, rounding_errors
from ..model import LatentModel
from ..moments import exact_moments, steps, supported
from ..sampling import BATCHES, Noise, each_accumulated, each_moments, groups
from . import rarity
from .encoder_analysis import EncoderPoints
from .grid_accumulator import Points
from .rarity import Rarity

MOST_DRAWS_FOR_ONE = 1000  # of another estimator, at equal cost
FEW_CONFIGURATIONS = 2**14  # of which the moments of a code are enumerated where draws miss what matters

Cell = tuple[int, int, int]  # positions of estimator, tf and tb


def bias_by_enumeration(
    model: LatentModel,
    measured: LatentModel,
    x: Tensor,
    logits: Tensor,
    chosen: Sequence[Estimator],
    tfs: list[float],
    tbs: list[float],
    pairs: Sequence[tuple[int, int]],
    targets: Sequence[str],
    shift: Tensor,
    *,
    draws: int,
    seed: int,
    moments: str,
    wrt: str,
    equal_cost: bool,
    exact_dtype: torch.dtype,
    memory: int,
    route: str,
    shown: bool,
    labels: list[str],
    about: dict[str, Any],
    without: Sequence[str],
) -> xr.Dataset:
    """The Dataset of `bias`. Where draws cannot see, moments of code-only estimators are enumerated too."""
    wide = logits.double()
    laws = [(t, name) for name in targets for t in tfs]
    found = exact_gradients(model, x, wide, laws, memory=memory, dtype=exact_dtype, shown=shown)
    rare = rarity.rarity(model.kind, wide, tfs, found[: len(tfs)] if targets[0] == "sampled" else None)
    exact = (found + shift).cpu().numpy().reshape(len(targets), len(tfs), *logits.shape)
    rounding = None
    if exact_dtype != torch.float64:
        of_example = rounding_errors(model, x, wide, laws, exact_dtype)
        rounding = of_example.norm(dim=1).cpu().numpy().reshape(len(targets), len(tfs))
    sampled = moments != "exact"
    points: Points | EncoderPoints
    if wrt == "encoder":
        points = EncoderPoints(measured, x, len(chosen), targets, tfs, tbs, draws, rare.nothing_left, memory)
    else:
        shape = logits.shape
        points = Points(len(chosen), targets, tfs, tbs, shape, draws if sampled else None, rare.nothing_left, memory)
    costs = [e.evaluations_at(model.kind, logits) for e in chosen]
    alike = _draws_alike(costs, draws) if equal_cost and sampled else {draws: list(range(len(chosen)))}
    draws_of = {e: of_each for of_each, members in alike.items() for e in members}
    cells = [(e, i, j) for e in range(len(chosen)) for i, j in pairs]
    enumerated = cells if not sampled else _better_enumerated(model, chosen, cells, rare, draws_of, wrt)
    constant = shift.cpu().numpy()
    if enumerated:
        assert isinstance(points, Points)
        grid = [chosen[e].at(tfs[i], tbs[j]) for e, i, j in enumerated]
        with progress.bar("integrating", steps(grid), shown) as advance:
            of_grid = exact_moments(measured, x, logits, grid, memory=memory, advance=advance)
        for (e, i, j), of_point in zip(enumerated, of_grid, strict=True):
            points.fill_exact(e, i, j, exact[:, i], constant, of_point, draws / draws_of[e])
    done = set(enumerated)
    for of_each, members in alike.items():
        here = [cell for cell in cells if cell[0] in members and cell not in done]
        if not here:
            continue
        grid = [chosen[e].at(tfs[i], tbs[j]) for e, i, j in here]
        noise = Noise(model.kind, logits, max(e.noise_arrays for e in grid), of_each, seed, memory)
        each: Callable[..., Iterator[tuple[list[int], Any]]] = each_moments
        if isinstance(points, EncoderPoints):
            each = functools.partial(each_accumulated, accumulator=points.accumulator(of_each))
        with progress.bar("drawing", of_each * len(groups(grid)), shown) as advance:
            for positions, drawn in each(measured, x, logits, grid, noise, memory=memory, route=route, advance=advance):
                points.fill([here[position] for position in positions], exact, constant, drawn, draws / of_each)
    about |= {"exact_dtype": str(exact_dtype).removeprefix("torch.")}
    more = _of_rarity(rare, cells, enumerated, draws_of, (len(chosen), len(targets), len(tfs), len(tbs)), sampled)
    if sampled and enumerated:
        by_name = {labels[e]: sorted({tfs[i] for k, i, _ in enumerated if k == e}) for e, _, _ in enumerated}
        about |= {"moments_enumerated": json.dumps(by_name)}
    return points.dataset(exact, rounding, labels, about, without, more)


def _better_enumerated(
    model: LatentModel, chosen: Sequence[Estimator], cells: list[Cell], rare: Rarity, draws_of: dict[int, int], wrt: str
) -> list[Cell]:
    """The cells whose estimates are functions of the code alone, where draws miss what carries the gradient."""
    if wrt == "encoder" or model.configurations > FEW_CONFIGURATIONS:
        return []
    code_only = {e for e, estimator in enumerate(chosen) if estimator.code_only and supported(estimator)}
    unseen = {e: rare.unseen(draws_of[e]) for e in code_only}
    return [(e, i, j) for e, i, j in cells if e in code_only and unseen[e][i]]


def _of_rarity(
    rare: Rarity,
    cells: list[Cell],
    enumerated: list[Cell],
    draws_of: dict[int, int],
    shape: tuple[int, ...],
    sampled: bool,
) -> dict[str, Any]:
    """Variables that say where sampling cannot see, and of which points nothing was sampled."""
    draws, by_draws = np.full(shape, np.nan), np.ones(shape, bool)
    for e, i, j in cells:
        draws[e, :, i, j] = draws_of[e]
    for e, i, j in enumerated:
        by_draws[e, :, i, j] = False
    if not sampled:  # nothing is missed, as by infinitely many draws
        return rarity.variables(rare, np.where(np.isnan(draws), np.nan, np.inf))
    found = rarity.variables(rare, draws, by_draws)
    if enumerated:
        words = "1 where the moments are enumerated: draws would not see what carries the exact gradient"
        values = np.where(np.isnan(draws), np.nan, ~by_draws)
        found["enumerated"] = (("estimator", "target", "tf", "tb"), values, {"long_name": words, "units": "1"})
    return found


def _draws_alike(costs: list[int], draws: int) -> dict[int, list[int]]:
    """Positions of the estimators by number of draws: `draws` of the dearest, of the others what these pay for."""
    if draws < BATCHES:
        raise ValueError(f"draws: got {draws}; equal cost needs at least {BATCHES}, a draw for each batch")
    if max(costs) > MOST_DRAWS_FOR_ONE * min(costs):
        raise ValueError(
            f"equal_cost: the estimators take {costs} loss evaluations per draw, so that one draw of the dearest stands"
            f" against {max(costs) // min(costs):,} of the cheapest; leave it out"
        )
    found: dict[int, list[int]] = {}
    for position, cost in enumerate(costs):
        found.setdefault(draws * max(costs) // cost, []).append(position)
    return found
