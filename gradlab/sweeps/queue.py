"""The loop of a worker: claim a cell and train it, until all cells are finished."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..datasets import Images
from .cell_runner import run
from .cells import Cell
from .claims import uninterrupted
from .folder import Folder

POLL = 0.5  # seconds between checks of other processes


@dataclass(frozen=True)
class Job:
    """The job of a worker."""

    cells: list[Cell]
    folder: Folder
    images: Images
    validation: Images
    device: str
    keep_models: bool
    ensemble: int = 1  # cells trained at once
    tf32: bool = False


def work(job: Job, after: Callable[[], None] = lambda: None) -> None:
    """Trains cells until all are finished, here or by others on the same folder. Calls `after()` regularly.

    Waits for cells that others have claimed; if their process dies, the claim becomes free.
    """
    waiting = job.cells
    while True:
        ran = False
        for start in range(0, len(waiting), job.ensemble):
            ran |= work_on(waiting[start : start + job.ensemble], job)
            with uninterrupted():  # see `processes.work_in_processes`
                after()
        waiting = [cell for cell in waiting if not job.folder.finished(cell)]
        if not waiting:
            return
        if not ran:
            time.sleep(POLL)


def work_on(cells: Sequence[Cell], job: Job) -> bool:
    """Trains the cells that are not finished and not claimed by others. Returns True if there were any."""
    with contextlib.ExitStack() as claims:
        own = []
        for cell in cells:
            if job.folder.finished(cell) or (held := job.folder.claim(cell)) is None:
                continue
            claims.enter_context(held)
            if not job.folder.finished(cell):  # finished between the check and the claim
                own.append(cell)
        if own:
            run(own, job.folder, job.images, job.validation, job.device, job.keep_models, job.tf32)
    return bool(own)
