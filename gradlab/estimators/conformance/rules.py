"""Rules for every estimator: each is a function that returns in words how the rule is broken, or ""."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from .. import probing
from ..base import Estimator
from .problems import Problem

Rule = Callable[[Estimator, Problem], str]
_OF_DECODER = 2000  # draws of the loss that trains the decoder


def noise_for(
    estimator: Estimator, problem: Problem, draws: tuple[int, ...] = (40,), dtype: torch.dtype = torch.float64
) -> Tensor:
    shape = (estimator.noise_arrays, *draws, *problem.logits.shape)
    generator = torch.Generator().manual_seed(1)
    return problem.kind.noise(shape, dtype=torch.float64, generator=generator).to(dtype)


def points_and_estimate(estimator: Estimator, problem: Problem, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Points and estimate; `estimate` gets only the loss or derivative that the estimator uses."""
    points = estimator.points(problem.kind, logits, noise)
    return points, estimate_at(estimator, problem, logits, noise, points)


def estimate_at(estimator: Estimator, problem: Problem, logits: Tensor, noise: Tensor, points: Tensor) -> Tensor:
    loss, derivative = problem.loss_and_derivative(points)
    f, v = loss if estimator.uses_loss else None, derivative if estimator.uses_derivative else None
    return estimator.estimate(problem.kind, logits, noise, points, f, v)


def _shapes(estimator: Estimator, problem: Problem) -> str:
    """Points, estimate and weights, if any, are finite and have the shapes and the dtype of the protocol."""
    evaluations = estimator.evaluations_at(problem.kind, problem.logits)
    for dtype in (torch.float32, torch.float64):
        for draws in ((), (3,), (2, 3)):
            noise = noise_for(estimator, problem, draws, dtype)
            logits = problem.logits.to(dtype)
            points, estimate = points_and_estimate(estimator, problem, logits, noise)
            weights = estimator.weights(problem.kind, logits, points)
            wanted = [(evaluations, *noise.shape[1:]), noise.shape[1:]]
            given = [points, estimate]
            if weights is not None:
                wanted.append((evaluations, *draws, len(logits)))
                given.append(weights)
                if not torch.allclose(weights.sum(0), torch.ones_like(weights[0]), atol=1e-5):
                    return f"weights sum to {weights.sum(0).flatten()[0].item()}, not 1"
            for name, found, shape in zip(("points", "estimate", "weights"), given, wanted, strict=False):
                if found.shape != shape or found.dtype != dtype:
                    return f"{name} are {tuple(found.shape)} {found.dtype}, not {tuple(shape)} {dtype}"
                if not bool(torch.isfinite(found).all()):
                    return f"{name} are not finite"
    return ""


def _purity(estimator: Estimator, problem: Problem) -> str:
    """No argument is changed, equal inputs give equal outputs, and the noise is the only source of randomness."""
    state = torch.random.get_rng_state()
    logits, noise = problem.logits.clone(), noise_for(estimator, problem)
    before = noise.clone()
    points = estimator.points(problem.kind, logits, noise)
    of_points = points.clone()
    loss, derivative = problem.loss_and_derivative(points)
    given = (loss.clone(), derivative.clone())
    once, again = (estimator.estimate(problem.kind, logits, noise, points, loss, derivative) for _ in range(2))
    pairs = ((logits, problem.logits), (noise, before), (points, of_points), (loss, given[0]), (derivative, given[1]))
    for name, (now, then) in zip(("logits", "noise", "points", "loss", "derivative"), pairs, strict=True):
        if not torch.equal(now, then):
            return f"{name} are changed in place"
    same = torch.allclose(once, again, rtol=0, atol=0, equal_nan=True)
    if not same or not torch.equal(points, estimator.points(problem.kind, logits, noise)):
        return "equal inputs give other outputs"
    return "" if torch.equal(state, torch.random.get_rng_state()) else "the global random state is touched"


def _draws_and_examples_apart(estimator: Estimator, problem: Problem) -> str:
    """Each draw and each example is treated as if it were alone."""
    noise = noise_for(estimator, problem, (5,))
    _, whole = points_and_estimate(estimator, problem, problem.logits, noise)
    apart = [points_and_estimate(estimator, problem, problem.logits, noise[:, draw])[1] for draw in range(5)]
    if not torch.allclose(whole, torch.stack(apart), rtol=1e-9, atol=1e-11):
        return "an estimate depends on the other draws"
    points = estimator.points(problem.kind, problem.logits, noise)
    loss, derivative = problem.loss_and_derivative(points)
    example = noise.ndim - 2 - problem.kind.event_dims
    for i in range(len(problem.logits)):
        logits, some = problem.logits[i : i + 1], noise.narrow(example, i, 1)
        at = estimator.points(problem.kind, logits, some)
        part = (loss.narrow(-1, i, 1), derivative.narrow(example, i, 1))
        if not torch.allclose(at, points.narrow(example, i, 1), rtol=1e-9, atol=1e-11):
            return "points depend on the other examples"
        alone = estimator.estimate(problem.kind, logits, some, at, *part)
        if not torch.allclose(alone, whole.narrow(example - 1, i, 1), rtol=1e-9, atol=1e-11):
            return "an estimate depends on the other examples"
    return ""


