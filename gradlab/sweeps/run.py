"""The sweep: a grid of trainings, run where asked, and collected."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import xarray as xr

from .. import errors, numerics, training
from ..datasets import Images
from ..progress import duration
from ..training import Run, Settings
from .cells import Cell, Grid, grid, tracked
from .collecting import assembled
from .folder import Folder
from .processes import place, work_in_processes
from .progress import Watch, display
from .queue import Job, work

ANNOUNCED_FROM = 2000  # steps that take long enough to be said beforehand how long


def sweep(
    base: Settings,
    images: Images,
    validation: Images,
    folder: str | Path,
    *,
    tf: object,
    tb: object,
    seeds: int | Iterable[int],
    pairs: Iterable[Sequence[object]] | None = None,
    track: Iterable[str] = (),
    track_every: int | Iterable[int] = 10,
    track_images: int = 100,
    track_draws: int | None = None,
    workers: int = 1,
    ensemble: int | str = "auto",
    device: str = "cpu",
    tf32: bool = False,
    scheduler: str | None = None,
    keep_models: bool = False,
    retry_failed: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Train a model for every (tf, tb, seed) and collect losses, times and tracked figures.

    Each cell, one training, is a file in `folder`, named by a hash of its complete configuration and written as it
    ends. Killed at any moment and called again, a sweep goes on: finished cells are never repeated, cells under way
    resume after their last epoch. Any number of sweeps, on this machine or others, may work on one folder: each cell
    is trained once. A training that fails is recorded with its error, and does not stop the rest.

    Parameters
    ----------
    base : settings of all cells, but for tf, tb and seed
    images, validation : to train on, and to take the validation loss of
    folder : where the cells lie; other files in it are let be
    tf, tb : forward and backward temperatures: numbers, or schedules such as "1:0.3" or "1:0.3:cosine"
    seeds : how many, counted from 0, or which
    pairs : train only these (tf, tb) of the grid
    track : "bias", "gap" or both, measured at epoch 0, every `track_every`-th and the last, or at the epochs that
        `track_every` lists, on the first `track_images` validation images with `track_draws` draws
        (gradlab.training.train)
    workers : processes, which share torch's threads and take a GPU each where there are several; with more than one,
        a script that calls this needs its `if __name__ == "__main__"`
    ensemble : cells that a worker trains at once, on a GPU stacked into batched products, each with the results it has
        alone up to rounding; "auto": as many as fit a GPU's memory, on a CPU one
    device : "cpu", "cuda", "cuda:1", ... or "auto", a GPU where there is one
    tf32 : let a GPU's matrix products use TensorFloat-32
    scheduler : address of a Dask scheduler, "tcp://host:8786"; cells are trained by its workers (extra `distributed`)
    keep_models : keep the trained models, NAME.safetensors, in the folder
    retry_failed : train cells that are recorded as failed again
    progress : show progress on standard error

    Returns
    -------
    Dataset with train_loss, train_kl, validation_loss, validation_kl (tf, tb, seed, epoch), NaN where a training did
    not come; final_validation_loss, seconds, status ("done", "failed", "missing") and error (tf, tb, seed); tracked
    figures (tf, tb, seed, tracked_epoch), those of the gap with its name. tf and tb are texts if any is a schedule.

    Raises
    ------
    ValueError
        Settings, images or axes that do not fit; no `distributed` installed for a `scheduler`.
    OSError
        The folder cannot be written or is full, no scheduler answers, or all workers died. Finished cells stay.
    KeyboardInterrupt
        On Ctrl-C, once the cells under way are written; the same call goes on.
    """
    tracking = tracked(track, track_every, track_images, track_draws)
    cells = grid(base, images, validation, tf, tb, seeds, pairs, tracking)
    count = errors.whole_number("workers", workers, 1)
    if scheduler is not None and count > 1:
        raise ValueError(f"workers: expected none with a scheduler, which has its own workers, got {count}")
    together = 0 if ensemble == "auto" else errors.whole_number("ensemble", ensemble, 1)
    if scheduler is not None and together > 1:
        raise ValueError(f"ensemble: expected none with a scheduler, whose tasks are single cells, got {together}")
    if scheduler is None and device != "auto":
        numerics.precision_and_place(None, device)
    # what would keep every cell from training, said at once
    Run(cells.cells[0].settings, images, validation, "cpu")
    place_of_cells = Folder(folder)
    together = together or _fitting(cells.cells, images, validation, device, count, scheduler)
    job = Job(cells.cells, place_of_cells, images, validation, device, keep_models, together, tf32)
    _prepare(job, retry_failed)
    if progress and (words := _announced(job, count, scheduler)):
        print(words, file=sys.stderr)
    watch = Watch(place_of_cells, job.cells)
    try:
        with display(watch, progress) as after:
            _run(job, count, scheduler, after)
    except KeyboardInterrupt:
        there = sum(map(place_of_cells.finished, job.cells))
        raise KeyboardInterrupt(
            f"interrupted; {there} of {len(job.cells)} cells are finished, and the same command continues"
        ) from None
    return _collected(cells, place_of_cells)


def _announced(job: Job, workers: int, scheduler: str | None) -> str:
    """What is about to be trained and, unless elsewhere, how long that takes, by steps timed here; "" if not long."""
    left = [cell for cell in job.cells if not job.folder.finished(cell)]
    settings = job.cells[0].settings
    steps = settings.epochs * -(-len(job.images) // settings.batch_size)
    if len(left) * steps < ANNOUNCED_FROM:
        return ""
    words = f"{len(left):,} trainings of {steps:,} steps"
    if scheduler is not None:
        return words
    together = [cell.settings for cell in left[: job.ensemble]]
    seconds = training.step_seconds(together, job.images, job.validation, place(job.device), job.tf32)
    rounds = -(-len(left) // len(together)) / workers
    at_once = f", {len(together):,} at a time" if len(together) > 1 else ""
    return f"{words}{at_once}: about {duration(seconds * steps * max(rounds, 1))}"


def _fitting(
    cells: list[Cell], images: Images, validation: Images, device: str, workers: int, scheduler: str | None
) -> int:
    """How many cells a worker trains at once, where it is left to the GPU's memory."""
    if scheduler is not None or torch.device(here := place(device)).type != "cuda":
        return 1
    share = -(-len(cells) // workers)
    return min(share, training.most_together(cells[0].settings, images, validation, here))


def _prepare(job: Job, retry_failed: bool) -> None:
    """A folder that can be worked in; one with every cell finished need not be."""
    folder = job.folder
    if not all(map(folder.finished, job.cells)) or os.access(folder.path, os.W_OK | os.X_OK):
        folder.make()
        folder.tidy(job.cells, job.keep_models, retry_failed)


def _run(job: Job, workers: int, scheduler: str | None, after: Callable[[], None]) -> None:
    left = [cell for cell in job.cells if not job.folder.finished(cell)]
    if not left:
        return
    if scheduler is not None:
        try:
            from .cluster import work_on_cluster
        except ImportError as error:
            cure = "in the checkout of gradlab: pip install '.[distributed]'"
            raise ValueError(f"scheduler: expected Dask to be installed, got {error}; {cure}") from None
        work_on_cluster(job, scheduler, after)
    elif min(workers, len(left)) > 1:
        work_in_processes(job, min(workers, len(left)), after)
    else:
        work(replace(job, cells=left, device=place(job.device)), after)


def _collected(cells: Grid, folder: Folder) -> xr.Dataset:
    found = {}
    for cell in cells.cells:
        ds = folder.read(cell)
        if ds is not None:
            found[cell.at] = ds
    return assembled(found, cells.tf, cells.tb, cells.seeds)
