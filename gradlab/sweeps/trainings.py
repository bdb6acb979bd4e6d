"""The job of a sweep: trainings, in this process, in worker processes, or as tasks of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..datasets import Images
from .cell_runner import run
from .cells import Cell
from .folder import Folder
from .processes import place
from .queue import Job


@dataclass(frozen=True)
class Trainings(Job):
    """The cells of a sweep, and how they are trained."""

    images: Images
    validation: Images
    device: str
    keep_models: bool
    ensemble: int = 1  # cells trained at once
    tf32: bool = False

    def run(self, cells: Sequence[Cell]) -> None:
        run(cells, self.folder, self.images, self.validation, self.device, self.keep_models, self.tf32)

    def in_worker(self, index: int) -> Trainings:
        return replace(self, folder=Folder(self.folder.path), device=place(self.device, index))

    def shared(self) -> tuple[Images, Images]:
        return self.images, self.validation

    def task(self, cell: Cell) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return train, (cell, self.device, self.keep_models, self.tf32)


def train(path: str, shared: tuple[Images, Images], cell: Cell, device: str, keep_model: bool, tf32: bool) -> None:
    """Trains a cell in the folder `path`."""
    run([cell], Folder(path), *shared, place(device), keep_model, tf32)
