"""The loop of a worker: claim a cell and compute it, until all cells are finished.

A cell is a piece of work that makes one file of a folder: a training of a sweep, or a part of a measurement.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import xarray as xr

from .. import progress
from .claims import Claim, uninterrupted

POLL = 0.5  # seconds between checks of other processes


class Cell(Protocol):
    """What is computed at once. Its text is for messages."""

    @property
    def name(self) -> str:
        """The name of its file, without suffix."""

    @property
    def version(self) -> str:
        """The version of gradlab that computes it."""


class Folder(Protocol):
    """The folder of the files, one for each finished cell."""

    path: Path

    def file(self, cell: Any) -> Path: ...

    def finished(self, cell: Any) -> bool: ...

    def claim(self, cell: Any) -> Claim | None:
        """A claim on a cell and its files, or None if another process holds it."""

    def read(self, cell: Any) -> xr.Dataset | None:
        """The finished cell, or None. Raises BadFile for a damaged file or the file of another cell."""


@dataclass(frozen=True)
class Job(ABC):
    """The job of a worker."""

    cells: Sequence[Any]
    folder: Any  # a Folder

    ensemble = 1  # cells that are computed together
    called, of = "sweep", "cells"  # in messages

    @abstractmethod
    def run(self, cells: Sequence[Any]) -> None:
        """Computes cells that this process has claimed, and writes their files."""

    @abstractmethod
    def in_worker(self, index: int) -> Job:
        """The job of worker process `index` on this machine."""

    @abstractmethod
    def shared(self) -> Any:
        """What each worker of a cluster gets once."""

    @abstractmethod
    def task(self, cell: Any) -> tuple[Callable[..., None], tuple[Any, ...]]:
        """A function and its arguments after (path, shared): it computes a cell in the folder `path` of a worker."""


def work(job: Job, after: Callable[[], None] = lambda: None) -> None:
    """Computes cells until all are finished, here or by others on the same folder. Calls `after()` regularly.

    Waits for cells that others have claimed; if their process dies, the claim becomes free.
    """
    waiting = job.cells
    while True:
        ran = False
        for start in range(0, len(waiting), job.ensemble):
            ran |= work_on(waiting[start : start + job.ensemble], job)
            progress.step_ends()
            with uninterrupted():  # see `processes.work_in_processes`
                after()
        waiting = [cell for cell in waiting if not job.folder.finished(cell)]
        if not waiting:
            return
        if not ran:
            time.sleep(POLL)


def work_on(cells: Sequence[Any], job: Job) -> bool:
    """Computes the cells that are not finished and not claimed by others. Returns True if there were any."""
    with contextlib.ExitStack() as claims:
        own = []
        for cell in cells:
            if job.folder.finished(cell) or (held := job.folder.claim(cell)) is None:
                continue
            claims.enter_context(held)
            if not job.folder.finished(cell):  # finished between the check and the claim
                own.append(cell)
        if own:
            job.run(own)
    return bool(own)
