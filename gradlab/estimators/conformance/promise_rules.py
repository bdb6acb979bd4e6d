"""One rule per promise (see `estimators.promises`); a rule applies only if the estimator makes the promise."""

from __future__ import annotations

import dataclasses
import itertools
from statistics import NormalDist

import torch
from torch import Tensor

from ...latents import BINARY
from ..base import Estimator, per_latent
from ..conditional import noise_given_code
from ..promises import LatentSummed, LeaveOneOut, NoiseIntegral
from .problems import Problem
from .rules import Rule, estimate_at, noise_for, points_and_estimate

CONDITIONAL_DRAWS = 2000
FAILURE_RATE = 1e-6  # of one comparison of such draws


def _points_are_codes(estimator: Estimator, problem: Problem) -> str:
    """Points lie in [0, 1]; `codes` of shared_points says whether all are codes."""
    points = estimator.points(problem.kind, problem.logits, noise_for(estimator, problem, (400,)))
    if not bool(((points >= 0) & (points <= 1)).all()):
        return "points leave [0, 1]"
    codes = bool(((points == 0) | (points == 1)).all())
    promised = estimator.shared_points
    return "" if promised is None or codes == promised.codes else f"codes is {promised.codes}"


def _shared_points(estimator: Estimator, problem: Problem) -> str:
    """The key of shared_points is equal exactly where the points are, also at the temperatures that `at` sets."""
    if estimator.shared_points is None:
        return ""
    noise = noise_for(estimator, problem, (400,))
    made = [estimator, *(estimator.at(tf, tb) for tf in (0.3, 3.0) for tb in (0.3, 3.0))]
    points = [one.points(problem.kind, problem.logits, noise) for one in made]
    for (one, at_one), (other, at_other) in itertools.combinations(zip(made, points, strict=True), 2):
        same, keys = torch.equal(at_one, at_other), (one.points_key, other.points_key)
        if (hash(keys[0]) == hash(keys[1]) and keys[0] == keys[1]) != same:
            points_are = "equal" if same else "not equal"
            return f"keys are {keys[0]} and {keys[1]}, the points are {points_are}"
    return ""


def _sample_first(estimator: Estimator, problem: Problem) -> str:
    """With `sample_first` of shared_points, the first point is hard(l/tf + g), the code that all estimators share."""
    if estimator.shared_points is None or not estimator.shared_points.sample_first:
        return ""
    points = estimator.points(problem.kind, problem.logits, noise := noise_for(estimator, problem))
    same = torch.equal(points[0], _sampled(estimator, problem, noise[0]))
    return "" if same else "sample_first, but the first point is not hard(l/tf + g)"


def _all_configurations(estimator: Estimator, problem: Problem) -> str:
    """With `all_configurations` of shared_points, the points are the configurations in their order."""
    if not estimator.all_configurations:
        return ""
    points = estimator.points(problem.kind, problem.logits, noise_for(estimator, problem))
    codes = problem.configurations()
    wanted = codes.reshape(len(codes), 1, 1, *codes.shape[1:])
    if len(points) == len(codes) and torch.equal(points, wanted.expand_as(points)):
        return ""
    return "all_configurations, but the points are not the configurations in their order"


def _pull_back(estimator: Estimator, problem: Problem) -> str:
    """With `pull_back`, the estimate is scale J(softmax(perturbed)) v at the only point; equal keys, equal softmax."""
    promised = estimator.pull_back
    if promised is None or not problem.kind.one_hot:  # the promise is of codes that a softmax relaxes
        return ""
    noise = noise_for(estimator, problem)
    points, estimate = points_and_estimate(estimator, problem, problem.logits, noise)
    if len(points) != 1:
        return f"pull_back, but there are {len(points)} points"
    _, derivative = problem.loss_and_derivative(points)
    a = promised.perturbed(problem.kind, problem.logits, noise)
    pulled = promised.scale * problem.kind.pullback_at(a, derivative[0])
    if not torch.allclose(estimate, pulled.expand_as(estimate), rtol=1e-9, atol=1e-11):
        return "pull_back, but the estimate is not scale J(softmax(perturbed)) v"
    for other in (dataclasses.replace(estimator, tf=factor * estimator.tf) for factor in (0.2, 2, 5)):
        again = other.pull_back
        if again is None or other.relaxation_key != estimator.relaxation_key:
            continue
        if not torch.equal(a, again.perturbed(problem.kind, problem.logits, noise)):
            return "the key of pull_back is equal at another tf, `perturbed` is not"
    return ""


def _function_of_code(estimator: Estimator, problem: Problem) -> str:
    """With FunctionOfCode, the point is hard(l/tf + g), and the estimate depends on the noise only through it."""
    if not estimator.code_only:
        return ""
    noise = noise_for(estimator, problem)
    points, estimate = points_and_estimate(estimator, problem, problem.logits, noise)
    if len(points) != 1 or not torch.equal(points[0], _sampled(estimator, problem, noise[0])):
        return "FunctionOfCode, but the point is not hard(l/tf + g)"
    other = estimate_at(estimator, problem, problem.logits, noise.flip(1), points)
    return "" if torch.equal(estimate, other) else "FunctionOfCode, but the estimate depends on the noise"


def _constant(estimator: Estimator, problem: Problem) -> str:
    """With Constant, all draws are equal."""
    if not estimator.noise_free:
        return ""
    _, estimate = points_and_estimate(estimator, problem, problem.logits, noise_for(estimator, problem))
    same = torch.allclose(estimate, estimate[:1].expand_as(estimate), rtol=1e-12, atol=1e-14)
    return "" if same else "Constant, but draws differ"


