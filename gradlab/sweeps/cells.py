"""A cell of a sweep: the complete configuration of one training, and the name that is derived from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .. import __version__, errors, schedules
from ..choices import TRACKED
from ..datasets import Images
from ..training import Settings
from ..training.tracking import epochs_to_track

FORMAT = 1  # of the configuration and of a cell's file
NAME = 32  # hexadecimal digits of a cell's name

Temperature = float | str  # a number, or a schedule as a string


@dataclass(frozen=True)
class Tracking:
    """What is measured during training: at epoch 0, each `every`-th and the last epoch, or at the epochs `every`."""

    kinds: tuple[str, ...]
    every: int | tuple[int, ...] = 10
    images: int = 100  # taken from the start of the validation images
    draws: int | None = None  # None: the default of training.train


@dataclass(frozen=True)
class Cell:
    """One training. Its name is a hash of settings, data, tracking and the version of gradlab.

    The name does not depend on the version of torch, the device or the number of threads, because they change only the
    rounding and several machines may share a sweep. The file of the cell records them.
    """

    settings: Settings
    data: dict[str, Any]
    validation: dict[str, Any]
    tracking: Tracking | None = None
    version: str = __version__

    @cached_property
    def configuration(self) -> str:
        """The configuration as canonical JSON: sorted keys, no spaces, shortest text of every float."""
        whole = {"format": FORMAT, "gradlab": self.version} | {
            name: part for name, part in dataclasses.asdict(self).items() if name != "version"
        }
        return json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def name(self) -> str:
        return hashlib.sha256(self.configuration.encode()).hexdigest()[:NAME]

    @property
    def at(self) -> tuple[Temperature, Temperature, int]:
        """The position in the grid: tf, tb, seed."""
        return self.settings.tf, self.settings.tb, self.settings.seed

    def __str__(self) -> str:
        return "tf {}, tb {}, seed {}".format(*self.at)


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep and its cells. Seeds vary slowest: every pair is trained once before any is trained twice."""

    tf: list[Temperature]
    tb: list[Temperature]
    seeds: list[int]
    cells: list[Cell]


def text(value: Temperature) -> str:
    """A temperature as a string, for axes that contain schedules."""
    return value if isinstance(value, str) else f"{value:.12g}"


def identity(images: Images) -> dict[str, Any]:
    """The identity of a set of images: checksum, split and number, without path or name."""
    return {"sha256": images.sha256, "split": images.split, "images": len(images)}


def grid(
    base: Settings,
    images: Images,
    validation: Images,
    tf: object,
    tb: object,
    seeds: int | Iterable[int],
    pairs: Iterable[Sequence[object]] | None,
    tracking: Tracking | None,
) -> Grid:
    """All cells of a sweep. Raises ValueError for axes that are empty, repeat a value or contain invalid values."""
    tfs, tbs = _temperatures("tf", tf), _temperatures("tb", tb)
    listed = _seeds(seeds)
    wanted = {(a, b) for a in tfs for b in tbs}
    if pairs is not None:
        chosen = _pairs(pairs)
        if not chosen <= wanted or not chosen:
            stray = sorted(map(str, chosen - wanted)) or ["none"]
            raise ValueError(f"pairs: expected pairs (tf, tb) of the values of tf and tb, got {stray[0]}")
        wanted = chosen
    data = identity(images), identity(validation)
    cells = [
        Cell(dataclasses.replace(base, tf=a, tb=b, seed=seed), *data, tracking)
        for seed in listed
        for a in tfs
        for b in tbs
        if (a, b) in wanted
    ]
    return Grid(tfs, tbs, listed, cells)


def tracked(kinds: Iterable[str], every: int | Iterable[int], images: int, draws: int | None) -> Tracking | None:
    """The Tracking, or None if nothing is tracked. Raises ValueError for invalid arguments."""
    listed = [kinds] if isinstance(kinds, str) else list(kinds)
    if not listed:
        return None
    chosen = {errors.choice("track", kind, TRACKED) for kind in listed}
    return Tracking(
        tuple(sorted(chosen)),
        epochs_to_track(every),
        errors.whole_number("track_images", images, 1),
        None if draws is None else errors.whole_number("track_draws", draws, 2),
    )


def _temperatures(argument: str, given: object) -> list[Temperature]:
    several = isinstance(given, Iterable) and not isinstance(given, str) and getattr(given, "ndim", 1) > 0
    listed: list[object] = list(given) if several else [given]  # type: ignore[call-overload]
    return _distinct(argument, [schedules.setting(argument, value) for value in listed])


def _seeds(given: int | Iterable[int]) -> list[int]:
    if not isinstance(given, Iterable):
        return list(range(errors.whole_number("seeds", given, 1)))
    return _distinct("seeds", [errors.whole_number("seeds", seed, 0) for seed in given])


def _pairs(given: Iterable[Sequence[object]]) -> set[tuple[Temperature, Temperature]]:
    try:
        listed = [(a, b) for a, b in given]
    except (TypeError, ValueError):
        raise ValueError(f"pairs: expected pairs (tf, tb), got {given!r}") from None
    return {(schedules.setting("pairs", a), schedules.setting("pairs", b)) for a, b in listed}


def _distinct(argument: str, listed: list[Any]) -> list[Any]:
    if not listed:
        raise ValueError(f"{argument}: expected at least one, got none")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{argument}: expected distinct values, got {listed}")
    return listed
