"""Straight-through estimators exact to second order: their mean is the exact gradient of a quadratic loss.

    a = l/tf,  p = softmax(a),  D ~ p

Biased in general; exact in the mean for losses quadratic in z (`reinmax` at tb = tf). At tb = tf the two are one
estimator, draw by draw: as D D^T = diag(D), both are (1/tf) 1/2 [diag(D) + diag(p) - D p^T - p D^T] v(D).

References: Liu, Dong, Liu, Yu, Gao 2023 (ReinMax); Shekhovtsov 2023 (ZGR).
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Estimator, Relaxation
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class ReinMax(Relaxation):
    """Heun's method for the step from p to D: the Jacobian at their midpoint."""

    name = "reinmax"
    formula = "(1/tf) [2 J(pi) - J(p)/2] v(D), p = softmax(l/tf), pi = (D + softmax(l/tb))/2"
    reference = "Liu, Dong, Liu, Yu, Gao 2023"
    code_only = True

    def estimate(self, kind, logits, noise, points, loss, derivative):
        p = kind.soft(logits / self.tf)
        pi = (points[0] + kind.soft(logits / self.tb)) / 2
        v = derivative[0]
        return (2 * kind.pullback(pi, v) - kind.pullback(p, v) / 2) / self.tf


@register
@dataclass(frozen=True, kw_only=True)
class ZGR(Estimator):
    """Half straight-through, half the score function of the loss linearised at D."""

    name = "zgr"
    formula = "(1/tf) 1/2 [J(p) + (D - p)(D - p)^T] v(D), p = softmax(l/tf)"
    reference = "Shekhovtsov 2023"
    code_only = True

    def estimate(self, kind, logits, noise, points, loss, derivative):
        p = kind.soft(logits / self.tf)
        v, step = derivative[0], points[0] - p
        slope = (step * v).sum(-1, keepdim=True) if kind.event_dims else step * v
        return (kind.pullback(p, v) + step * slope) / (2 * self.tf)
