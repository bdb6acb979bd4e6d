"""Estimates and unbiased references from the same draws, as means by batch, for models without an exact gradient.

Estimators and references share the noise arrays of a draw. So the code that noise array 0 samples is decoded once, and
common noise cancels in differences. Draw i belongs to batch i mod (batches), so that draws can be added in rounds
without changing the sums.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import parallel, progress
from ..estimators import Estimator
from ..estimators.evaluation import LossAt, evaluate
from ..losses import activations_per_code
from ..numerics import power_of_two
from ..setup import Setup
from .engine import by_points
from .noise import Noise
from .shared import all_built_in, decodes_in_threads

_IN_CACHE = 2**18  # numbers of an array
_SMALL = 2**21  # numbers of a decoder's layers in total; smaller decoders use one thread


class DrawSums(Protocol):
    """Receives the estimates of one estimator, a few draws and examples at a time."""

    @property
    def mean(self) -> Tensor:
        """Mean of each batch: (batch, example, latent[, category]), float64."""

    def add(self, batch: int, before: int, estimates: Tensor, examples: slice) -> None:
        """Add estimates (draw, example, latent[, category]) to a batch that holds `before` draws of these examples."""


@dataclass
class Sums:
    """Mean and summed squares of one estimator per batch of draws, float64."""

    mean: Tensor  # (batch, example, latent[, category])
    squares: Tensor  # (batch, example): squared deviations from that mean, summed over draws and coordinates

    @classmethod
    def empty(cls, logits: Tensor, batches: int) -> Sums:
        mean = logits.new_zeros(batches, *logits.shape, dtype=torch.float64)
        return cls(mean, mean.new_zeros(mean.shape[:2]))

    def add(self, batch: int, before: int, estimates: Tensor, examples: slice) -> None:
        mean = estimates.mean(0)
        off = estimates - mean
        size = power_of_two(off, (0, *range(2, off.ndim)))  # of each example
        squares = off.div_(size.to(off.dtype)).square_().flatten(2).sum(-1, dtype=torch.float64).sum(0)
        squares *= size.square().flatten()
        into, of = self.mean[batch, examples], self.squares[batch, examples]
        delta = mean.double() - into
        share = len(estimates) / (before + len(estimates))
        of += squares + before * share * delta.square().flatten(1).sum(1)
        into += share * delta


class PairedDraws:
    """Sums of several estimators, references among them, over the same draws.

    `draws` is 0 at first.
    """

    def __init__(
        self,
        setup: Setup,
        estimators: Sequence[Estimator],
        batches: int,
        sums: Sequence[DrawSums] | None = None,
    ):
        """`sums`: accumulator of each estimator, by default Sums. Other accumulators use one thread."""
        model, x, logits, memory = setup.model, setup.x, setup.logits, setup.memory
        self.model, self.x, self.logits, self.estimators = model, x, logits, estimators
        self.groups = by_points(estimators)
        self.arrays = max(e.noise_arrays for e in estimators)
        self.noise = Noise(model.kind, logits, self.arrays, 0, setup.seed)
        self.batches, self.draws = batches, 0
        self.sums: Sequence[Any] = sums or [Sums.empty(logits, batches) for _ in estimators]
        evaluations = max(e.evaluations_at(model.kind, logits) for e in estimators)
        of_decoder = 2 * activations_per_code(model, x) + 4 * math.prod(x.shape[1:])
        numbers = of_decoder + logits[0].numel() * (2 * self.arrays + 4 * evaluations + 8)
        on_cpu = logits.device.type == "cpu"
        self.threads = on_cpu and sums is None and decodes_in_threads(model) and all_built_in(estimators)
        rows = memory // (numbers * logits.element_size() * (torch.get_num_threads() if self.threads else 1))
        self.rows = max(1, min(rows, _IN_CACHE // logits[0].numel()) if on_cpu else rows)
        self.numbers = of_decoder

    def add(self, draws: int, advance: progress.Advance = lambda *a, **k: None) -> None:
        """`draws` more for each batch; `advance` is called with draws done."""

        begin = self.draws // self.batches  # draws of each batch
        rows = draws * len(self.x)
        small = self.numbers * min(self.rows, rows) <= _SMALL

        def add_to(some: range) -> None:
            step = max(1, self.rows // (len(some) * len(self.x)))
            for before in range(begin, begin + draws, step):
                of_draws = range(before, min(before + step, begin + draws))
                g = self._noise_of(some, of_draws)
                for examples in self._slices():
                    self._add(some, before, g[:, :, examples], examples)

        # batches so small that a call costs more than its arithmetic are evaluated together
        together = max(1, min(self.batches, self.rows // rows, _SMALL // (self.numbers * rows)))
        pieces = [range(b, min(b + together, self.batches)) for b in range(0, self.batches, together)]
        for some, _ in zip(
            pieces, parallel.each(add_to, pieces, self.logits.device, threads=self.threads, small=small), strict=True
        ):
            advance(draws * len(some))
        self.draws += draws * self.batches

    def _noise_of(self, batches: range, draws: range) -> Tensor:
        """Noise (array, draw, example, ...) of these draws of each of the batches, draws first."""
        if len(batches) == self.batches:
            return self.noise.of(self.arrays, draws.start * self.batches, draws.stop * self.batches)
        of_each = [
            self.noise.of(self.arrays, self.batches * draws.start + b, self.batches * draws.stop + b, self.batches)
            for b in batches
        ]
        return torch.stack(of_each, 2).flatten(1, 2)

    def _slices(self) -> list[slice]:
        step = min(self.rows, len(self.x))
        return [slice(start, start + step) for start in range(0, len(self.x), step)]

    def _add(self, batches: range, before: int, g: Tensor, examples: slice) -> None:
        """Add the estimates of noise g, as `_noise_of` gives it; the sums contain `before` draws of each batch."""
        logits = self.logits[examples]
        sampled: dict[Hashable, Tensor] = {}
        for group in self.groups:
            loss_at = self._loss_at(self.estimators[group[0]], self.x[examples], sampled)
            estimated = evaluate([self.estimators[i] for i in group], self.model.kind, logits, g, loss_at)
            for position, estimates in zip(group, estimated, strict=True):
                for b, batch in enumerate(batches):
                    self.sums[position].add(batch, before, estimates[b :: len(batches)], examples)

    def _loss_at(self, e: Estimator, x: Tensor, sampled: dict[Hashable, Tensor]) -> LossAt:
        """Loss and derivative at the points of e; `sampled` holds losses at the codes that noise array 0 samples."""
        shared, key = e.shared_points, Estimator.sample_key(e.tf)
        starts_with_sample = shared is not None and shared.sample_first

        def loss_at(points: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
            if starts_with_sample and key in sampled and not differentiated:
                loss, _ = self._loss_and_derivative(points[1:], x, False)
                return torch.cat([sampled[key], loss]), None
            loss, derivative = self._loss_and_derivative(points, x, differentiated)
            if e.points_key == key:
                sampled[key] = loss
            return loss, derivative

        return loss_at

    def _loss_and_derivative(self, points: Tensor, x: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """Loss (evaluation, draw, example) and, if wanted, derivative, one evaluation at a time."""
        image = torch.arange(len(x), device=x.device).repeat(points.shape[1])
        losses, derivatives = [], []
        for codes in points.flatten(1, 2):
            if wanted:
                loss, derivative = self.model.losses_and_derivatives(codes, x[image])
                derivatives.append(derivative)
            else:
                with torch.no_grad():
                    loss = self.model.losses(codes, x[image]).detach()
            losses.append(loss)
        loss = torch.stack(losses).reshape(points.shape[:3])
        return loss, torch.stack(derivatives).reshape(points.shape) if wanted else None
