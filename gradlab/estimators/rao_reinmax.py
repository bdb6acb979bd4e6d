"""ReinMax with relaxed midpoints: its Jacobian at pi = (D + p)/2 replaced, or corrected, by that of a Gumbel-softmax.

    D ~ p = softmax(l/tf),  theta_D = log((D + p)/2),  G'_i Gumbel given that theta_D + G'_i has its largest entry at D
    R = 1/k sum_i (1/tb) J(softmax((theta_D + G'_i)/tb)) v(D),   C = (1/tb) J(softmax((theta_D + G)/tb)) v(D)

    reinmax-rao   (1/tf) [2 R - J(p) v(D)/2]
    reinmax-cv    (1/tf) [2 J(pi) v(D) - J(p) v(D)/2 - eta (C - R)]

with G the noise that sampled D. Both are biased. A control variate must have mean 0, and C - R has not: G has its
largest entry of l/tf + G at D, but G' that of theta_D + G'. On small quadratic losses |E[C - R]| measures 0.1 to 0.5 of
the exact gradient's norm, and the variance rises with eta. Published implementations differ in a factor of 2 before
C - R, which eta absorbs.

Reference: Wang, Bui 2026, "Beyond ReinMax" (arXiv 2603.08257).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..latents import LatentKind
from . import parameters
from .base import Relaxation
from .conditional import noise_given_code
from .promises import follows
from .registry import register
from .second_order import midpoint_pullback


@dataclass(frozen=True, kw_only=True)
class RelaxedMidpoint(Relaxation):
    """What both share: theta_D, and the pull-back R averaged over k noise arrays."""

    k: int = parameters.whole(10, at_least=1)

    reference = "Wang, Bui 2026"

    @property
    @follows("estimate")
    def noise_arrays(self):
        return 1 + self.k

    def theta(self, kind: LatentKind, logits: Tensor, code: Tensor) -> Tensor:
        """log((D + p)/2), which underflows nowhere."""
        log_p = torch.log_softmax(logits / self.tf, -1)
        return torch.where(code > 0.5, torch.log1p(log_p.exp()), log_p) - math.log(2)

    def averaged(self, kind: LatentKind, theta: Tensor, code: Tensor, noise: Tensor, v: Tensor) -> Tensor:
        """R."""
        total = torch.zeros_like(v)
        for unconditioned in noise[1 : 1 + self.k]:  # one at a time, for the memory
            g = noise_given_code(kind, theta, code, unconditioned)
            total = total + kind.pullback_at((theta + g) / self.tb, v)
        return total / (self.k * self.tb)


@register
@dataclass(frozen=True, kw_only=True)
class ReinMaxRao(RelaxedMidpoint):
    """The Jacobian at the midpoint is that of a Gumbel-softmax given D, averaged over k noise arrays."""

    name = "reinmax-rao"
    formula = "(1/tf) [2 R - J(p) v(D)/2], R = 1/k sum_i (1/tb) J(softmax((theta_D + G'_i)/tb)) v(D)"
    uses = ("derivative",)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        code, v = points[0], derivative[0]
        averaged = self.averaged(kind, self.theta(kind, logits, code), code, noise, v)
        return (2 * averaged - kind.pullback_at(logits / self.tf, v) / 2) / self.tf


@register
@dataclass(frozen=True, kw_only=True)
class ReinMaxCV(RelaxedMidpoint):
    """ReinMax less eta (C - R); here to be measured, since C - R has no mean of 0."""

    eta: float = parameters.real(0.5)

    name = "reinmax-cv"
    formula = "reinmax - (eta/tf) (C - R), C = (1/tb) J(softmax((theta_D + G)/tb)) v(D), R as in reinmax-rao"
    uses = ("derivative",)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        code, v, a = points[0], derivative[0], logits / self.tf
        theta = self.theta(kind, logits, code)
        at_noise = kind.pullback_at((theta + noise[0]) / self.tb, v) / self.tb
        correction = at_noise - self.averaged(kind, theta, code, noise, v)
        reinmax = 2 * midpoint_pullback(kind, code, a, v) - kind.pullback_at(a, v) / 2
        return (reinmax - self.eta * correction) / self.tf
