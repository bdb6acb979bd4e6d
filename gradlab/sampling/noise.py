"""The noise of all draws, reproducible draw by draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import parallel
from ..hashing import exponentials
from ..latents import LatentKind, derived_seed
from ..numerics import MEMORY

_PIECE = 2**17  # numbers that a thread draws at a time: two milliseconds
_HASHED = 2**24  # numbers that a GPU draws at a time, 24 bytes each while it does


class Noise:
    """Standard noise of draws, for logits like `like`. Cached if it fits in half of `memory`, otherwise regenerated.

    Noise array a of draw i depends only on (seed, i, a). So results do not depend on the chunk size or on other
    measurements, and all temperatures and estimators share their noise. On a CPU each draw has a generator. On a GPU,
    starting a generator per draw takes longer than the rest of a small measurement, so all draws are one stream there,
    in which each number is a function of its position.
    """

    def __init__(self, kind: LatentKind, like: Tensor, arrays: int, draws: int, seed: int, memory: int = MEMORY):
        self.kind, self.like, self.seed, self.draws = kind, like, seed, draws
        fits = arrays * draws * like.numel() * like.element_size() <= memory // 2
        self.kept = self._make(arrays, range(draws)) if draws and fits else None

    @property
    def bytes(self) -> int:
        """Size of the cached noise."""
        return 0 if self.kept is None else self.kept.numel() * self.kept.element_size()

    def of(self, arrays: int, start: int, stop: int, step: int = 1) -> Tensor:
        """Noise (array, draw, *like.shape) of the draws start .. stop-1, or every step-th of them."""
        if self.kept is not None:
            return self.kept[:arrays, start:stop:step]
        return self._make(arrays, range(start, stop, step))

    def _make(self, arrays: int, draws: range) -> Tensor:
        e = self.like.new_empty(arrays, len(draws), self.kind.exponentials, *self.like.shape)
        (self._draw_by_draw if e.device.type == "cpu" else self._hashed)(e, draws)
        return self.kind.noise_from(e.movedim(2, 0))

    def _draw_by_draw(self, e: Tensor, draws: range) -> None:
        def fill(positions: range) -> None:
            generator = torch.Generator(self.like.device)
            for position in positions:
                for array in range(len(e)):
                    generator.manual_seed(derived_seed(self.seed, "draw", draws[position], array))
                    e[array, position].exponential_(generator=generator)  # in its place, which is contiguous

        # torch draws on one thread, a number in some 15 ns; draws are independent, so several threads draw at once
        step = max(1, _PIECE // e[:, 0].numel())
        positions = range(len(draws))
        if len(draws) <= step:
            fill(positions)
        else:
            pieces = (positions[start : start + step] for start in positions[::step])
            list(parallel.each(fill, pieces, self.like.device))

    def _hashed(self, e: Tensor, draws: range) -> None:
        numbers = e[0, 0].numel()
        at_once = max(1, _HASHED // numbers)
        for array, of_array in enumerate(e):
            key = derived_seed(self.seed, "draws", array)
            for start in range(0, len(draws), at_once):
                some = draws[start : start + at_once]
                first = torch.arange(some.start, some.stop, some.step, device=e.device) * numbers
                place = first[:, None] + torch.arange(numbers, device=e.device)
                of_array[start : start + at_once] = exponentials(key, place).reshape(-1, *e.shape[2:])
