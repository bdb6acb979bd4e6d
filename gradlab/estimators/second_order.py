"""Straight-through estimators of second order: their mean is the exact gradient for a quadratic loss.

    a = l/tf,  p = softmax(a),  D ~ p

They are biased in general, and exact in the mean for losses quadratic in z (`reinmax` at tb = tf). At tb = tf the two
give equal estimates draw by draw: D D^T = diag(D), so both are (1/tf) 1/2 [diag(D) + diag(p) - D p^T - p D^T] v(D).

References: Liu, Dong, Liu, Yu, Gao 2023 (ReinMax); Shekhovtsov 2023 (ZGR).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..latents import BINARY, LatentKind
from .base import Estimator, Relaxation
from .promises import FunctionOfCode
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class ReinMax(Relaxation):
    """ReinMax: Heun's method for the step from p to D, which uses the Jacobian at their midpoint."""

    name = "reinmax"
    formula = "(1/tf) [2 J(pi) - J(p)/2] v(D), p = softmax(l/tf), pi = (D + softmax(l/tb))/2"
    reference = "Liu, Dong, Liu, Yu, Gao 2023"
    kinds = ("categorical", "binary")
    uses = ("derivative",)
    exact_moments = FunctionOfCode()

    def estimate(self, kind, logits, noise, points, loss, derivative):
        v = derivative[0]
        towards = midpoint_pullback(kind, points[0], logits / self.tb, v)
        return (2 * towards - kind.pullback_at(logits / self.tf, v) / 2) / self.tf


def midpoint_pullback(kind: LatentKind, code: Tensor, a: Tensor, v: Tensor) -> Tensor:
    """J(pi) v at pi = (code + softmax(a))/2."""
    if kind is BINARY:
        return (code + torch.sigmoid(a)) / 2 * (1 - code + torch.sigmoid(-a)) / 2 * v
    return kind.pullback((code + kind.soft(a)) / 2, v)


@register
@dataclass(frozen=True, kw_only=True)
class ZGR(Estimator):
    """ZGR: the mean of straight-through and of the score function of the loss linearised at D."""

    name = "zgr"
    formula = "(1/tf) 1/2 [J(p) + (D - p)(D - p)^T] v(D), p = softmax(l/tf)"
    reference = "Shekhovtsov 2023"
    kinds = ("categorical", "binary")
    uses = ("derivative",)
    exact_moments = FunctionOfCode()

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a, v = logits / self.tf, derivative[0]
        step = kind.score(a, points[0])
        slope = (step * v).sum(-1, keepdim=True) if kind.event_dims else step * v
        return (kind.pullback_at(a, v) + step * slope) / (2 * self.tf)