def _permutation(estimator: Estimator, problem: Problem) -> str:
    """No latent is treated differently because of its place."""
    axis = -1 - problem.kind.event_dims
    order = torch.arange(problem.logits.shape[axis]).roll(1)
    back = order.argsort()
    noise = noise_for(estimator, problem)
    _, plain = points_and_estimate(estimator, problem, problem.logits, noise)
    logits, moved_noise = problem.logits.index_select(axis, order), noise.index_select(axis, order)
    points = estimator.points(problem.kind, logits, moved_noise)
    loss, derivative = problem.loss_and_derivative(points.index_select(axis, back))
    derivative = derivative.index_select(axis, order)
    moved = estimator.estimate(problem.kind, logits, moved_noise, points, loss, derivative)
    same = torch.allclose(moved, plain.index_select(axis, order), rtol=1e-9, atol=1e-11)
    return "" if same else "permuting the latents does not permute the estimate"


def _precisions(estimator: Estimator, problem: Problem) -> str:
    """Float32 gives the results of float64, except for rounding."""
    logits, noise = problem.logits.float(), noise_for(estimator, problem, dtype=torch.float32)
    points, single = points_and_estimate(estimator, problem, logits, noise)
    double = estimate_at(estimator, problem, logits.double(), noise.double(), points.double())
    worst = float((single.double() - double).abs().max() / double.abs().max())
    return f"float32 is off by {worst:.1e} of the largest coordinate" if not worst < 1e-3 else ""


def _saturation(estimator: Estimator, problem: Problem) -> str:
    """Points and estimate stay finite at very large logits."""
    for size, dtype in ((1e4, torch.float64), (80.0, torch.float32)):
        for shifted in (0, 1):  # the signs of the logits, and the opposite signs
            logits = (problem.logits.sign() * (-1) ** shifted * size).to(dtype)
            for tf in (0.5, 1.0, 2.0):
                tempered = dataclasses.replace(estimator, tf=tf)
                noise = noise_for(tempered, problem, dtype=dtype)
                points, estimate = points_and_estimate(tempered, problem, logits, noise)
                given = [points, estimate]
                if tempered.code_only:  # also at codes that are never sampled
                    codes = problem.configurations().to(dtype)[:, None].expand(-1, *logits.shape)
                    some = noise[:, :1].expand(-1, len(codes), *logits.shape)
                    given.append(estimate_at(tempered, problem, logits, some, codes[None]))
                if not all(bool(torch.isfinite(t).all()) for t in given):
                    return f"not finite at logits of {size:g} in {dtype}, tf = {tf:g}"
    return ""


def _tensors(estimator: Estimator, problem: Problem) -> str:
    """Two models together, each at its own temperatures, get the same estimates as alone."""
    latent = problem.logits.shape[1:]
    return "" if probing.tensors_agree(estimator, problem.kind, tuple(latent)) else "the two get other estimates"


def _arrays(estimator: Estimator, problem: Problem) -> str:
    """More noise arrays than `noise_arrays` change nothing."""
    shape = (estimator.noise_arrays + 1, 40, *problem.logits.shape)
    noise = problem.kind.noise(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    few, more = (points_and_estimate(estimator, problem, problem.logits, given) for given in (noise[:-1], noise))
    for one, other in zip(few, more, strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-9, atol=1e-11):
            return f"noise_arrays is {estimator.noise_arrays}, and one array more gives another estimate"
    return ""


def _decoder(estimator: Estimator, problem: Problem) -> str:
    """If declared unbiased, so is the loss that trains the decoder: the weighted one has the mean E[f]."""
    if not estimator.unbiased:
        return ""
    noise, logits = noise_for(estimator, problem, (_OF_DECODER,)), problem.logits
    points = estimator.points(problem.kind, logits, noise)
    loss, shares = problem.loss(points), estimator.weights(problem.kind, logits, points)
    loss = loss.mean(0) if shares is None else (shares * loss).sum(0)
    codes = problem.configurations()[:, None].expand(-1, *logits.shape)
    expected = (problem.probabilities(logits / estimator.law_tf) * problem.loss(codes)).sum(0)
    off, error = (loss.mean(0) - expected).abs(), loss.std(0) / _OF_DECODER**0.5 + 1e-10 * expected.abs()
    i = int((off / error).argmax())
    if off[i] < 5.5 * error[i]:  # by chance: one normal number in 3 x 10^7 is further off
        return ""
    return (
        f"the loss that trains the decoder has the mean {float(loss.mean(0)[i]):.4g} ± {float(error[i]):.2g}, not"
        f" E[f] = {float(expected[i]):.4g}; state `weights`, the shares of the points"
    )


RULES: dict[str, Rule] = {
    "shapes and dtype": _shapes,
    "pure functions": _purity,
    "draws and examples": _draws_and_examples_apart,
    "order of latents": _permutation,
    "float32": _precisions,
    "saturated logits": _saturation,
    "temperatures as tensors": _tensors,
    "noise arrays": _arrays,
    "loss of the decoder": _decoder,
}
