"""The exact gradient as an estimator: it evaluates every configuration, so it has neither bias nor variance.

    p = softmax(l/tf):   estimate = (1/tf) sum_z p(z) (f(z) - mean f) z,   mean f = sum_z p(z) f(z)

computed as (1/tf) J(p) c with c_lk = E[f | z_l = k], which does not cancel if a latent is almost certain.

It trains small models on the true gradient. Each example has category^latent evaluations, one per configuration. Only
the shape of the noise matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors
from ..latents import BINARY, CATEGORICAL, LatentKind, codes_at, configurations
from .base import Estimator
from .promises import Constant, SharedPoints
from .registry import register

LIMIT = 2**14  # configurations


@register
@dataclass(frozen=True, kw_only=True)
class Exact(Estimator):
    """The exact gradient by enumeration; refuses spaces of more than LIMIT configurations."""

    name = "exact"
    formula = "(1/tf) sum_z p(z) (f(z) - mean f) z over all configurations, p = softmax(l/tf)"
    reference = "enumeration"
    unbiased = True
    kinds = ("categorical", "binary")
    uses = ("loss",)
    shared_points = SharedPoints("configurations", all_configurations=True)
    exact_moments = Constant()

    def count(self, kind: LatentKind, logits: Tensor) -> int:
        """Number of configurations. Raises SpaceTooLarge, a ValueError, for more than LIMIT."""
        latents, categories = kind.two_category(logits).shape[-2:]
        if categories**latents > LIMIT:
            number = errors.count(*[categories] * latents)
            raise errors.SpaceTooLarge(
                f"estimator: expected at most {LIMIT:,} configurations for exact, got {number}; use rloo, which is"
                " also unbiased, or fewer latents"
            )
        return categories**latents

    def points(self, kind, logits, noise):
        codes = self._codes(kind, logits)
        inner = noise.ndim - codes.ndim  # dimensions of draws and examples
        return codes.reshape(len(codes), *[1] * inner, *codes.shape[1:]).expand(len(codes), *noise.shape[1:])

    def weights(self, kind, logits, points):
        return log_probability(kind, logits / self.tf, points).exp()

    def estimate(self, kind, logits, noise, points, loss, derivative):
        share = self.weights(kind, logits, points)
        share = share * (loss - torch.take_along_dim(loss, share.argmax(0, keepdim=True), 0))
        codes = self._codes(kind, logits)
        codes = torch.stack([codes, 1 - codes], -1) if kind is BINARY else codes
        sums = (share.movedim(0, -1) @ codes.flatten(1)).unflatten(-1, codes.shape[1:])  # p_lk c_lk
        p = torch.softmax(kind.two_category(logits / self.tf), -1)
        gradient = CATEGORICAL.pullback(p, torch.where(p > 0, sums / p, 0.0))
        return (gradient[..., 0] if kind is BINARY else gradient) / self.tf

    def _codes(self, kind: LatentKind, logits: Tensor) -> Tensor:
        count = self.count(kind, logits)
        latents, categories = kind.two_category(logits).shape[-2:]
        indices = configurations(latents, categories, 0, count).to(logits.device)
        return codes_at(indices, categories, kind is BINARY, logits.dtype)


def log_probability(kind: LatentKind, a: Tensor, codes: Tensor) -> Tensor:
    """log p(z) at p = softmax(a), codes (..., example, latent, category) -> (..., example)."""
    return kind.log_probability(a, codes).sum(-1)
