"""Estimates for several models at a time: each has its own estimator, and one loss evaluation serves all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..latents import LatentKind
from .base import Estimator
from .evaluation import Baseline, LossAt, centred_estimate_of, points_of


@dataclass(frozen=True)
class Part:
    """An estimator, the positions of its models among all models, and its running means, if it requires them."""

    estimator: Estimator
    places: Tensor | slice
    baseline: Baseline | None = None


class Joined:
    """Estimators with equal numbers of evaluations; the first leading dim is the model.

    `back` reorders models from the order of the parts to their positions; it is None if there is one part.
    """

    def __init__(self, parts: Sequence[Part], back: Tensor | None):
        self.parts, self.back = parts, back

    def evaluate(self, kind: LatentKind, logits: Tensor, noise: Tensor, loss_at: LossAt) -> Tensor:
        """The estimates (model, ..., example, latent[, category]); arguments as for `evaluation.evaluate`."""
        points = self._whole(points_of(p.estimator, kind, logits[p.places], noise[:, p.places]) for p in self.parts)
        loss, derivative = loss_at(points, any(p.estimator.uses_derivative for p in self.parts))

        def estimate(p: Part) -> Tensor:
            v = None if derivative is None else derivative[:, p.places]
            given = noise[:, p.places], points[:, p.places], loss[:, p.places], v
            return centred_estimate_of(p.estimator, kind, logits[p.places], *given, p.baseline)[None]

        return self._whole(map(estimate, self.parts))[0]

    def weights(self, kind: LatentKind, logits: Tensor, points: Tensor) -> Tensor | None:
        """`Estimator.weights` of each model; None if all evaluations have equal shares."""
        shares = [p.estimator.weights(kind, logits[p.places], points[:, p.places]) for p in self.parts]
        if all(share is None for share in shares):
            return None
        equal = points.new_full(points.shape[: points.ndim - 1 - kind.event_dims], 1 / len(points))
        pairs = zip(shares, self.parts, strict=True)
        return self._whole(equal[:, p.places] if share is None else share for share, p in pairs)

    def _whole(self, parts: Iterable[Tensor]) -> Tensor:
        """The results of the parts, whose second dim is the model, joined in the order of all models."""
        listed = list(parts)
        return listed[0] if self.back is None else torch.cat(listed, 1).index_select(1, self.back)
