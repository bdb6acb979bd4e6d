"""Several trainings of equal shape at once: their parameters are stacked, so that a step is one of batched products.

Encoder and decoder run over all cells in one call; points and estimates, cheap beside them, cell by cell. Every random
number is that of the cell trained alone, so its figures are those of `train` but for rounding. Between two epochs
nothing is stacked: each cell is then an ordinary training with a state of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import checkpoints, errors, files, progress
from ..datasets import Images
from ..machine import plain_arithmetic
from ..model import LatentModel
from . import state
from .loop import Training, interruptible, resume_path
from .run import Run
from .settings import Settings
from .stack import Stack
from .tracking import Tracks

VARIED = ("seed", "tf", "tb", "estimator")  # settings that cells trained together may differ in


@plain_arithmetic()
def train_together(
    settings: Sequence[Settings],
    images: Images,
    validation: Images,
    outs: Sequence[str | Path],
    *,
    resume: bool = False,
    keep_every: int = 0,
    device: str = "cpu",
    shown: bool = False,
    track: Sequence[str] = (),
    track_every: int = 10,
    track_images: int = 100,
    track_draws: int | None = None,
) -> list[LatentModel | ValueError | FloatingPointError]:
    """Train a model for each of `settings`, all in one go, write each to its own of `outs`, and return them.

    Files, histories and states are those of `train`, cell by cell, within rounding: a cell begun here can be gone on
    with alone, and the other way round. `provenance["ensemble"]` is the number of cells; a cell's `seconds` are its
    equal share of the steps, so that those of all cells add up. The other arguments are those of `train`.

    With `resume` each cell goes on from its own state. One that is finished is read, one without a state begins anew,
    and cells that are behind catch up first.

    Returns
    -------
    A model for each cell. A cell that fails does not stop or change the others: in its place stands the error that
    `train` would raise, FloatingPointError where a loss or weight is no longer finite, ValueError where its bias or gap
    cannot be measured.

    Raises
    ------
    ValueError
        No settings, or not as many `outs`; cells that differ in more than seed, tf, tb and an estimator of
        as many loss evaluations; the estimator `exact`; a model that cannot be stacked; and what `train` raises before
        its first step, as it does FileExistsError and FileNotFoundError.
    KeyboardInterrupt
        On Ctrl-C, once all states are written.
    """
    _check_alike(settings)
    targets = _distinct(settings, outs)
    cells = []
    for own, target in zip(settings, targets, strict=True):
        run = _Run(own, images, validation, device, len(settings))
        tracks = Tracks(run, target, track, track_every, track_images, track_draws)
        cells.append(_Cell(run, target, tracks, keep_every))
    check_stackable([cell.run for cell in cells])
    for cell in cells:
        cell.begin(resume)
    total, done = sum(cell.run.total for cell in cells), sum(cell.run.step for cell in cells)
    with interruptible() as stop, progress.bar(f"training {len(cells)}", total, shown, done=done) as advance:
        for cell in cells:
            cell.start()
            if stop.is_set():
                raise _stopped(cell.run)
        while going := [cell for cell in cells if cell.outcome is None]:
            step = min(cell.run.step for cell in going)
            together = [cell for cell in going if cell.run.step == step]
            started = time.perf_counter()
            _epoch([cell.run for cell in together], stop, advance)
            share = (time.perf_counter() - started) / len(together)
            for cell in together:
                cell.run.since = time.perf_counter() - share
                cell.settle(stop)
            at = together[0].run
            advance(0, epoch=f"{at.step // at.steps}/{at.settings.epochs}")
            if stop.is_set():
                raise _stopped(at)
    return [cell.outcome for cell in cells if cell.outcome is not None]


def _stopped(run: Run) -> KeyboardInterrupt:
    return KeyboardInterrupt(f"stopped at step {run.step} of {run.total}; --resume goes on with all cells")


class _Run(Run):
    """A training that is one of an ensemble of `count`."""

    def __init__(self, settings: Settings, images: Images, validation: Images, device: str, count: int):
        super().__init__(settings, images, validation, device)
        self.count = count

    def about(self) -> dict[str, Any]:
        return super().about() | {"ensemble": self.count}


class _Cell(Training):
    """A training, and what came of it: its model, or the error that ended it."""

    outcome: LatentModel | ValueError | FloatingPointError | None = None

    def begin(self, resume: bool) -> None:
        """Go on from the state there is, or from the start; a finished cell is read."""
        if resume and not self.state.is_file() and (found := self._finished()) is not None:
            self.outcome, self.run.step = found, self.run.total
            self.tracks.resume()
        else:
            super().begin(resume and self.state.is_file())

    def _finished(self) -> LatentModel | None:
        """The model that this very training has written."""
        try:
            model, _, provenance = checkpoints.read(self.target)
            whole = provenance["step"] == self.run.total and not state.difference(self.run.about(), provenance)
        except (FileNotFoundError, errors.BadFile, KeyError, TypeError):
            return None
        return model.to(self.run.device) if whole else None

    def start(self) -> None:
        """Before the first step."""
        if self.outcome is None:
            with self._alone():
                self.tracks.measure()
                self._end_if_through()

    def settle(self, stop: threading.Event) -> None:
        with self._alone():
            super().settle(stop)
            if not stop.is_set():
                self._end_if_through()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """What fails here ends this cell only."""
        try:
            yield
        except (ValueError, FloatingPointError) as error:
            self.outcome = error

    def _end_if_through(self) -> None:
        if self.run.step == self.run.total:
            self.end()
            self.outcome = self.run.model


def _epoch(runs: list[Run], stop: threading.Event, advance: progress.Advance) -> None:
    """The steps of all runs up to the end of the epoch, or up to the one during which `stop` is set."""
    stack = Stack(runs)
    for batches in zip(*(run.batches_left() for run in runs), strict=True):
        stack.one_step(batches)
        advance(len(runs))
        if stop.is_set():
            break
    stack.hand_back()


def _check_alike(settings: Sequence[Settings]) -> None:
    if not len(settings):
        raise ValueError("settings: got none; give those of at least one cell")
    for index, own in enumerate(settings):
        for name in (field.name for field in dataclasses.fields(Settings) if field.name not in VARIED):
            if getattr(own, name) != getattr(settings[0], name):
                raise ValueError(
                    f"settings: cell {index} has {name} {getattr(own, name)!r}, cell 0 {getattr(settings[0], name)!r};"
                    f" cells trained together may differ in {', '.join(VARIED)} only"
                )


def _distinct(settings: Sequence[Settings], outs: Sequence[str | Path]) -> list[Path]:
    if len(outs) != len(settings):
        raise ValueError(f"outs: got {len(outs)} for {len(settings)} settings; give a file for each")
    targets = [files.writable(out) for out in outs]
    paths = [*targets, *map(resume_path, targets)]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"outs: {path} would be written by two cells; give each a file of its own")
    return targets


def check_stackable(runs: Sequence[Run]) -> None:
    """ValueError for runs of equal shape that cannot be trained together all the same, or whose model cannot be."""
    model = runs[0].model
    logits = torch.empty(1, *model.code_shape)
    counts = [run.estimator.evaluations_at(model.kind, logits) for run in runs]
    for run, count in zip(runs, counts, strict=True):
        if run.estimator.all_configurations:
            raise ValueError(f"estimator: {run.estimator.label} decodes all configurations at once; train it alone")
        if count != counts[0]:
            raise ValueError(
                f"estimator: {run.estimator.label} takes {count} loss evaluations, {runs[0].estimator.label}"
                f" {counts[0]}; cells trained together need as many"
            )
    Stack(runs).check()
