"""The folder of a sweep: per cell its file, and while it is worked on a lock, a checkpoint and a state beside it.

NAME.h5                 the finished cell, written whole or not at all
NAME.lock               held by whoever trains the cell (claims.py)
NAME.safetensors        its model, between the training's end and the cell's; stays with `keep_models`
NAME.resume.safetensors the training's state after its last epoch
NAME.bias.h5, .gap.h5   what is tracked, until it is in the cell's file
.NAME...part            a write that was cut off
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from .. import errors, results, training
from .cells import KINDS, NAME, Cell
from .claims import Claim, claim

ANALYSIS = "sweep cell"  # what a cell's file says it is


class Folder:
    """Where the cells of a sweep lie. Nothing is opened or made before it is needed."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._read: dict[Path, tuple[tuple[int, ...], xr.Dataset]] = {}

    def file(self, cell: Cell) -> Path:
        return self.path / f"{cell.name}.h5"

    def model(self, cell: Cell) -> Path:
        return self.path / f"{cell.name}.safetensors"

    def tracks(self, cell: Cell) -> dict[str, Path]:
        kinds = cell.tracking.kinds if cell.tracking else ()
        return {kind: training.track_path(self.model(cell), kind) for kind in kinds}

    def finished(self, cell: Cell) -> bool:
        return self.file(cell).is_file()

    def claim(self, cell: Cell) -> Claim | None:
        """The right to work on a cell and to touch its files; None if somebody else has it."""
        return claim(self.path / f"{cell.name}.lock")

    def write(self, cell: Cell, ds: xr.Dataset) -> None:
        results.save_results(ds.assign_attrs(analysis=ANALYSIS, configuration=cell.configuration), self.file(cell))

    def read(self, cell: Cell) -> xr.Dataset | None:
        """The finished cell, None if there is none. BadFile for a file that is not whole or of another cell."""
        path = self.file(cell)
        if not self.finished(cell):
            return None
        stat = path.stat()
        now = stat.st_ino, stat.st_size, stat.st_mtime_ns
        before, ds = self._read.get(path, (None, None))
        if ds is None or before != now:  # reading takes tens of milliseconds, and a sweep has thousands of cells
            ds = results.open_results(path, trusted=True)
            if ds.attrs.get("configuration") != cell.configuration:
                raise errors.BadFile(f"{path}: expected the cell of this name, got another configuration")
            self._read[path] = now, ds
        return ds

    def make(self) -> None:
        """OSError, in one line, where there can be no such folder or nothing can be written into it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"folder: cannot create {self.path} ({error.strerror or error})") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"folder: no permission to write to {self.path.resolve()}")

    def set_aside(self, path: Path, reason: object) -> None:
        """Rename what is damaged or foreign, so that nothing is lost, and say so."""
        kept = path.with_name(f"{path.name}.damaged")
        number = 1
        while kept.exists():
            number += 1
            kept = path.with_name(f"{path.name}.damaged{number}")
        path.rename(kept)
        warnings.warn(f"{reason}; the file is kept as {kept.name}, and the cell is trained again", stacklevel=2)

    def clear(self, cell: Cell, keep_model: bool = False) -> None:
        """Remove all but the finished cell (and its model); the caller has the claim."""
        model = self.model(cell)
        tracks = [training.track_path(model, kind) for kind in KINDS]
        for path in (*tracks, training.resume_path(model), *([] if keep_model else [model])):
            path.unlink(missing_ok=True)
        self.clear_parts(cell)

    def clear_parts(self, cell: Cell) -> None:
        """Remove writes that were cut off; the caller has the claim, so nobody is writing."""
        for part in self.path.glob(f".{cell.name}*.part"):
            part.unlink(missing_ok=True)

    def tidy(self, cells: Iterable[Cell], keep_models: bool, retry_failed: bool) -> None:
        """Before a sweep: set damaged files aside, drop failed cells to be tried again, remove what kills left over.

        Cells that somebody is working on are let be.
        """
        more = self._with_leftovers(keep_models)
        for cell in cells:
            try:
                ds = self.read(cell)
                todo = ds is not None and (cell.name in more or (retry_failed and has_failed(ds)))
            except errors.BadFile:
                todo = True
            if todo and (held := self.claim(cell)) is not None:
                with held:
                    self._tidy(cell, keep_models, retry_failed)

    def _tidy(self, cell: Cell, keep_models: bool, retry_failed: bool) -> None:
        """Reads the file again: before the claim somebody else may have put it right."""
        try:
            ds = self.read(cell)
        except errors.BadFile as fault:
            self.set_aside(self.file(cell), fault)
            return
        if ds is not None and retry_failed and has_failed(ds):
            self.file(cell).unlink(missing_ok=True)
        elif ds is not None:
            self.clear(cell, keep_models)

    def _with_leftovers(self, keep_models: bool) -> set[str]:
        """Names of cells that have more here than a sweep leaves."""
        expected = (".h5", ".safetensors") if keep_models else (".h5",)
        names = [path.name.removeprefix(".") for path in self.path.iterdir()]
        return {name[:NAME] for name in names if name[NAME:] not in expected}


def has_failed(ds: xr.Dataset) -> bool:
    return ds.attrs.get("status") == "failed"
