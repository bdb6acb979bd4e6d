"""Estimators at the sites of a program: a layer whose backward pass is the estimate, or scores of whole paths.

An estimator whose estimate is a linear function of the derivative v at one point is a layer: forward its point,
backward v -> estimate(v). Score functions weigh whole paths: with n paths of independent noise, losses f_i per example
and the log-probability log p_i of the path, summed over its sites, autograd differentiates

    rloo        1/(n-1) sum_i (f_i - mean f) log p_i  +  1/n sum_i f_i
    reinforce   f log p + f

whose weights are constants. The second sum is the path-wise part: at fixed codes, too, the loss depends on the
parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..estimators import Estimator
from ..estimators.evaluation import estimate_of, points_of
from ..estimators.exact import Exact
from ..estimators.score_function import RLOO, Reinforce
from ..latents import LatentKind, bounded
from .sites import LogProbability, Sampler, Site, folded
from .stand_in import StandIn, own_calls


def check_serves(estimator: Estimator, sites: Sequence[Site]) -> None:
    """ValueError, with what to use, unless the estimator has a form for programs with such sites."""
    other = next((site.kind for site in sites if site.kind.name not in estimator.kinds), None)
    if other is not None:
        kinds = " and ".join(estimator.kinds)
        raise ValueError(
            f"estimator: expected one for {other.name} latents, which the program samples, got {estimator.label}, which"
            f" is for {kinds} latents"
        )
    if estimator.baseline_decay is not None:
        raise ValueError(
            f"estimator: expected draws that do not depend on each other for a Program, got {estimator.label}; take"
            " rloo, whose baseline is the other paths"
        )
    if isinstance(estimator, RLOO | Reinforce | Exact) or is_layer(estimator, sites):
        return
    raise ValueError(
        f"estimator: expected a layer at each site, one point and an estimate linear in df/dz, or a score function of"
        f" whole paths (rloo, reinforce) for a Program, got {estimator.label}; take rloo, which is unbiased"
    )


def is_layer(estimator: Estimator, sites: Sequence[Site]) -> bool:
    """Whether the estimate is a function of the derivative at one point."""
    if estimator.uses_loss or not estimator.uses_derivative:
        return False
    return all(estimator.evaluations_at(site.kind, torch.empty(1, *site.shape)) == 1 for site in sites)


def paths_of(estimator: Estimator) -> int:
    """Runs of the program per draw."""
    return estimator.n if isinstance(estimator, RLOO) else 1


def arrays_of(estimator: Estimator) -> int:
    """Noise arrays per draw and site."""
    return paths_of(estimator) if isinstance(estimator, RLOO | Reinforce) else estimator.noise_arrays


NoiseOf = Callable[[int, Site], Tensor]  # noise (array, row, latent[, category]) of the site at a place


class Layers(Sampler):
    """Codes of an estimator that is a layer."""

    def __init__(self, rows: int, mode: StandIn, estimator: Estimator, noise: NoiseOf):
        super().__init__(rows, mode)
        self.estimator, self.noise = estimator, noise

    def code(self, kind: LatentKind, logits: Tensor) -> Tensor:
        noise = self.noise(len(self.sites) - 1, self.sites[-1])
        return Layer.apply(logits, noise, self.estimator, kind)


class Scores(Sampler):
    """Codes hard(l/tf + g) without gradient, from one noise array of each site; log-probabilities of them."""

    def __init__(self, rows: int, mode: StandIn, tf: float, noise: NoiseOf, array: int):
        super().__init__(rows, mode)
        self.tf, self.noise, self.array = tf, noise, array
        self.log_probabilities: list[Tensor] = []

    def code(self, kind: LatentKind, logits: Tensor) -> Tensor:
        noise = self.noise(len(self.sites) - 1, self.sites[-1])[self.array]
        code = kind.hard(bounded(kind, logits.detach(), checked=False) / self.tf + noise)  # LogProbability checks
        self.log_probabilities.append(LogProbability.apply(logits, code, self.tf, kind))
        return code

    def of_path(self) -> Tensor:
        """Log-probability of each row's path."""
        return torch.stack(self.log_probabilities).sum(0)


class Layer(torch.autograd.Function):
    """Forward the estimator's point, backward v -> its estimate."""

    @staticmethod
    def forward(logits: Tensor, noise: Tensor, estimator: Estimator, kind: LatentKind) -> Tensor:
        return points_of(estimator, kind, bounded(kind, logits), noise)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        logits, noise, *ctx.rest = inputs
        ctx.save_for_backward(logits, noise, output)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> Any:
        return Estimate.apply(*ctx.saved_tensors, *of_output, *ctx.rest), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Tensor, noise: Tensor, *rest: Any) -> Any:
        rows = folded(info.batch_size, in_dims, (logits, noise), (0, 1))
        return Layer.apply(*rows, *rest).unflatten(0, (info.batch_size, -1)), 0


class Estimate(torch.autograd.Function):
    """The estimate from the derivative at the point."""

    @staticmethod
    def forward(
        logits: Tensor,
        noise: Tensor,
        point: Tensor,
        derivative: Tensor,
        estimator: Estimator,
        kind: LatentKind,
    ) -> Tensor:
        with own_calls():
            fixed = bounded(kind, logits.detach())
            return estimate_of(estimator, kind, fixed, noise, point[None], point.new_empty(0), derivative[None])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None: ...

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, logits: Tensor, noise: Tensor, point: Tensor, derivative: Tensor, *rest: Any
    ) -> Any:
        rows = folded(info.batch_size, in_dims, (logits, noise, point, derivative), (0, 1, 0, 0))
        return Estimate.apply(*rows, *rest).unflatten(0, (info.batch_size, -1)), 0
