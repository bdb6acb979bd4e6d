"""Gradients of a program's parameters as flat vectors: their inner products by tensor, and sums of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import progress
from ..estimators import Estimator
from ..programs.layers import arrays_of
from ..programs.run import Run
from ..sampling import BATCHES, batch_bounds
from ..schema import coordinate
from ..statistics.u_statistics import UStatistics
from .encoder_gradients import Products, with_all
from .encoder_reference import by_parameter
from .program_draws import Draws
from .reference import Drawn


class Flat:
    """Inner products of vectors (row, entry), which hold all parameters one after another."""

    def __init__(self, run: Run):
        self.names, sizes = run.names_and_sizes()
        self.entries = sizes[1:]

    def coordinates(self) -> dict[str, Any]:
        """Of a Dataset: names of the tensors, and their sizes."""
        entries = (
            "parameter",
            [sum(self.entries), *self.entries],
            {"long_name": "entries of the tensor", "units": "1"},
        )
        return {"parameter": coordinate("parameter", self.names), "entries": entries}

    def squares(self, vectors: Tensor) -> Tensor:
        """|G|^2 of each row: (row, parameter), float64."""
        parts = vectors.split(self.entries, 1)
        return with_all([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square() for part in parts])

    def products(self, fixed: Tensor, others: Tensor) -> Products:
        """Of a few fixed rows with each other, of others with these, and of others with themselves; float64."""
        parts = list(zip(fixed.split(self.entries, 1), others.split(self.entries, 1), strict=True))
        among = with_all([f @ f.T for f, _ in parts])
        return Products(among, with_all([o @ f.T for f, o in parts]), self.squares(others))

    def grams(self, e: Tensor, r: Tensor) -> list[Tensor]:
        """e with e, e with r (made symmetric), r with r: (row, row, parameter)."""
        parts = list(zip(e.split(self.entries, 1), r.split(self.entries, 1), strict=True))
        mixed = with_all([a @ b.T for a, b in parts])
        mixed = (mixed + mixed.transpose(0, 1)) / 2
        return [with_all([a @ a.T for a, _ in parts]), mixed, with_all([b @ b.T for _, b in parts])]


class FlatMoments:
    """Of draws, by batch: count, mean (batch, entry), sum of |G - mean of G|^2 (batch, parameter); float64."""

    def __init__(self, flat: Flat, batches: int, device: torch.device):
        self.flat = flat
        self.count = torch.zeros(batches, dtype=torch.long)
        self.mean = torch.zeros(batches, sum(flat.entries), dtype=torch.float64, device=device)
        self.squares = self.mean.new_zeros(batches, len(flat.names))

    def add(self, batch: int, gradients: Tensor) -> None:
        """Merge gradients (draw, entry) into a batch (Chan, Golub, LeVeque 1979)."""
        before, more = int(self.count[batch]), len(gradients)
        mean = gradients.mean(0, dtype=torch.float64)
        self.squares[batch] += self.flat.squares(gradients - mean.to(gradients)).sum(0)
        delta = mean - self.mean[batch]
        if before:
            self.squares[batch] += before * more / (before + more) * self.flat.squares(delta[None])[0]
        self.mean[batch] += delta * (more / (before + more))
        self.count[batch] += more

    def fill(self, draws: int, gradient: Tensor) -> None:
        """All draws alike."""
        self.count[:] = torch.tensor(batch_bounds(draws)).diff()
        self.mean[:] = gradient.double()


class ProgramDraws:
    """Sums of several estimators over the same draws: draw i belongs to batch i mod `batches` (see PairedDraws)."""

    def __init__(
        self, run: Run, flat: Flat, every: Sequence[Estimator], seed: int, memory: int, batches: int = BATCHES
    ):
        self.every, self.batches = every, batches
        self.draws = 0
        self.noise = Draws(run, max(map(arrays_of, every)), seed, memory)
        self.sums: Sequence[Any] = [FlatMoments(flat, batches, run.device) for _ in every]

    def add(self, draws: int, advance: progress.Advance) -> None:
        until, step = self.draws + draws * self.batches, min(map(self.noise.at_once, self.every))
        for start in range(self.draws, until, step):
            stop = min(until, start + step)
            for estimator, sums in zip(self.every, self.sums, strict=True):
                gradients = self.noise.gradients(estimator, start, stop)
                for first in range(min(self.batches, stop - start)):
                    sums.add((start + first) % self.batches, gradients[first :: self.batches])
            advance(stop - start)
        self.draws = until


class ProgramStatistics:
    """Statistics of a program's gradients by parameter tensor, for `reference.measured`."""

    def __init__(self, run: Run, seed: int, memory: int, shown: bool):
        self.run, self.seed, self.memory, self.progress = run, seed, memory, shown
        self.flat = Flat(run)
        self.numbers = sum(self.flat.entries)

    def drawn(self, every: Sequence[Estimator], own: Sequence[Estimator]) -> Drawn:
        return ProgramDraws(self.run, self.flat, every, self.seed, self.memory)

    def statistics(self, estimate: FlatMoments, reference: FlatMoments, draws: int) -> list[UStatistics]:
        products = self.flat.grams(estimate.mean, reference.mean)
        if estimate is reference:  # then its bias is 0, and not what rounding leaves of it
            products = [products[0]] * 3
        return by_parameter(products, estimate.squares, draws // BATCHES)
