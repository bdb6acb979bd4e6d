"""Tests whether an estimator has the same moments on every sampling route, alone and together with other estimators.

Routes use promises for short cuts: they share points, loss evaluations and relaxed codes between estimators, and leave
out noise. The oracle uses none: it computes one draw after another from the estimator's functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator

import torch
from torch import Tensor, nn

from ... import sampling
from ...k_hot import KHot
from ...latents import BINARY
from ...model import LatentModel
from ...setup import Setup
from .. import registry
from ..base import Estimator
from ..evaluation import baselines_of
from .problems import Problem

DRAWS = 32  # one per batch
_ROUNDING = 1e-9


def difference(estimator: Estimator, problem: Problem) -> str:
    """In words, the first route whose moments differ from those of the functions; "" if all agree."""
    noise = sampling.Noise(problem.kind, problem.logits, estimator.noise_arrays, DRAWS, 0)
    estimates = torch.stack(list(_draw_by_draw(estimator, problem, noise)))
    mean, variance = estimates.mean(0), estimates.var(0)
    size = float(mean.abs().max() + variance.max().sqrt()) or 1.0
    for name, found in _routes(estimator, problem):
        off = float((found[0] - mean).abs().max()) / size
        if len(found) > 1:
            off = max(off, float((found[1] - variance).abs().max()) / size**2)
        if not off < _ROUNDING:
            return f"{name}, off by {off:.1e} from draw by draw (is a promise stated that its functions do not keep?)"
    return ""


def _draw_by_draw(estimator: Estimator, problem: Problem, noise: sampling.Noise) -> Iterator[Tensor]:
    (mean,) = baselines_of([estimator])
    for draw in range(DRAWS):
        g = noise.of(estimator.noise_arrays, draw, draw + 1)[:, 0]
        points = estimator.points(problem.kind, problem.logits, g)
        loss, derivative = problem.loss_and_derivative(points)
        f = loss if mean is None else mean.centre(loss)
        given = f if estimator.uses_loss else None, derivative if estimator.uses_derivative else None
        yield estimator.estimate(problem.kind, problem.logits, g, points, *given)


def _routes(estimator: Estimator, problem: Problem) -> Iterator[tuple[str, list[Tensor]]]:
    """Yields the name of each route, and its mean and, if available, variance."""
    setup = _setup(problem)
    others = _others(estimator, problem)
    orders = {"alone": [estimator], "before others": [estimator, *others], "after others": [*others, estimator]}
    for beside, several in orders.items():
        arrays = max(e.noise_arrays for e in several)
        noise = sampling.Noise(problem.kind, problem.logits, arrays, DRAWS, 0)
        for route in ("pairs", "draws"):
            found = sampling.sample_moments(setup, several, noise, decoder=route)
            yield f"route {route}, {beside}", _moments(found[several.index(estimator)])
    if estimator.baseline_decay is None and not estimator.all_configurations:
        paired = sampling.PairedDraws(setup, [*others, estimator], 2)
        paired.add(DRAWS // 2)
        yield "beside a sampled reference", [paired.sums[-1].mean.mean(0)]


def _moments(found: sampling.BatchMoments) -> list[Tensor]:
    """Mean and variance of all draws; batches have equal sizes."""
    count, mean = float(found.count[0]), found.mean.mean(0)
    squares = found.squares.sum(0) + count * (found.mean - mean).square().sum(0)
    return [mean, squares / (DRAWS - 1)]


def _others(estimator: Estimator, problem: Problem) -> list[Estimator]:
    """Base classes and built-in estimators that share points or relaxed codes with it; at least two.

    All have the estimator's temperatures, so that they share everything that can be shared.
    """
    tb = getattr(estimator, "tb", estimator.tf)
    always = [registry.find(name) for name in ("decoupled-st-gs", "rloo")]
    ancestors = [cls for cls in type(estimator).__mro__[1:] if issubclass(cls, Estimator)]
    every = dict.fromkeys([*always, *ancestors, *(registry.find(name) for name in registry.names())])
    there = [other.at(estimator.tf, tb) for cls in every if (other := _made(cls)) and problem.kind.name in cls.kinds]
    return [
        other
        for other in there
        if (type(other) in always or _keys(other) & _keys(estimator))
        and other != estimator
        and other.baseline_decay is None
        and not other.all_configurations
    ]


def _made(cls: type[Estimator]) -> Estimator | None:
    """An instance of the class with default parameters, or None if that is impossible."""
    if not isinstance(getattr(cls, "name", None), str):
        return None
    with contextlib.suppress(TypeError):
        return cls()
    return None


def _keys(estimator: Estimator) -> set[Hashable]:
    """The keys of points and relaxed codes that it may share with others."""
    return {estimator.points_key, estimator.relaxation_key} - {None}


def _setup(problem: Problem) -> Setup:
    """The problem as a model; the observations are the indices of the examples."""
    latents = problem.logits.shape[1]
    shape = problem.logits.shape[1:]

    def loss(codes: Tensor, example: Tensor) -> Tensor:
        every = codes.reshape(len(codes), 1, *shape).expand(-1, len(problem.logits), *shape)
        return problem.loss(every).gather(1, example.long())[:, 0]

    binary = problem.kind is BINARY
    categories = 2 if binary else shape[-1]
    top_k = problem.kind.k if isinstance(problem.kind, KHot) else None
    model = LatentModel(
        *(nn.Flatten(), nn.Flatten()),
        latents=latents,
        categories=categories,
        binary=binary,
        likelihood=loss,
        top_k=top_k,
    )
    x = torch.arange(len(problem.logits), dtype=problem.logits.dtype)[:, None]
    return Setup(model, model, x, problem.logits)
