"""The problems on which estimators are tested: losses given by formulas, on code spaces small enough to enumerate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...k_hot import KHot
from ...latents import BINARY, CATEGORICAL, LatentKind, configurations

TWO_HOT = KHot(2)
KINDS = {kind.name: kind for kind in (CATEGORICAL, BINARY, TWO_HOT)}


@dataclass(frozen=True)
class Problem:
    """A loss on the codes of a few latents, for a few examples; float64 unless cast."""

    name: str
    kind: LatentKind
    logits: Tensor
    of_scores: Callable[[Tensor, Tensor, Tensor], Tensor]  # loss as a function of three linear scores of the code

    def loss(self, codes: Tensor) -> Tensor:
        """f(z, x) of codes (..., example, latent, category): (..., example)."""
        flat = codes.flatten(-1 - self.kind.event_dims)
        scores = flat @ _waves(flat.shape[-1], 3, 2.3).to(flat) + 0.5 * _waves(len(self.logits), 3, 1.7).to(flat)
        return self.of_scores(*scores.unbind(-1))

    def loss_and_derivative(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and v = df/dz at the codes."""
        with torch.enable_grad():
            leaf = codes.detach().clone().requires_grad_()
            loss = self.loss(leaf)
            (derivative,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), derivative

    def loss_at(self, points: Tensor, differentiated: bool = True) -> tuple[Tensor, Tensor | None]:
        """`loss_and_derivative` in the form that `evaluate` calls."""
        loss, derivative = self.loss_and_derivative(points)
        return loss, derivative if differentiated else None

    def configurations(self) -> Tensor:
        """Every code (configuration, latent, category)."""
        latents, categories = self.logits.shape[1], 2 if self.kind is BINARY else self.logits.shape[2]
        count = self.kind.code_count(categories)
        return self.kind.codes(configurations(latents, count, 0, count**latents), categories, torch.float64)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of every code at softmax(logits): (configuration, example)."""
        p, numbers = self.kind.law(logits, 1.0), self.kind.code_indices(self.configurations())
        return p[:, torch.arange(p.shape[1]), numbers].prod(-1).T

    def exact_gradient(self, tf: float) -> Tensor:
        """Gradient of the expected loss under softmax(l/tf), by enumeration and autograd."""
        with torch.enable_grad():
            leaf = self.logits.clone().requires_grad_()
            codes = self.configurations()[:, None].expand(-1, *leaf.shape)
            expected = (self.probabilities(leaf / tf) * self.loss(codes)).sum()
            return torch.autograd.grad(expected, leaf)[0]


def _waves(rows: int, columns: int, step: float) -> Tensor:
    """Numbers in [-1, 1] without a pattern."""
    return torch.sin(step * torch.arange(1, 1 + rows * columns, dtype=torch.float64) ** 1.5).reshape(rows, columns)


def _problem(name: str, kind: LatentKind, shape: tuple[int, ...], of_scores: Callable) -> Problem:
    return Problem(name, kind, 1.3 * _waves(math.prod(shape), 1, 3.1).reshape(shape), of_scores)


PROBLEMS = {
    problem.name: problem
    for problem in (
        _problem("categorical-3x3", CATEGORICAL, (2, 3, 3), lambda r, s, t: torch.exp(0.8 * r) - 2 * torch.tanh(s) * t),
        _problem("categorical-4x2", CATEGORICAL, (2, 2, 4), lambda r, s, t: r**3 - torch.log1p(4 * s**2) + t),
        _problem("binary-4", BINARY, (2, 4), lambda r, s, t: torch.tanh(2 * r) * torch.exp(0.6 * s) + t),
        _problem("binary-3", BINARY, (2, 3), lambda r, s, t: torch.cos(2 * r) + s**3 * t),
        _problem("2-hot-4x2", TWO_HOT, (2, 2, 4), lambda r, s, t: r**3 - torch.log1p(4 * s**2) * t),
    )
}
