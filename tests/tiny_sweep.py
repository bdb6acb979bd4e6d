"""A sweep of tiny models, and what tests do to it."""

from __future__ import annotations

import os
from typing import Any

import torch
import xarray as xr

from gradlab import sweeps, training
from gradlab.attributes import plain
from gradlab.datasets import Images
from gradlab.sweeps.cells import Cell, grid

CONFIG = {"latents": 2, "categories": 3, "hidden": [8], "image_shape": [1, 4, 4]}
BASE = training.Settings(config=CONFIG, batch_size=10, epochs=3, lr=0.05, kl=False, optimizer="adam")
TFS, TBS, SEEDS = [0.5, 1.6], [0.7, 1.3, 3.0], [0, 3]
ONE, ONE_POINT = {"tf": 0.5, "tb": 0.7, "seeds": [3]}, {"tf": [0.5], "tb": [0.7], "seed": [3]}
TIMINGS = {"seconds"}


def rows(count: int, seed: int, split: str) -> Images:
    """4x4 pictures with one bright row each, and some noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), 0, torch.randint(0, 4, (count,), generator=generator)] += 180
    return Images(pixels, "rows", split, f"{seed:064x}")


IMAGES, VALIDATION = rows(64, 0, "train"), rows(20, 1, "test")


def sweep(folder: Any, **options: Any) -> xr.Dataset:
    """The tiny sweep; settings and options of gradlab.sweeps.sweep may be given."""
    settings = {name: options.pop(name) for name in [*options] if name in vars(BASE) and name not in ("tf", "tb")}
    base = training.Settings(**{**vars(BASE), **settings})
    grid = {"tf": TFS, "tb": TBS, "seeds": SEEDS} | options
    return sweeps.sweep(base, IMAGES, VALIDATION, folder, **grid)


def assert_same(a: xr.Dataset, b: xr.Dataset) -> None:
    """Bit for bit, but for timings, dates and places."""
    a, b = a.drop_vars(TIMINGS), b.drop_vars(TIMINGS)
    xr.testing.assert_equal(a, b)
    differing = {name for name in a.attrs | b.attrs if plain(a.attrs.get(name)) != plain(b.attrs.get(name))}
    unforeseen = {name: (a.attrs.get(name), b.attrs.get(name)) for name in differing - {"date", "command_line"}}
    assert not unforeseen, unforeseen


def leftovers(folder: Any) -> list[str]:
    """Names of files that are no finished cells."""
    return sorted(name for name in os.listdir(folder) if len(name) != 35 or not name.endswith(".h5"))


def cells(**more: Any) -> list[Cell]:
    """The cells of the tiny sweep."""
    given = {"tf": TFS, "tb": TBS, "seeds": SEEDS, "pairs": None, "tracking": None} | more
    return grid(BASE, IMAGES, VALIDATION, *given.values()).cells  # type: ignore[arg-type]


class Death(BaseException):
    """What a kill looks like from inside: nothing is caught or written afterwards."""


def dies_at(monkeypatch: Any, home: Any, name: str, call: int, before: bool = True) -> None:
    """The `call`-th call of a function is the last one, before or after what it does."""
    real, calls = getattr(home, name), []

    def dying(*given, **options):
        calls.append(name)
        if len(calls) == call and before:
            raise Death
        found = real(*given, **options)
        if len(calls) == call:
            raise Death
        return found

    monkeypatch.setattr(home, name, dying)


def listed_trainings(monkeypatch: Any) -> list[tuple[Any, Any, int]]:
    """A list that gets (tf, tb, seed) of each training begun or gone on with."""
    begun, train = [], training.train

    def noted(settings, *given, **options):
        begun.append((settings.tf, settings.tb, settings.seed))
        return train(settings, *given, **options)

    monkeypatch.setattr(training, "train", noted)
    return begun
