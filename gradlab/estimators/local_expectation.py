"""Local expectation gradient: each latent is summed over, the others stay as sampled.

    D ~ p = softmax(l/tf),   f_lk = f(D with latent l set to k):   estimate_l = (1/tf) J(p_l) f_l

Unbiased for any loss, differentiable or not: E[f_lk] over the other latents is E[f | z_l = k]. It costs
latents (categories - 1) + 1 evaluations, and is free of the variance that the latent itself contributes. IndeCateR is
this estimator. Binary: f_l1 - f_l0 times p(1-p).

References: Titsias, Lazaro-Gredilla 2015; De Smet, Sansone, Zuidberg Dos Martires 2023 (arXiv 2311.12569).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..latents import BINARY, LatentKind, masked
from .base import Estimator
from .promises import LatentSummed, SharedPoints
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class LocalExpectation(Estimator):
    """Points: the code D, then for shift j = 1 .. categories-1 and latent l, D with latent l moved j categories on.

    An impossible category is not evaluated; D stands in its place, and its probability of 0 leaves it out.
    """

    name = "leg"
    formula = "(1/tf) J(p_l) f_l for every latent l, f_lk = f(D with latent l set to k), D ~ p = softmax(l/tf)"
    reference = "Titsias, Lazaro-Gredilla 2015; De Smet, Sansone, Zuidberg Dos Martires 2023"
    unbiased = True
    kinds = ("categorical", "binary")
    uses = ("loss",)
    noise_arrays = 1
    exact_moments = LatentSummed()

    @property
    def shared_points(self):
        return SharedPoints(("code and neighbours", self.tf), sample_first=True)

    def points(self, kind, logits, noise):
        code = kind.hard(logits / self.tf + noise[0])
        impossible = masked(kind, logits)
        neighbours = [_others(kind, code, shifted) for shifted in _moved_on(kind, code, impossible)]
        return torch.cat([code[None], *neighbours])

    def weights(self, kind, logits, points):
        # of the mean over latents of sum_k p_lk f_lk, whose mean is E[f]: the neighbours are no sample of p
        a, code = logits / self.tf, points[0]
        p, differs = kind.soft(a), points != code
        if kind is BINARY:
            p = torch.where(points > 0.5, p, torch.sigmoid(-a))
        else:
            p, differs = (points * p).sum(-1), differs.any(-1)  # an impossible neighbour does not differ
        differs[0] = True
        return (p * differs).mean(-1)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a, code = logits / self.tf, points[0]
        of_latents = loss[1:].unflatten(0, (-1, a.shape[-1 - kind.event_dims]))
        moved = of_latents.movedim(1, -1)  # (shift, ..., example, latent)
        if kind is BINARY:
            of_one_more = torch.where(code > 0.5, loss[0][..., None] - moved[0], moved[0] - loss[0][..., None])
            return kind.pullback_at(a, of_one_more) / self.tf
        by_shift = torch.cat([loss[0][..., None].expand_as(moved[:1]), moved]).movedim(0, -1)
        categories = a.shape[-1]
        shift = (torch.arange(categories, device=a.device) - code.argmax(-1, keepdim=True)) % categories
        return kind.pullback_at(a, by_shift.gather(-1, shift)) / self.tf


def _moved_on(kind: LatentKind, code: Tensor, impossible: Tensor) -> list[Tensor]:
    """The code with all latents 1, 2, .. categories on; those that would become impossible stay."""
    if kind is BINARY:
        return [1 - code]
    shifted = (code.roll(shift, -1) for shift in range(1, code.shape[-1]))
    return [torch.where(((moved > 0) & impossible).any(-1, keepdim=True), code, moved) for moved in shifted]


def _others(kind: LatentKind, code: Tensor, moved: Tensor) -> Tensor:
    """(latent, ...): for each latent, the code with this latent alone as in `moved`."""
    latent_dim = -1 - kind.event_dims
    latents = code.shape[latent_dim]
    only = torch.eye(latents, dtype=torch.bool, device=code.device)
    only = only.reshape(latents, *[1] * (code.ndim + latent_dim), latents, *[1] * kind.event_dims)
    return torch.where(only, moved, code)
