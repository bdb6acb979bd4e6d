"""What the analyses share that train a model at many temperatures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import xarray as xr

from gradlab.training import Settings

from .given import Given


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """A grid of trainings. `pairs` restricts it to some (tf, tb)."""

    tf: tuple[float | str, ...]
    tb: tuple[float | str, ...]
    seeds: int
    epochs: int
    images: int  # the first so many of the training split
    validation: int
    config: tuple[tuple[str, Any], ...] = ()
    pairs: tuple[tuple[float | str, float | str], ...] | None = None

    def settings(self, base: Settings) -> Settings:
        return dataclasses.replace(base, config=base.config | dict(self.config), epochs=self.epochs)

    def cost(self, base: Settings) -> str:
        """Counted: trainings, steps, and images that go through the network."""
        cells = len(self.pairs or [(tf, tb) for tf in self.tf for tb in self.tb]) * self.seeds
        steps = cells * self.epochs * -(-self.images // base.batch_size)
        return (
            f"{cells:,} trainings ({self.seeds} seed{'s' * (self.seeds > 1)}) of {self.epochs} epochs on"
            f" {self.images:,} images: {steps:,} steps of {base.batch_size} images"
        )


def measure(given: Given, base: Settings, trainings: Trainings, data: str, name: str) -> xr.Dataset:
    """Train what is not trained yet, in cells under `given.folder`, and collect."""
    from gradlab import datasets, sweeps

    load = given.data or data
    images = datasets.load(load, "train", given.data_dir).first(given.images or trainings.images)
    everything = datasets.load(load, "test", given.data_dir)
    settings = trainings.settings(base)
    shape = {"image_shape": list(images.pixels.shape[1:])}
    return sweeps.sweep(
        dataclasses.replace(settings, config=settings.config | shape),
        images,
        everything.first(min(trainings.validation, len(everything))),
        given.folder / f"{name}-cells",
        tf=trainings.tf,
        tb=trainings.tb,
        pairs=trainings.pairs,
        seeds=trainings.seeds,
        **given.where,
    )
