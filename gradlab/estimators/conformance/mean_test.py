"""The statistical test: the mean of many estimates against the exact gradient.

It measures the deviation of each coordinate in standard errors. With Bonferroni's correction over coordinates, an
unbiased estimator is called biased with probability `FAILURE_RATE` per problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ... import errors
from ...latents import generator_seed
from ..base import Estimator
from ..evaluation import baselines_of, evaluate
from .problems import Problem

FAILURE_RATE = 1e-6  # per problem
CHUNK = 2**22  # numbers of noise and points at a time
Advance = Callable[[int], object]


def unseen(draws: int) -> None:
    """No progress display."""


@dataclass(frozen=True)
class Verdict:
    """The mean estimate of one problem against the exact gradient; norms over example, latent and category."""

    problem: str
    draws: int
    exact_norm: float
    bias_norm: float  # of mean - exact
    standard_error: float  # of the mean: sqrt(sum of variances / draws), the size of bias_norm if there is no bias
    variance: float  # sum of the variances of one estimate
    z: float  # largest deviation of a coordinate, in standard errors
    p_value: float  # Bonferroni over coordinates
    resolution: float  # bias of one coordinate, relative to exact_norm, that is detected with probability 1/2 or more
    failure_rate: float

    @property
    def biased(self) -> bool:
        return self.p_value < self.failure_rate

    @property
    def relative_bias(self) -> float:
        return self.bias_norm / self.exact_norm


def bias(
    estimator: Estimator,
    problem: Problem,
    *,
    draws: int = 200_000,
    seed: int = 0,
    failure_rate: float = FAILURE_RATE,
    advance: Advance = unseen,
) -> Verdict:
    """The Verdict on the mean of `draws` estimates, against the exact gradient of the law that is sampled.

    Raises ValueError if `draws` is below 2.
    """
    draws = errors.whole_number("draws", draws, 2, "a variance needs two")
    exact = problem.exact_gradient(estimator.law_tf)
    deviation, variance = moments(estimator, problem, exact, draws, seed, advance)
    return judge(problem, exact, deviation, variance, draws, failure_rate)


def moments(
    estimator: Estimator, problem: Problem, exact: Tensor, draws: int, seed: int, advance: Advance = unseen
) -> tuple[Tensor, Tensor]:
    """Mean of the estimates minus `exact`, and their variance, per coordinate."""
    total, squares = torch.zeros_like(exact), torch.zeros_like(exact)
    for estimates in estimates_of(estimator, problem, draws, seed):
        deviation = estimates - exact  # centred near the mean, so that the squares do not cancel
        total += deviation.sum(0)
        squares += deviation.square().sum(0)
        advance(len(estimates))
    deviation = total / draws
    return deviation, ((squares / draws - deviation.square()) * (draws / (draws - 1))).clamp(min=0)


def judge(
    problem: Problem, exact: Tensor, deviation: Tensor, variance: Tensor, draws: int, failure_rate: float
) -> Verdict:
    """The Verdict on a mean of `draws` estimates; `deviation` is mean - exact, `variance` that of one estimate."""
    norm, coordinates = float(exact.norm()), exact.numel()
    error = (variance / draws).sqrt() + 1e-12 * norm  # rounding
    z = float((deviation.abs() / error).max())
    threshold = -NormalDist().inv_cdf(failure_rate / coordinates / 2)
    return Verdict(
        problem=problem.name,
        draws=draws,
        exact_norm=norm,
        bias_norm=float(deviation.norm()),
        standard_error=float((variance / draws).sum().sqrt()),
        variance=float(variance.sum()),
        z=z,
        p_value=min(1.0, coordinates * math.erfc(z / math.sqrt(2))) if math.isfinite(z) else 0.0,
        resolution=threshold * float(error.max()) / norm,
        failure_rate=failure_rate,
    )


def estimates_of(estimator: Estimator, problem: Problem, draws: int, seed: int) -> Iterator[Tensor]:
    """Estimates (draw, example, latent, category) in chunks."""
    kind, logits = problem.kind, problem.logits
    generator = torch.Generator().manual_seed(generator_seed(seed))
    arrays, evaluations = estimator.noise_arrays, estimator.evaluations_at(kind, logits)
    chunk = max(1, CHUNK // (logits.numel() * (arrays + 4 * evaluations)))
    baselines = baselines_of([estimator])
    for start in range(0, draws, chunk):
        shape = (arrays, min(chunk, draws - start), *logits.shape)
        noise = kind.noise(shape, dtype=logits.dtype, generator=generator)
        yield from evaluate([estimator], kind, logits, noise, problem.loss_at, baselines)
