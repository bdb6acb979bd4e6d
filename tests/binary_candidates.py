"""Unbiased estimators of the literature that the catalogue leaves out, to show why: docs/estimators.md has the table.

    muprop      f(b) minus its tangent at the mean code p, whose gradient is added back (Gu et al. 2016)
    bitflip-1   one unit k, drawn uniformly: L 1[i = k] p(1-p) (f(b with b_k = 1) - f(b with b_k = 0))
    ugc         DisARM for units whose rarer state is more probable than `threshold`, bitflip-1 among the others

The last two: Kunes, Yin et al. 2023, "Gradient estimation for binary latent variables via gradient variance clipping".
There the flipped unit is one of all units; here it is one of those that need it, which has less variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradlab.estimators import Estimator, SharedPoints, parameters
from gradlab.estimators.base import per_latent


@dataclass(frozen=True, kw_only=True)
class MuProp(Estimator):
    name, unbiased, kinds, noise_arrays = "muprop", True, ("categorical", "binary"), 1

    @property
    def shared_points(self):
        return SharedPoints(("muprop", self.tf), codes=False, sample_first=True)

    def points(self, kind, logits, noise):
        a = logits / self.tf
        b = kind.hard(a + noise[0])
        return torch.stack([b, kind.soft(a).expand_as(b)])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a = logits / self.tf
        step = kind.score(a, points[0])
        tangent = loss[1] + (derivative[1] * step).flatten(-1 - kind.event_dims).sum(-1)
        return (per_latent(kind, loss[0] - tangent) * step + kind.pullback_at(a, derivative[1])) / self.tf


@dataclass(frozen=True, kw_only=True)
class BitFlip(Estimator):
    name, unbiased, kinds, uses, noise_arrays = "bitflip-1", True, ("binary",), ("loss",), 2

    @property
    def shared_points(self):
        return SharedPoints(("bitflip", self.tf), sample_first=True)

    def points(self, kind, logits, noise):
        b = kind.hard(logits / self.tf + noise[0])
        return torch.stack([b, flipped(b, noise[1], torch.ones_like(logits, dtype=torch.bool))])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        change = per_latent(kind, loss[0] - loss[1]) * (points[0] - points[1])
        return kind.pullback_at(logits / self.tf, change) * logits.shape[-1] / self.tf


@dataclass(frozen=True, kw_only=True)
class UGC(Estimator):
    threshold: float = parameters.real(0.1)

    name, unbiased, kinds, uses, noise_arrays = "ugc", True, ("binary",), ("loss",), 2

    def rare(self, logits):
        return torch.sigmoid(-(logits / self.tf).abs()) < self.threshold

    @property
    def shared_points(self):
        return SharedPoints(("ugc", self.threshold, self.tf), sample_first=True)

    def points(self, kind, logits, noise):
        a = logits / self.tf
        b = kind.hard(a + noise[0])
        return torch.stack([b, kind.hard(a - noise[0]), flipped(b, noise[1], self.rare(logits))])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a, rare = logits / self.tf, self.rare(logits)
        disarm = per_latent(kind, loss[0] - loss[1]) * (points[0] - points[1]) * torch.sigmoid(a.abs()) / 2
        change = per_latent(kind, loss[0] - loss[2]) * (points[0] - points[2])
        flip = kind.pullback_at(a, change) * rare.sum(-1, keepdim=True)
        return torch.where(rare, flip, disarm) / self.tf


def flipped(code, noise, among):
    """The code with one of the units `among` flipped, drawn uniformly; the code itself where there are none."""
    chosen = torch.where(among, noise, -torch.inf).argmax(-1, keepdim=True)
    at = torch.zeros_like(code).scatter_(-1, chosen.expand(*code.shape[:-1], 1), 1.0) * among
    return (code - at).abs()


CANDIDATES = (MuProp(), BitFlip(), UGC(threshold=0.02), UGC(), UGC(threshold=0.3))
