"""Estimates compared with an unbiased reference, both as gradients with respect to the encoder's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..estimators import Estimator
from ..sampling import BATCHES, PairedDraws, Sums
from ..setup import Setup
from ..statistics.u_statistics import UStatistics, u_statistics
from .encoder_gradients import PullBack, PulledBackMoments, in_float64, of_deviations


class EncoderSums:
    """PulledBackMoments for draws that arrive a few examples at a time: a draw's gradient sums over all examples."""

    def __init__(self, pull_back: PullBack, batches: int):
        self.moments = PulledBackMoments(pull_back, batches)
        self.pending: list[Tensor] = []

    @property
    def mean(self) -> Tensor:
        return self.moments.mean

    @property
    def squares(self) -> Tensor:
        """Sums of |G - mean of G|^2: (batch, parameter)."""
        return self.moments.squares

    def add(self, batch: int, before: int, estimates: Tensor, examples: slice) -> None:
        """Add as `sampling.Sums.add` does; the examples of each draw must arrive in order."""
        self.pending.append(estimates)
        if examples.stop >= self.mean.shape[1]:
            self.moments.add(batch, torch.cat(self.pending, 1))
            self.pending.clear()


class EncoderStatistics:
    """Sums of draws, and statistics by parameter tensor, of gradients with respect to the encoder's parameters.

    Each gradient contains all examples, so there is one group of examples (see `u_statistics`). `shift` is added to
    every gradient.
    """

    def __init__(self, setup: Setup, shift: Tensor):
        self.setup, self.shift, self.wide = setup, shift, in_float64(setup)
        self.of_draws = of_deviations(setup, self.wide)
        self.numbers, self.memory, self.progress = setup.logits.numel(), setup.memory, setup.progress

    def drawn(self, every: Sequence[Estimator], own: Sequence[Estimator]) -> PairedDraws:
        logits = self.setup.logits
        sums = [EncoderSums(self.of_draws, BATCHES) if e in own else Sums.empty(logits, BATCHES) for e in every]
        return PairedDraws(self.setup, every, BATCHES, sums)

    def statistics(self, estimate: EncoderSums, reference: EncoderSums | Sums, draws: int) -> list[UStatistics]:
        """The statistics that `reference_metrics` names, for each tensor."""
        batches = len(estimate.mean)
        e, r = (sums.mean + self.shift for sums in (estimate, reference))
        if estimate is reference:  # its bias is exactly 0, without rounding errors
            products = [self.wide.gram(e)] * 3
        else:
            gram = self.wide.gram(torch.cat([e, r]))
            mixed = gram[:batches, batches:]
            products = [gram[:batches, :batches], (mixed + mixed.transpose(0, 1)) / 2, gram[batches:, batches:]]
        return by_parameter(products, estimate.squares, draws // batches)


def by_parameter(products: Sequence[Tensor], squares: Tensor, of_batch: int) -> list[UStatistics]:
    """Statistics of each tensor from inner products (batch, batch, parameter) of e with e, e with r, and r with r.

    `squares` (batch, parameter) are those of deviations of the `of_batch` draws of each batch from its mean e.
    """
    variance = squares / (of_batch - 1)
    kernels = torch.stack([*products, (variance[:, None] + variance[None, :]) / 2])
    of_tensors = kernels.movedim(-1, 0)[:, :, None].cpu().numpy()  # (parameter, statistic, group, batch, batch)
    return [u_statistics(of) for of in of_tensors]
