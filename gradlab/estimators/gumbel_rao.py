"""Gumbel-Rao: ST-GS averaged over k noise arrays that all sample the same code (Rao-Blackwellisation by sampling).

    D = onehot(argmax(l/tf + g0)),  g_i standard Gumbel given that argmax(l/tf + g_i) = D, i = 1..k
    estimate = 1/k sum_i (1/tb) J(softmax((l + g_i)/tb)) v(D)

The code follows softmax(l/tf). The backward softmax is Jang's: (l + g_i)/tb. (D, g_i) has the joint law of (D, g0), so
for every k the mean is that of `st-gs` with convention="jang" at the same tf and tb; the variance falls with k. Noise
array 0 samples D, and arrays 1 to k give the g_i. The estimator is biased. For binary latents, the g_i are logistic
given the sign of l/tf + g_i.

Reference: Paulus, Maddison, Krause 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import parameters
from .base import Relaxation
from .conditional import noise_given_code
from .promises import NoiseIntegral
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class GumbelRao(Relaxation):
    """Gumbel-Rao with k noise arrays; one loss evaluation for any k."""

    k: int = parameters.whole(10, at_least=1)

    name = "gumbel-rao"
    formula = "1/k sum_i (1/tb) J(softmax((l + g_i)/tb)) v(D), g_i given argmax(l/tf + g_i) = D ~ softmax(l/tf)"
    reference = "Paulus, Maddison, Krause 2021"
    kinds = ("categorical", "binary")
    uses = ("derivative",)

    @property
    def noise_arrays(self):
        return 1 + self.k

    @property
    def exact_moments(self):
        return NoiseIntegral(self.tb, power=1 / self.tb, draws=self.k)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        total = 0.0
        for unconditioned in noise[1 : 1 + self.k]:  # one at a time, to save memory
            g = noise_given_code(kind, logits / self.tf, points[0], unconditioned)
            total = total + kind.pullback_at((logits + g) / self.tb, derivative[0])
        return total / (self.k * self.tb)
