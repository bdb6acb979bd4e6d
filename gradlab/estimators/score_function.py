"""Score-function estimators: the loss times the score of the law of the code; they use no derivative of the loss.

    a = l/tf,  p = softmax(a),  D ~ p:   d log p(D)/dl = (D - p)/tf

of k-hot codes d log p(D)/dl of the set D (see `k_hot`).

They are unbiased for any loss, differentiable or not, and differ in the baseline subtracted from the loss.

References: Williams 1992 (REINFORCE); Kool, van Hoof, Welling 2019 (RLOO; VIMCO's multi-sample baseline before it).
"""

from __future__ import annotations

from dataclasses import dataclass

from . import parameters
from .base import Estimator, per_latent
from .promises import FunctionOfCode, LeaveOneOut, SharedPoints
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Reinforce(Estimator):
    """REINFORCE with one code per draw; with baseline="running-mean" the caller centres the loss by a RunningMean."""

    baseline: str = parameters.choice("none", ("none", "running-mean"))
    decay: float = parameters.real(0.99, at_least=0, below=1)  # of the running mean

    name = "reinforce"
    formula = "(1/tf) f(D) (D - p), p = softmax(l/tf)"
    reference = "Williams 1992"
    unbiased = True
    kinds = ("categorical", "binary", "k-hot")
    uses = ("loss",)

    @property
    def exact_moments(self):
        return FunctionOfCode() if self.baseline == "none" else None  # a running mean depends on the draws before

    @property
    def baseline_decay(self):
        return self.decay if self.baseline == "running-mean" else None

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return per_latent(kind, loss[0]) * kind.score(logits / self.tf, points[0]) / self.tf


@register
@dataclass(frozen=True, kw_only=True)
class RLOO(Estimator):
    """Leave-one-out REINFORCE: n independent codes; the baseline of each is the mean loss of the others."""

    n: int = parameters.whole(2, at_least=2)

    name = "rloo"
    formula = "(1/tf) 1/(n-1) sum_i (f_i - mean f) (D_i - p), p = softmax(l/tf)"
    reference = "Kool, van Hoof, Welling 2019"
    unbiased = True
    kinds = ("categorical", "binary", "k-hot")
    uses = ("loss",)

    @property
    def noise_arrays(self):
        return self.n

    @property
    def shared_points(self):
        return SharedPoints(("samples", self.n, self.tf), sample_first=True)

    @property
    def exact_moments(self):
        return LeaveOneOut(self.n)

    def points(self, kind, logits, noise):
        return kind.hard(logits / self.tf + noise[: self.n])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        centred = per_latent(kind, loss - loss.mean(0))
        return (centred * kind.score(logits / self.tf, points)).sum(0) / ((self.n - 1) * self.tf)
