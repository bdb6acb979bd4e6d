"""Runs a grid of trainings and collects the results."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import xarray as xr

from .. import __version__, errors, numerics, training
from ..datasets import Images
from ..progress import duration
from ..terminal import counted, visible
from ..training import Run, Settings
from .cells import Cell, Grid, grid, tracked
from .collecting import assembled
from .folder import Folder
from .processes import place, work_in_processes
from .progress import Watch, display
from .queue import Job, work
from .trainings import Trainings

ANNOUNCED_FROM = 2000  # steps; from this number on the expected time is printed first


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
    """Trains a model for every (tf, tb, seed) and returns losses, times and tracked metrics as a Dataset.

    Each training is a cell, one file in `folder`, whose name is a hash of the complete configuration. If a sweep is
    interrupted, the same call continues it: finished cells are not repeated, and unfinished ones resume after their
    last epoch. Several sweeps, also on different machines, may share a folder; each cell is trained once. If a training
    fails, its error is recorded and the other trainings continue.

    Parameters
    ----------
    base : settings of all cells, except tf, tb and seed
    images, validation : images for training and for the validation loss
    folder : the folder of the cells; other files in it are ignored
    tf, tb : forward and backward temperatures: numbers, or schedules like "1:0.3" or "1:0.3:cosine"
    seeds : the number of seeds, counted from 0, or a list of seeds
    pairs : train only these pairs (tf, tb) of the grid
    track : "bias", "gap" or both. They are measured at epoch 0, every `track_every` epochs and at the last epoch (or
        at the epochs in `track_every`), on the first `track_images` validation images with `track_draws` draws
    workers : number of processes. They share torch's threads and use one GPU each if there are several. With more than
        one, the calling script needs `if __name__ == "__main__"`
    ensemble : number of cells that a worker trains at once. On a GPU they are stacked into batched products; results
        equal those of single cells up to rounding. "auto": all that fit in the memory of the GPU; 1 on a CPU
    device : "cpu", "cuda", "cuda:1", ... or "auto" (a GPU if there is one)
    tf32 : allow TensorFloat-32 in matrix products on a GPU
    scheduler : address of a Dask scheduler, "tcp://host:8786", whose workers train the cells (extra `distributed`)
    keep_models : keep the trained models, NAME.safetensors, in the folder
    retry_failed : train failed cells again
    progress : show progress on standard error

    Returns
    -------
    Dataset with train_loss, train_kl, validation_loss, validation_kl (tf, tb, seed, epoch), NaN for epochs that a
    training did not reach; final_validation_loss, seconds, status ("done", "failed", "missing") and error
    (tf, tb, seed); tracked metrics (tf, tb, seed, tracked_epoch), those of the gap with the prefix "gap". tf and tb are
    strings if one of them is a schedule.

    Raises
    ------
    ValueError
        Invalid settings, images or axes, or a `scheduler` without the extra `distributed`.
    OSError
        The folder cannot be written or is full, the scheduler does not answer, or all workers died. Finished cells
        are kept.
    KeyboardInterrupt
        Ctrl-C, after the unfinished cells are written. The same call continues the sweep.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample").first(60)
    >>> base = gradlab.training.Settings(config={"latents": 2, "categories": 3, "hidden": [8]}, epochs=1)
    >>> ds = gradlab.sweeps.sweep(base, images, images, "cells", tf=[0.5, 1.6], tb=1.3, seeds=2)
    >>> dict(ds.final_validation_loss.sizes)
    {'tf': 2, 'tb': 1, 'seed': 2}
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
    # raise errors that concern every cell before the first one starts
    with numerics.default_dtype(images.floats(slice(0, 1)).dtype), numerics.plain_arithmetic():
        Run(cells.cells[0].settings, images, validation, "cpu")
    place_of_cells = Folder(folder)
    together = together or _fitting(cells.cells, images, validation, device, count, scheduler)
    job = Trainings(cells.cells, place_of_cells, images, validation, device, keep_models, together, tf32)
    _prepare(job, retry_failed)
    if others := Counter(place_of_cells.of_other_versions(job.cells)):
        of = " and ".join(
            f"{counted(number, 'cell')} of gradlab {version}" for version, number in sorted(others.items())
        )
        errors.warn(
            f"folder: {of} with these settings: they stay, and this version, {__version__}, trains its own;"
            " gradlab.sweeps.collect takes both",
        )
    if progress and (words := _announced(job, count, scheduler)):
        print(visible(words), file=sys.stderr)
    watch = Watch(place_of_cells, list(job.cells))
    try:
        with display(watch, progress) as after:
            _run(job, count, scheduler, after)
    except KeyboardInterrupt:
        there = sum(map(place_of_cells.finished, job.cells))
        raise KeyboardInterrupt(
            f"interrupted; {there} of {len(job.cells)} cells are finished, and the same command continues"
        ) from None
    return _collected(cells, place_of_cells)


def _announced(job: Trainings, workers: int, scheduler: str | None) -> str:
    """The number of trainings and steps and, unless a cluster trains, the expected time; "" for short sweeps."""
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
    """The number of cells that a worker trains at once with ensemble="auto"."""
    if scheduler is not None or torch.device(here := place(device)).type != "cuda":
        return 1
    share = -(-len(cells) // workers)
    return min(share, training.most_together(cells[0].settings, images, validation, here))


def _prepare(job: Trainings, retry_failed: bool) -> None:
    """Creates and tidies the folder. A folder whose cells are all finished may be read-only."""
    folder = job.folder
    if not all(map(folder.finished, job.cells)) or os.access(folder.path, os.W_OK | os.X_OK):
        folder.make()
        folder.tidy(job.cells, job.keep_models, retry_failed)


def _run(job: Trainings, workers: int, scheduler: str | None, after: Callable[[], None]) -> None:
    left = [cell for cell in job.cells if not job.folder.finished(cell)]
    if not left:
        return
    if scheduler is not None:
        work_with_dask(job, scheduler, after)
    elif min(workers, len(left)) > 1:
        work_in_processes(job, min(workers, len(left)), after)
    else:
        work(replace(job, cells=left, device=place(job.device)), after)


def work_with_dask(job: Job, scheduler: str, after: Callable[[], None]) -> None:
    """Computes all cells on a Dask cluster (see `cluster`). Raises ValueError if Dask is not installed."""
    try:
        from .cluster import work_on_cluster
    except ImportError as error:
        cure = "in the checkout of gradlab: pip install '.[distributed]'"
        raise ValueError(f"scheduler: expected Dask to be installed, got {error}; {cure}") from None
    work_on_cluster(job, scheduler, after)


def _collected(cells: Grid, folder: Folder) -> xr.Dataset:
    found = {}
    for cell in cells.cells:
        ds = folder.read(cell)
        if ds is not None:
            found[cell.at] = ds
    return assembled(found, cells.tf, cells.tb, cells.seeds)
