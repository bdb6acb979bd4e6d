"""Double control variates: leave-one-out REINFORCE on losses whose linear part is subtracted and added back exactly.

    D_i ~ p = softmax(l/tf),  v_i = df/dz at D_i,  u_i the mean of the other v_j,  c_i = u_i.(D_i - p):
    (1/tf) { 1/(n-1) sum_i (h_i - mean h) (D_i - p) + alpha J(p) mean v },   h_i = f_i - alpha c_i

u_i is independent of D_i, so E[c_i (D_i - p)] = J(p) E[v]: unbiased for any alpha. alpha = 0 is `rloo`. With alpha = 1
every draw is exact for a loss that is linear in the code, whatever the number of latents; the variance is that of the
curvature. The paper learns alpha (with the sign of -alpha) during training.

Reference: Titsias, Shi 2022, "Double control variates for gradient estimation in discrete latent variable models"
(arXiv 2111.05300), for binary units; for categorical latents D - p and J(p) replace b - p and p (1 - p).
"""

from __future__ import annotations

from dataclasses import dataclass

from . import parameters
from .base import Estimator, per_latent
from .promises import SharedPoints
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class DoubleControl(Estimator):
    """n codes, the loss and its derivative at each: the points of `rloo`, and as many backward passes to the codes."""

    n: int = parameters.whole(2, at_least=2)
    alpha: float = parameters.real(1.0)

    name = "double-cv"
    formula = (
        "(1/tf) {1/(n-1) sum_i (h_i - mean h) (D_i - p) + alpha J(p) mean v}, h_i = f_i - alpha u_i.(D_i - p),"
        " u_i the mean of v at the other codes, p = softmax(l/tf)"
    )
    reference = "Titsias, Shi 2022"
    unbiased = True
    kinds = ("categorical", "binary")

    @property
    def noise_arrays(self):
        return self.n

    @property
    def shared_points(self):
        return SharedPoints(("samples", self.n, self.tf), sample_first=True)

    def points(self, kind, logits, noise):
        return kind.hard(logits / self.tf + noise[: self.n])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a = logits / self.tf
        steps, v = kind.score(a, points), kind.centred(derivative, a)
        of_others = (v.sum(0) - v) / (self.n - 1)
        control = (of_others * steps).flatten(-1 - kind.event_dims).sum(-1)
        left = loss - self.alpha * control
        total = (per_latent(kind, left - left.mean(0)) * steps).sum(0) / (self.n - 1)
        return (total + self.alpha * kind.pullback_at(a, v.mean(0))) / self.tf
