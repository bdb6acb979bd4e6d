"""Minimum-variance straight-through estimator: of all that are exact for linear losses, the steadiest one.

    D ~ p = softmax(l/tf),  J = J(p):   estimate = (1/tf) S_D^T v(D)

    S_D[i, k] = ((1 + tau p_i) V_ik - tau p_i V_Dk + tau 1[i = D] J_Dk) / (1 + tau (p_i + p_D))
    A V = diag((1 + tau p_i)/(1 + 2 tau p_i)) J
    A_ij = -tau p_i p_j/(1 + tau (p_i + p_j)) for i != j
    A_ii = (1 + tau p_i) sum_j p_j/(1 + tau (p_i + p_j)) - tau p_i^2/(1 + 2 tau p_i)

tau weighs the bias for quadratic losses against the variance: at tau = 0 it is `ste` at tb = tf, and as tau grows its
mean becomes exact for losses quadratic in the code.

Reference: Hooper and others 2026, "Generalized and Optimal Straight-Through Estimators" (AISTATS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import parameters
from .base import Estimator
from .promises import FunctionOfCode
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class MinimumVariance(Estimator):
    """One solve of a (category, category) system per latent and example, whatever the draws."""

    tau: float = parameters.real(1.0, at_least=0)

    name = "mve"
    formula = "(1/tf) S_D^T v(D), S_D of least variance, D ~ softmax(l/tf); tau = 0: ste at tb = tf"
    reference = "Hooper and others 2026 (AISTATS)"
    uses = ("derivative",)
    exact_moments = FunctionOfCode()

    def estimate(self, kind, logits, noise, points, loss, derivative):
        tau = self.tau
        p = kind.soft(logits / self.tf)
        p = p.float() if p.dtype.itemsize < 4 else p  # torch solves no system in half precision
        jacobian = torch.diag_embed(p) @ _one_less(p)
        of_pair = 1 + tau * (p[..., :, None] + p[..., None, :])
        off = -tau * p[..., :, None] * p[..., None, :] / of_pair  # its diagonal is that of the last term of A_ii
        a = off + torch.diag_embed((1 + tau * p) * (p[..., None, :] / of_pair).sum(-1))
        shared = torch.linalg.solve(a, ((1 + tau * p) / (1 + 2 * tau * p))[..., None] * jacobian)  # V
        code, v = points[0].to(p), kind.centred(derivative[0], logits).to(p)
        at_code = (p * code).sum(-1, keepdim=True)
        w = v / (1 + tau * (p + at_code))
        from_code = tau * (w * code).sum(-1, keepdim=True) * (code[..., None, :] @ jacobian)[..., 0, :]
        towards = (((1 + tau * p) * w)[..., None, :] @ shared)[..., 0, :]
        away = (tau * p * w).sum(-1, keepdim=True) * (code[..., None, :] @ shared)[..., 0, :]
        return ((towards - away + from_code) / self.tf).to(logits.dtype)


def _one_less(p: Tensor) -> Tensor:
    """1 - 1 p^T with full relative precision on the diagonal, where 1 - p_k cancels."""
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    others = (1 - eye) @ p[..., None]
    return others * eye - p[..., None, :] * (1 - eye)
