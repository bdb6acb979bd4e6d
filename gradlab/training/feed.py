"""Batches, noise and temperatures for the steps of several runs, on their device and indexed by counters there.

The host prepares the order of an epoch and the noise and temperatures of a block. `take` only reads and advances the
counters on the device, so a step that includes it can be captured and replayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from . import streams
from .run import Run


class Feed:
    """The batches of all runs. Runs with the same seed share order and noise, which are created once."""

    def __init__(self, runs: Sequence[Run]):
        self.runs, first = runs, runs[0]
        self.device, self.batch = first.device, first.settings.batch_size
        self.images = dataclasses.replace(first.images, pixels=first.images.pixels.to(self.device))
        self.dtype = first.images.floats(slice(0, 1)).dtype
        self.seeds = list(dict.fromkeys(run.settings.seed for run in runs))
        self.of = self._to_device([self.seeds.index(run.settings.seed) for run in runs])
        self.each_its_own = len(self.seeds) == len(runs)
        self.arrays = max(run.estimator.noise_arrays for run in runs)
        code_shape = first.model.code_shape
        shape = (streams.BLOCK, len(self.seeds), self.arrays, self.batch, *code_shape)
        self.noise = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.temperatures = torch.empty((streams.BLOCK, 2, len(runs)), dtype=self.dtype, device=self.device)
        self.order = torch.zeros((len(self.seeds), len(self.images)), dtype=torch.long, device=self.device)
        self.within = torch.arange(self.batch, device=self.device)
        self.at = torch.zeros((), dtype=torch.long, device=self.device)  # images of the epoch that are done
        self.slot = torch.zeros((), dtype=torch.long, device=self.device)  # index of the next step in its block
        self._constant: Tensor | None = None

    @property
    def counters(self) -> list[Tensor]:
        return [self.at, self.slot]

    def begin(self, step: int) -> None:
        """Prepares the order of the images from this step to the end of its epoch."""
        epoch, into = divmod(step, self.runs[0].steps)
        for seed, row in zip(self.seeds, self.order, strict=True):
            row.copy_(streams.order(seed, epoch, len(self.images)))
        self.at.fill_(into * self.batch)

    def fill(self, step: int) -> None:
        """Draws the noise of the block that contains this step, and sets its temperatures."""
        block, into = divmod(step, streams.BLOCK)
        kind, shape = self.runs[0].model.kind, tuple(self.noise.shape[3:])
        for i, seed in enumerate(self.seeds):
            drawn = streams.noise_block(kind, seed, block, self.arrays, shape, self.dtype, self.device)
            self.noise[:, i].copy_(drawn)
        self.slot.fill_(into)
        self._set_temperatures(block * streams.BLOCK)

    def take(self, examples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next step: x (run, example, ...), noise (array, run, example, ...), tf and tb (run,)."""
        x = self.images.floats(self.order.index_select(1, self.at + self.within[:examples]))
        noise = self.noise.index_select(0, self.slot.reshape(1))[0][:, :, :examples]
        temperatures = self.temperatures.index_select(0, self.slot.reshape(1))[0]
        if not self.each_its_own:
            x, noise = x.index_select(0, self.of), noise.index_select(0, self.of)
        self.at += examples
        self.slot += 1
        return x, noise.movedim(1, 0), temperatures[0], temperatures[1]

    def _set_temperatures(self, first: int) -> None:
        if self._constant is not None:
            return
        last = self.runs[0].total - 1
        steps = [min(first + i, last) for i in range(streams.BLOCK)]
        rows = [list(zip(*(run.temperatures(step) for run in self.runs), strict=True)) for step in steps]
        self.temperatures.copy_(torch.tensor(rows, dtype=self.dtype))
        if all(schedule.shape == "constant" for run in self.runs for schedule in run.schedules):
            self._constant = self.temperatures

    def _to_device(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)
