"""Moments per batch of draws, centred and in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BATCHES = 32  # batches of draws, from which intervals are computed


class Accumulator(Protocol):
    """Receives the estimates of one estimator, batch by batch of draws in order."""

    def add(self, batch: int, estimates: Tensor) -> None:
        """Add estimates (draw, example, latent[, category])."""

    def fill(self, bounds: list[int], estimate: Tensor) -> None:
        """All draws alike."""


@dataclass
class BatchMoments:
    """Count, mean, sum of squared deviations per batch of draws, float64: `(batch, example, latent[, category])`."""

    count: Tensor  # (batch,), on the CPU
    mean: Tensor
    squares: Tensor

    def add(self, batch: int, estimates: Tensor) -> None:
        """Merge estimates (draw, ...) into a batch."""
        estimates = estimates.double()
        mean = estimates.mean(0)
        squares = (estimates - mean).square_().sum(0)
        merge(self.mean[batch], self.squares[batch], int(self.count[batch]), mean, squares, len(estimates))
        self.count[batch] += len(estimates)

    def fill(self, bounds: list[int], estimate: Tensor) -> None:
        """All draws alike."""
        self.count[:] = torch.tensor(bounds).diff()
        self.mean[:] = estimate.double()


def empty(logits: Tensor, draws: int) -> BatchMoments:
    batches = len(batch_bounds(draws)) - 1
    zeros = torch.zeros(batches, *logits.shape, dtype=torch.float64, device=logits.device)
    return BatchMoments(torch.zeros(batches, dtype=torch.long), zeros, zeros.clone())


def batch_bounds(draws: int) -> list[int]:
    """Edges of the batches of draws, of almost equal size."""
    batches = min(BATCHES, draws)
    return [draws * b // batches for b in range(batches + 1)]


def merge(mean: Tensor, squares: Tensor, before: int, more_mean: Tensor, more_squares: Tensor, more: int) -> None:
    """Merge moments of `more` draws into those of `before` others, in place (Chan, Golub, LeVeque 1979)."""
    if before == 0:
        mean.copy_(more_mean)
        squares.copy_(more_squares)
        return
    delta = more_mean - mean
    mean += delta * (more / (before + more))
    squares += more_squares
    squares += delta.square_() * (before * more / (before + more))