def _leave_one_out(estimator: Estimator, problem: Problem) -> str:
    """With LeaveOneOut(n), the points are n codes hard(l/tf + g_i) and the estimate is the covariance of f and code."""
    stated = estimator.exact_moments
    if not isinstance(stated, LeaveOneOut):
        return ""
    noise = noise_for(estimator, problem)
    points, estimate = points_and_estimate(estimator, problem, problem.logits, noise)
    if len(points) != stated.n or not torch.equal(points, _sampled(estimator, problem, noise[: stated.n])):
        return "LeaveOneOut, but the points are not hard(l/tf + g_i)"
    loss = problem.loss(points)
    steps = problem.kind.score(problem.logits / estimator.tf, points)
    wanted = (per_latent(problem.kind, loss - loss.mean(0)) * steps).sum(0) / ((stated.n - 1) * estimator.tf)
    same = torch.allclose(estimate, wanted, rtol=1e-9, atol=1e-11)
    return "" if same else "LeaveOneOut, but the estimate is not 1/tf 1/(n-1) sum_i (f_i - mean f) (z_i - p)"


def _latent_summed(estimator: Estimator, problem: Problem) -> str:
    """With LatentSummed, the estimate is (1/tf) J(p_l) f_l at the code that noise array 0 samples."""
    if not isinstance(estimator.exact_moments, LatentSummed):
        return ""
    noise = noise_for(estimator, problem)
    points, estimate = points_and_estimate(estimator, problem, problem.logits, noise)
    code = points[0]
    if not torch.equal(code, _sampled(estimator, problem, noise[0])):
        return "LatentSummed, but the first point is not hard(l/tf + g)"
    kind, a = problem.kind, problem.logits / estimator.tf
    wanted = torch.zeros_like(estimate)
    for latent in range(a.shape[1]):
        other = code.clone()
        if kind is BINARY:
            other[..., latent] = 1.0
            on = problem.loss(other)
            other[..., latent] = 0.0
            wanted[..., latent] = on - problem.loss(other)
        else:
            for category, one in enumerate(torch.eye(a.shape[2], dtype=a.dtype)):
                other[..., latent, :] = one
                wanted[..., latent, category] = problem.loss(other)
    wanted = kind.pullback_at(a, wanted) / estimator.tf
    same = torch.allclose(estimate, wanted, rtol=1e-9, atol=1e-11)
    return "" if same else "LatentSummed, but the estimate is not (1/tf) J(p_l) f_l, f_lk the loss with latent l at k"


def _noise_integral(estimator: Estimator, problem: Problem) -> str:
    """With NoiseIntegral, the estimate has the promised law, given the code that noise array 0 samples."""
    stated = estimator.exact_moments
    if not isinstance(stated, NoiseIntegral) or not problem.kind.one_hot:
        return ""
    noise = noise_for(estimator, problem)
    points, estimate = points_and_estimate(estimator, problem, problem.logits, noise)
    if len(points) != 1 or not torch.equal(points[0], _sampled(estimator, problem, noise[0])):
        return "NoiseIntegral, but the point is not hard(l/tf + g)"
    _, derivative = problem.loss_and_derivative(points)
    wrong = "NoiseIntegral, but the estimate is not 1/draws sum_i (1/tb) J(softmax(l/tb + power g_i)) v"
    if stated.draws == 1 and torch.allclose(estimate, _relaxed(stated, problem, noise[0], derivative[0]), rtol=1e-9):
        return ""  # g_1 is the noise that sampled the code
    code, v = points[0, 0], derivative[0, 0]
    shape = (max(estimator.noise_arrays, stated.draws + 1), CONDITIONAL_DRAWS, *problem.logits.shape)
    mine, fresh = (problem.kind.noise(shape, dtype=torch.float64, generator=_seeded(seed)) for seed in (2, 3))
    mine[0] = noise[0, 0]
    given = problem.logits, mine[: estimator.noise_arrays], code.expand(1, *shape[1:])
    found = estimate_at(estimator, problem, *given)
    a = problem.logits / estimator.tf
    of_each = [noise_given_code(problem.kind, a, code.expand(shape[1:]), g) for g in fresh[: stated.draws]]
    wanted = torch.stack([_relaxed(stated, problem, g, v) for g in of_each]).mean(0)
    return "" if _same_moments(found, wanted) else f"{wrong} in law, given the code"


def _relaxed(stated: NoiseIntegral, problem: Problem, g: Tensor, v: Tensor) -> Tensor:
    return problem.kind.pullback_at(problem.logits / stated.tb + stated.power * g, v) / stated.tb


def _same_moments(one: Tensor, other: Tensor) -> bool:
    """Whether means and variances over independent draws (the first dim) agree within their standard errors."""
    centre = other.mean(0)
    sizes = [(a - centre, (a - centre).square()) for a in (one, other)]
    threshold = -NormalDist().inv_cdf(FAILURE_RATE / centre.numel() / 4)
    for a, b in zip(*sizes, strict=True):
        error = ((a.var(0) + b.var(0)) / len(a)).sqrt() + 1e-12
        if bool(((a.mean(0) - b.mean(0)).abs() > threshold * error).any()):
            return False
    return True


def _sampled(estimator: Estimator, problem: Problem, g: Tensor) -> Tensor:
    return problem.kind.hard(problem.logits / estimator.tf + g)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PROMISE_RULES: dict[str, Rule] = {
    "points": _points_are_codes,
    "shared points": _shared_points,
    "first sample": _sample_first,
    "all configurations": _all_configurations,
    "pull-back": _pull_back,
    "function of the code": _function_of_code,
    "no noise": _constant,
    "leave one out": _leave_one_out,
    "latent summed": _latent_summed,
    "noise integral": _noise_integral,
}
