"""Several trainings of equal shape at once. On a GPU they are a stack, and a step uses batched products.

Every random number is the same as in a single training, so results equal those of `train` up to rounding. The files and
the tracking of a cell are those of a single training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import checkpoints, errors, files
from ..datasets import Images
from ..model import LatentModel
from ..numerics import default_dtype, plain_arithmetic
from ..progress import bar
from ..settings import Settings
from . import state
from .engines import Engine, InTurn, engine_for
from .loop import Pace, Training, interruptible, resume_path
from .run import Run
from .tracking import Tracks

VARIED = ("seed", "tf", "tb", "lr", "estimator")  # settings that cells trained together may differ in


def train_together(
    settings: Sequence[Settings],
    images: Images,
    validation: Images,
    outs: Sequence[str | Path],
    *,
    resume: bool = False,
    keep_every: int = 0,
    device: str = "cpu",
    progress: bool = False,
    track: Sequence[str] = (),
    track_every: int | Iterable[int] = 10,
    track_images: int = 100,
    track_draws: int | None = None,
    tf32: bool = False,
) -> list[LatentModel | ValueError | FloatingPointError]:
    """Trains one model for each of `settings` at the same time, writes them to `outs` and returns them.

    Files, histories and states equal those of `train` up to rounding. A cell that was started here can be resumed with
    `train`, and vice versa. `provenance["ensemble"]` is the number of cells; the `seconds` of a cell are its equal
    share of the steps. The other arguments are those of `train`. States are written after every epoch or, if this takes
    more than a second, in 5 % of the time.

    On a GPU the cells are stacked if the models have no buffers and the estimators have equal numbers of loss
    evaluations. Otherwise they are trained one after another, epoch by epoch, which is faster on a CPU.

    With `resume`, each cell continues from its state. Finished cells are read, cells without a state start from the
    beginning, and cells that are behind catch up first.

    Returns
    -------
    One model per cell. If a cell fails, the others continue, and the list contains its error instead of a model:
    FloatingPointError if the loss or a weight is not finite, ValueError if its bias or gap cannot be measured.

    Raises
    ------
    ValueError
        No settings, a different number of `outs`, or cells that differ in more than seed, tf, tb, lr and estimator.
        Also the errors of `train` before its first step, like FileExistsError and FileNotFoundError.
    KeyboardInterrupt
        Ctrl-C, after all states are written.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample").first(60)
    >>> config = {"latents": 2, "categories": 3, "hidden": [8]}
    >>> cells = [gradlab.training.Settings(config=config, epochs=1, tf=tf) for tf in (0.5, 1.6)]
    >>> models = gradlab.training.train_together(cells, images, images, ["a.safetensors", "b.safetensors"])
    >>> [model.provenance["settings"]["tf"] for model in models]
    [0.5, 1.6]
    """
    _check_alike(settings)
    targets = _distinct(settings, outs)
    with default_dtype(images.floats(slice(0, 1)).dtype), plain_arithmetic(tf32):
        cells = []
        for own, target in zip(settings, targets, strict=True):
            run = _Run(own, images, validation, device, tf32, len(settings))
            tracks = Tracks(run, target, track, track_every, track_images, track_draws)
            cells.append(_Cell(run, target, tracks, keep_every))
        for cell in cells:
            cell.begin(resume)
        return _train(cells, progress)


def _train(cells: Sequence[_Cell], progress: bool) -> list[LatentModel | ValueError | FloatingPointError]:
    total, done = sum(cell.run.total for cell in cells), sum(cell.run.step for cell in cells)
    shown = bar(f"training {len(cells)}", total, progress, done=done, pieces=len(cells))
    with interruptible() as stop, shown as advance:
        for cell in cells:
            cell.start()
            if stop.is_set():
                raise _stopped(cell.run)
        pace = Pace()
        engine: Engine = InTurn([])
        while going := [cell for cell in cells if cell.outcome is None]:
            step = min(cell.run.step for cell in going)
            together = [cell for cell in going if cell.run.step == step]
            started = time.perf_counter()
            pace.next_epoch()
            engine = _kept_or_new(engine, [cell.run for cell in together])
            engine.epoch(stop, advance)
            share = (time.perf_counter() - started) / len(together)
            for cell in together:
                cell.run.since = time.perf_counter() - share
                if cell.run.step > step:
                    cell.settle(stop, engine, pace)
                elif step:  # stopped before this cell started its epoch
                    pace.save(cell.run, cell.state)
            at = together[0].run
            advance(0, epoch=f"{at.step // at.steps}/{at.settings.epochs}")
            if stop.is_set():
                raise _stopped(at)
    return [cell.outcome for cell in cells if cell.outcome is not None]


def _kept_or_new(engine: Engine, runs: list[Run]) -> Engine:
    """The engine of the last epoch, or a new one if a run joins or more than half of its runs have failed."""
    kept = {*map(id, runs)} <= {*map(id, engine.runs)} and 2 * len(runs) > len(engine.runs)
    return engine if kept and not isinstance(engine, InTurn) else engine_for(runs)


def _stopped(run: Run) -> KeyboardInterrupt:
    return KeyboardInterrupt(f"stopped at step {run.step} of {run.total}; --resume continues all cells")


class _Run(Run):
    """A training in an ensemble of `count`."""

    def __init__(self, settings: Settings, images: Images, validation: Images, device: str, tf32: bool, count: int):
        super().__init__(settings, images, validation, device, tf32)
        self.count = count

    def about(self) -> dict[str, Any]:
        return super().about() | {"ensemble": self.count}


class _Cell(Training):
    """A training and its outcome: the model, or the error that ended it."""

    outcome: LatentModel | ValueError | FloatingPointError | None = None

    def begin(self, resume: bool) -> None:
        """Restores the saved state, reads a finished cell, or starts from the beginning."""
        if resume and not self.state.is_file() and (found := self._finished()) is not None:
            self.outcome, self.run.step = found, self.run.total
            self.tracks.resume()
        else:
            super().begin(resume and self.state.is_file())

    def _finished(self) -> LatentModel | None:
        """The model that a finished training with the same settings and images has written, or None."""
        try:
            model, _, provenance = checkpoints.read(self.target)
            whole = provenance["step"] == self.run.total and not state.difference(self.run.about(), provenance)
        except (FileNotFoundError, errors.BadFile, KeyError, TypeError):
            return None
        return model.to(self.run.device) if whole else None

    def start(self) -> None:
        """Measures at epoch 0, before the first step."""
        if self.outcome is None:
            with self._alone():
                self.tracks.measure()
                self._end_if_through()

    def settle(self, stop: threading.Event, engine: Engine, pace: Pace) -> None:
        with self._alone():
            super().settle(stop, engine, pace)
            if not stop.is_set():
                self._end_if_through()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Stores an error of the block as outcome, so that it ends this cell only."""
        try:
            yield
        except (ValueError, FloatingPointError) as error:
            self.outcome = error

    def _end_if_through(self) -> None:
        if self.run.step == self.run.total:
            self.end()
            self.outcome = self.run.model


def _check_alike(settings: Sequence[Settings]) -> None:
    if not len(settings):
        raise ValueError("settings: expected the settings of at least one cell, got none")
    for index, own in enumerate(settings):
        for name in (field.name for field in dataclasses.fields(Settings) if field.name not in VARIED):
            if getattr(own, name) != getattr(settings[0], name):
                raise ValueError(
                    f"settings: expected cells that differ only in {', '.join(VARIED)}, got {name}"
                    f" {getattr(own, name)!r} for cell {index} and {getattr(settings[0], name)!r} for cell 0"
                )


def _distinct(settings: Sequence[Settings], outs: Sequence[str | Path]) -> list[Path]:
    if len(outs) != len(settings):
        raise ValueError(f"outs: expected one file for each of {len(settings)} settings, got {len(outs)}")
    targets = [files.writable(out) for out in outs]
    paths = [*targets, *map(resume_path, targets)]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"outs: expected a different file for each cell, got {path} twice")
    return targets
