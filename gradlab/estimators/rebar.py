"""REBAR: the score function with a relaxed control variate, whose gradient is added back by reparameterisation.

    a = l/tf,  p = softmax(a),  z = a + g,  b = hard(z),  z~ = a + g~ with noise g~ given b,  s = softmax(./lam)
    estimate = (1/tf) { [f(b) - eta f(s(z~))] (b - p) + eta d/da f(s(z)) - eta d/da f(s(z~)) }

The derivative of z~ is taken at fixed b and fixed uniforms of the conditional sampler, in closed form (see
`conditional`). REBAR is unbiased for any eta and lam; eta = 0 is REINFORCE. It needs the loss and its derivative at
relaxed codes. Noise array 0 gives z, array 1 the conditional noise. The decoder is trained on f(b) only.

Reference: Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..latents import LatentKind
from . import parameters
from .base import Estimator, per_latent
from .conditional import noise_given_code, pullback_given_code
from .promises import SharedPoints
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class Rebar(Estimator):
    """REBAR with three evaluations per draw: at b, s(z) and s(z~)."""

    eta: float = parameters.real(1.0)
    lam: float = parameters.temperature(0.5)  # lambda, the temperature of the control variate

    name = "rebar"
    formula = (
        "(1/tf) {[f(b) - eta f(s~)] (b - p) + eta df(s)/da - eta df(s~)/da}, a = l/tf, s = softmax((a + g)/lam),"
        " s~ the same with noise given b"
    )
    reference = "Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein 2017"
    unbiased = True
    kinds = ("categorical", "binary")
    noise_arrays = 2

    @property
    def shared_points(self):
        return SharedPoints(("rebar", self.tf, self.lam), codes=False)

    def points(self, kind, logits, noise):
        z = logits / self.tf + noise[0]
        b = kind.hard(z)
        return torch.stack([b, *map(kind.soft, self._relaxed(kind, logits, b, noise))])

    def _relaxed(self, kind: LatentKind, logits: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of s and of s~."""
        a = logits / self.tf
        return (a + noise[0]) / self.lam, (a + noise_given_code(kind, a, b, noise[1])) / self.lam

    def weights(self, kind, logits, points):
        shares = (torch.arange(3, device=points.device) == 0).to(points.dtype)  # made on the device: no transfer
        example = points.ndim - 1 - kind.event_dims
        return shares.reshape(3, *[1] * (example - 1)).expand(points.shape[:example])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a = logits / self.tf
        b = points[0]
        z, conditional = self._relaxed(kind, logits, b, noise)  # of a binary unit, 1 - s is lost in s where it is tiny
        score = per_latent(kind, loss[0] - self.eta * loss[2]) * kind.score(a, b)
        of_s = kind.pullback_at(z, derivative[1]) / self.lam
        of_conditional = kind.pullback_at(conditional, derivative[2]) / self.lam
        through = pullback_given_code(kind, a, b, noise[1], of_conditional)
        return (score + self.eta * (of_s - through)) / self.tf
