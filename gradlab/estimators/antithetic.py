"""Antithetic estimators for binary latents: codes are negatively correlated, so their losses differ more often.

    a = l/tf,  p = sigmoid(a),  u uniform for each unit

DisARM:  b = 1[u > 1 - p],  b' = 1[u < p]:   (1/tf) 1/2 (f(b) - f(b')) (b - b') sigmoid(|a|)
ARMS:    d ~ Dirichlet(1_n),  u_i = (1 - d_i)^(n-1)  (1 - u_i where p > 1/2),  b_i = 1[u_i < p]:
         (1/tf) 1/(n-1) sum_i (f_i - mean f) (b_i - p)  times  p(1-p)/(p - P11),  P11 = P(b_i = b_j = 1)

Both are unbiased. ARMS with n = 2 has the law of DisARM. With q = min(p, 1-p), the factor of ARMS is

    p(1-p)/(p - P11) = (1 - q)/(1 - c(q)/q),   c(q)/q = max(0, 2 - q^(-1/(n-1)))^(n-1) < 1/2.

It is finite for every q and tends to 1 as q -> 0, where p - P11 vanishes. The code never computes uniforms: u < p is a
comparison of logistic numbers (DisARM) or of logarithms (ARMS), which keep their precision in the tails.

References: Dong, Mnih, Tucker 2020 (DisARM; Yin, Ho, Yan, Qian, Zhou 2020, U2G); Dimitriev, Zhou 2021 (ARMS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from . import parameters
from .base import Estimator, per_latent
from .conditional import softplus
from .promises import SharedPoints
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class DisARM(Estimator):
    """DisARM. With u = sigmoid(n), n logistic: b = 1[a + n > 0], the code all estimators share; b' = 1[a - n > 0]."""

    name = "disarm"
    formula = "(1/tf) 1/2 (f(b) - f(b')) (-1)^b' 1[b != b'] sigmoid(|l|/tf), b = 1[l/tf + n > 0], b' = 1[l/tf - n > 0]"
    reference = "Dong, Mnih, Tucker 2020"
    kinds = ("binary",)
    unbiased = True
    uses = ("loss",)

    @property
    def shared_points(self):
        return SharedPoints(("antithetic pair", self.tf), sample_first=True)

    def points(self, kind, logits, noise):
        a, n = logits / self.tf, noise[0]
        return torch.stack([kind.hard(a + n), kind.hard(a - n)])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        difference = per_latent(kind, loss[0] - loss[1]) * (points[0] - points[1])
        return difference * torch.sigmoid((logits / self.tf).abs()) / (2 * self.tf)


@register
@dataclass(frozen=True, kw_only=True)
class ARMS(Estimator):
    """n codes with pairwise negative correlation from one Dirichlet vector d_i = e_i/sum e, where e_i ~ Exp(1)."""

    n: int = parameters.whole(2, at_least=2)

    name = "arms"
    formula = (
        "(1/tf) 1/(n-1) sum_i (f_i - mean f) (b_i - p) p(1-p)/(p - P11), p = sigmoid(l/tf),"
        " b_i = 1[u_i < p], u the Dirichlet copula"
    )
    reference = "Dimitriev, Zhou 2021"
    kinds = ("binary",)
    unbiased = True
    uses = ("loss",)

    @property
    def noise_arrays(self):
        return self.n

    @property
    def shared_points(self):
        return SharedPoints(("dirichlet copula", self.n, self.tf))

    def points(self, kind, logits, noise):
        a = logits / self.tf
        log_u = (self.n - 1) * log_one_minus_dirichlet(noise[: self.n])
        below = log_u < logsigmoid(-a.abs())  # u_i < q; where p > 1/2, 1 - u_i < p means u_i > q
        return torch.where(a > 0, ~below, below).to(logits.dtype)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a = logits / self.tf
        centred = per_latent(kind, loss - loss.mean(0))
        total = (centred * kind.score(a, points)).sum(0)
        return total * arms_factor(a, self.n) / ((self.n - 1) * self.tf)


def log_one_minus_dirichlet(noise: Tensor) -> Tensor:
    """log(1 - d_i) for d ~ Dirichlet(1_n), from n arrays of logistic noise: e_i = softplus(noise_i) is Exp(1)."""
    log_e = softplus(noise).clamp(min=torch.finfo(noise.dtype).tiny).log()
    others = [torch.cat([log_e[:i], log_e[i + 1 :]]).logsumexp(0) for i in range(len(log_e))]
    return torch.stack(others) - log_e.logsumexp(0)


def arms_factor(a: Tensor, n: int) -> Tensor:
    """p(1-p)/(p - P11) at p = sigmoid(a)."""
    log_q = logsigmoid(-a.abs())
    if n == 2:
        return 1 - log_q.exp()  # c(q) = max(0, 2q - 1) = 0
    ratio = (2 - torch.exp(-log_q / (n - 1))).clamp(min=0)  # exp may overflow to inf: the ratio is 0 there
    return (1 - log_q.exp()) / (1 - ratio ** (n - 1))
