"""The Gumbel-softmax (concrete) estimator: the loss at a relaxed code, differentiated exactly.

    y = softmax((l/tf + g)/tb),   estimate = (1/(tf tb)) J(y) v(y)

As tb -> 0, y becomes a sample of softmax(l/tf), the law whose expected loss it then differentiates.
At tf = 1 this is Jang, Gu, Poole 2017 and Maddison, Mnih, Teh 2017 with tau = tb.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Relaxation
from .promises import SharedPoints
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class GumbelSoftmax(Relaxation):
    """The gradient of the loss at the relaxed point; biased, because the relaxed loss is another function."""

    name = "gumbel-softmax"
    formula = "(1/(tf tb)) J(y) v(y), y = softmax((l/tf + g)/tb)"
    reference = "Jang, Gu, Poole 2017; Maddison, Mnih, Teh 2017"
    kinds = ("categorical", "binary")
    uses = ("derivative",)

    @property
    def shared_points(self):
        return SharedPoints(("relaxed", self.tf, self.tb), codes=False)

    def points(self, kind, logits, noise):
        return kind.soft(self._perturbed(logits, noise))

    def estimate(self, kind, logits, noise, points, loss, derivative):
        # from the perturbed logits: of a binary unit, 1 - y is lost in y where y rounds to 1
        return kind.pullback_at(self._perturbed(logits, noise)[0], derivative[0]) / (self.tf * self.tb)

    def _perturbed(self, logits, noise):
        return (logits / self.tf + noise[:1]) / self.tb
