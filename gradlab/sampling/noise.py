"""The noise of all draws, reproducible draw by draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import parallel
from ..exact import MEMORY
from ..latents import LatentKind, derived_seed

_PIECE = 2**17  # numbers that a thread draws at a time: two milliseconds


class Noise:
    """Standard noise of draws, for logits like `like`: of so many kept if it fits half of `memory`, else made anew.

    Noise array a of draw i is generated from (seed, i, a) alone, so that the figures depend neither on the chunk size
    nor on what else is measured, and all temperatures and estimators share their noise.
    """

    def __init__(self, kind: LatentKind, like: Tensor, arrays: int, draws: int, seed: int, memory: int = MEMORY):
        self.kind, self.like, self.seed, self.draws = kind, like, seed, draws
        fits = arrays * draws * like.numel() * like.element_size() <= memory // 2
        self.kept = self._make(arrays, range(draws)) if draws and fits else None

    @property
    def bytes(self) -> int:
        """What is kept."""
        return 0 if self.kept is None else self.kept.numel() * self.kept.element_size()

    def of(self, arrays: int, start: int, stop: int, step: int = 1) -> Tensor:
        """Noise (array, draw, *like.shape) of the draws start .. stop-1, or every step-th of them."""
        if self.kept is not None:
            return self.kept[:arrays, start:stop:step]
        return self._make(arrays, range(start, stop, step))

    def _make(self, arrays: int, draws: range) -> Tensor:
        e = self.like.new_empty(arrays, len(draws), self.kind.exponentials, *self.like.shape)

        def fill(positions: range) -> None:
            generator = torch.Generator(self.like.device)
            for position in positions:
                for array in range(arrays):
                    generator.manual_seed(derived_seed(self.seed, "draw", draws[position], array))
                    e[array, position].exponential_(generator=generator)  # in its place, which is contiguous

        # torch draws on one thread, a number in some 15 ns; draws are independent, so several threads draw at once
        step = max(1, _PIECE // (arrays * self.kind.exponentials * self.like.numel()))
        positions = range(len(draws))
        if len(draws) <= step:
            fill(positions)
        else:
            pieces = (positions[start : start + step] for start in positions[::step])
            list(parallel.each(fill, pieces, self.like.device))
        return self.kind.noise_from(e.movedim(2, 0))
