"""Bias and variance against the enumerated exact gradient, with moments from draws or without draws -> Dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import progress
from ..attributes import of_enumerated
from ..exact import exact_gradients, kl_gradient
from ..exact_errors import narrowest, rounding_errors
from ..methods import TOLERANCE, Enumerated, Integrated, MonteCarlo
from ..moments import enumerable, exact_moments, steps
from ..sampling import BATCHES, Noise, by_points, each_accumulated, each_moments
from ..setup import Setup
from . import rarity
from .encoder_analysis import EncoderPoints
from .grid_accumulator import Points
from .labels import attributes_of
from .rarity import Rarity
from .request import Request

MOST_DRAWS_FOR_ONE = 1000  # draws of one estimator that cost no more than one draw of another
FEW_CONFIGURATIONS = 2**14  # up to this number, moments are enumerated where draws miss what carries the gradient


def bias_by_enumeration(setup: Setup, request: Request) -> xr.Dataset:
    """The Dataset of `bias`. Where draws miss what carries the gradient, code-only estimators are enumerated."""
    assert isinstance(request.reference, Enumerated)
    dtype = getattr(torch, request.reference.dtype)
    gradients = exact_gradients(setup, request.laws, dtype=dtype).cpu()
    of_sampled = gradients[: len(request.tfs)] if request.targets[0] == "sampled" else None
    rare = rarity.rarity(setup.kind, setup.wide_logits, request.law_tfs, of_sampled)
    shift = kl_gradient(setup).cpu() if request.kl else torch.zeros_like(gradients[0])
    laws = (len(request.targets), len(request.tfs))
    exact = (gradients + shift).numpy().reshape(*laws, *setup.logits.shape)
    rounding, narrow = None, "decoder" in setup.narrow
    if dtype != torch.float64 or narrow:
        rounding = rounding_errors(setup, request.laws, dtype).norm(dim=1).cpu().numpy().reshape(laws)
    plan = _Plan(setup, request, rare)
    points: Points | EncoderPoints
    points = (EncoderPoints if request.wrt == "encoder" else Points)(setup, request, plan.draws, rare.nothing_left)
    _enumerate(points, setup, request, plan, exact, shift.numpy())
    _draw(points, setup, request, plan, exact, shift.numpy())
    about = attributes_of(setup, request, plan.draws) | {"exact_dtype": request.reference.dtype}
    if narrow:
        about |= {"exact_dtype": str(narrowest(setup)).removeprefix("torch.")}
        about |= {"exact_gradient_relative_error": _relative(rounding, exact)}
    if plan.draws and plan.enumerated:
        temperatures: dict[str, set[float]] = {}
        for e, i, _ in plan.enumerated:
            temperatures.setdefault(request.labels[e], set()).add(request.tfs[i])
        about |= {"moments_enumerated": of_enumerated({label: sorted(of) for label, of in temperatures.items()})}
    return points.dataset(exact, rounding, request, about, _of_rarity(rare, plan, request))


def _relative(rounding: np.ndarray | None, exact: np.ndarray) -> float:
    """The largest error of an exact gradient, over its norm."""
    assert rounding is not None
    norms = np.sqrt(np.square(exact.reshape(*exact.shape[:2], -1)).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nan_to_num(rounding / norms).max())


class _Plan:
    """Which points are drawn, with which number of draws, and which are enumerated."""

    def __init__(self, setup: Setup, request: Request, rare: Rarity):
        method, chosen = request.moments, request.estimators
        self.cells = [(e, i, j) for e in range(len(chosen)) for i, j in request.pairs]
        self.draws = method.draws if isinstance(method, MonteCarlo) else None
        self.alike: dict[int, list[int]] = {}  # positions of estimators by their number of draws
        if not isinstance(method, MonteCarlo):
            self.enumerated = self.cells
            return
        costs = [e.evaluations_at(setup.kind, setup.logits) for e in chosen]
        together = {method.draws: list(range(len(chosen)))}
        self.alike = draws_alike(costs, method.draws) if method.equal_cost else together
        self.draws_of = {e: draws for draws, members in self.alike.items() for e in members}
        self.enumerated = []
        if request.wrt == "logits" and setup.model.configurations <= FEW_CONFIGURATIONS:
            able = {e for e, one in enumerate(chosen) if enumerable(one, setup.kind)}
            unseen = {e: rare.unseen(self.draws_of[e]) for e in able}
            self.enumerated = [(e, i, j) for e, i, j in self.cells if e in able and unseen[e][i]]

    def share(self, e: int) -> float:
        """Variance of an estimate over that of one draw: an estimate is the mean of 1/share draws."""
        return self.draws / self.draws_of[e] if self.draws else 1.0


def _enumerate(
    points: Points | EncoderPoints, setup: Setup, request: Request, plan: _Plan, exact: np.ndarray, shift: np.ndarray
) -> None:
    """Fill the points whose moments are computed without draws."""
    if not plan.enumerated:
        return
    grid = [request.estimators[e].at(request.tfs[i], request.tbs[j]) for e, i, j in plan.enumerated]
    tolerance = request.moments.tolerance if isinstance(request.moments, Integrated) else TOLERANCE
    whole = request.wrt == "encoder"
    with progress.bar("integrating", steps(grid, whole), setup.progress) as advance:
        moments = exact_moments(setup, grid, tolerance=tolerance, covariance=whole, advance=advance)
    for (e, i, j), of_point in zip(plan.enumerated, moments, strict=True):
        points.fill_exact(e, i, j, exact[:, i], shift, of_point, plan.share(e))


def _draw(
    points: Points | EncoderPoints, setup: Setup, request: Request, plan: _Plan, exact: np.ndarray, shift: np.ndarray
) -> None:
    """Fill all other points from draws."""
    done = set(plan.enumerated)
    for draws, members in plan.alike.items():
        here = [cell for cell in plan.cells if cell[0] in members and cell not in done]
        if not here:
            continue
        assert isinstance(request.moments, MonteCarlo)
        grid = [request.estimators[e].at(request.tfs[i], request.tbs[j]) for e, i, j in here]
        noise = Noise(setup.kind, setup.logits, max(e.noise_arrays for e in grid), draws, setup.seed, setup.memory)
        each: Callable[..., Iterator[tuple[list[int], Any]]] = each_moments
        if isinstance(points, EncoderPoints):
            each = functools.partial(each_accumulated, accumulator=points.accumulator(draws))
        with progress.bar("drawing", draws * len(by_points(grid)), setup.progress) as advance:
            for positions, drawn in each(setup, grid, noise, decoder=request.moments.decoder, advance=advance):
                cells = [here[position] for position in positions]
                points.fill(cells, exact, shift, drawn, plan.share(cells[0][0]))
                del drawn  # before the moments of the next points are made


def _of_rarity(rare: Rarity, plan: _Plan, request: Request) -> dict[str, Any]:
    """Variables that say where draws miss what carries the gradient, and which points were not sampled."""
    shape = (len(request.estimators), len(request.targets), len(request.tfs), len(request.tbs))
    draws, by_draws = np.full(shape, np.nan), np.ones(shape, bool)
    for e, i, j in plan.cells:
        draws[e, :, i, j] = plan.draws_of[e] if plan.draws else np.inf  # infinitely many draws miss nothing
    if not plan.draws:
        return rarity.variables(rare, draws)
    for e, i, j in plan.enumerated:
        by_draws[e, :, i, j] = False
    variables = rarity.variables(rare, draws, by_draws)
    if plan.enumerated:
        words = "1 where the moments are enumerated, because draws miss what carries the exact gradient"
        values = np.where(np.isnan(draws), np.nan, ~by_draws)
        variables["enumerated"] = (("estimator", "target", "tf", "tb"), values, {"long_name": words, "units": "1"})
    return variables


def draws_alike(costs: list[int], draws: int) -> dict[int, list[int]]:
    """Positions of the estimators by number of draws: `draws` for the most expensive, more for cheaper ones."""
    if draws < BATCHES:
        raise ValueError(f"draws: expected at least {BATCHES} for equal cost, a draw for each batch, got {draws}")
    if max(costs) > MOST_DRAWS_FOR_ONE * min(costs):
        raise ValueError(
            f"equal_cost: expected estimators of similar cost, got {costs} loss evaluations per draw, so that one"
            f" draw of the most expensive equals {max(costs) // min(costs):,} of the cheapest; leave it out"
        )
    found: dict[int, list[int]] = {}
    for position, cost in enumerate(costs):
        found.setdefault(draws * max(costs) // cost, []).append(position)
    return found
