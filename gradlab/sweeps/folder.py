"""The folder of a sweep. Each cell has one file and, during its training, a lock, a checkpoint and a state.

NAME.h5                 the finished cell, written atomically
NAME.lock               held by the process that trains the cell (claims.py)
NAME.safetensors        its model, until the cell is written; kept with `keep_models`
NAME.resume.safetensors the state of the training after its last epoch
NAME.bias.h5, .gap.h5   tracked metrics, until they are in the file of the cell
.NAME...part            an interrupted write
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import h5py
import xarray as xr

from .. import errors, files, results, training
from ..choices import TRACKED
from .cells import NAME, Cell
from .claims import Claim, claim

ANALYSIS = "sweep cell"  # the attribute `analysis` of a cell


class Folder:
    """The folder that contains the cells of a sweep. Opens and creates nothing before it is needed."""

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
        """A claim on a cell and its files, or None if another process holds it."""
        return claim(self.path / f"{cell.name}.lock")

    def write(self, cell: Cell, ds: xr.Dataset) -> None:
        files.check_own(self.file(cell), "cell")  # a link would lead to a file that is not the sweep's
        results.save_results(ds.assign_attrs(analysis=ANALYSIS, configuration=cell.configuration), self.file(cell))

    def read(self, cell: Cell) -> xr.Dataset | None:
        """The finished cell, or None. Raises BadFile for a damaged file or the file of another cell."""
        path = self.file(cell)
        if not self.finished(cell):
            return None
        stat = path.stat()
        now = stat.st_ino, stat.st_size, stat.st_mtime_ns
        before, ds = self._read.get(path, (None, None))
        if (
            ds is None or before != now
        ):  # cached: reading takes tens of milliseconds, and a sweep has thousands of cells
            ds = results.open_results(path, trusted=True)
            if ds.attrs.get("configuration") != cell.configuration:
                raise errors.BadFile(f"{path}: expected the cell of this name, got another configuration")
            self._read[path] = now, ds
        return ds

    def make(self) -> None:
        """Creates the folder. Raises OSError if this is impossible or the folder is not writable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"folder: cannot create {self.path} ({error.strerror or error})") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"folder: no permission to write to {self.path.resolve()}")

    def set_aside(self, path: Path, reason: object) -> None:
        """Renames a damaged or foreign file, so that nothing is lost, and warns."""
        kept = path.with_name(f"{path.name}.damaged")
        number = 1
        while os.path.lexists(kept):
            number += 1
            kept = path.with_name(f"{path.name}.damaged{number}")
        path.rename(kept)
        errors.warn(f"{reason}; the file is kept as {kept.name}, and the cell is trained again")

    def clear(self, cell: Cell, keep_model: bool = False) -> None:
        """Removes all files except the finished cell (and its model). The caller holds the claim."""
        model = self.model(cell)
        tracks = [training.track_path(model, kind) for kind in TRACKED]
        for path in (*tracks, training.resume_path(model), *([] if keep_model else [model])):
            files.remove(path)
        self.clear_parts(cell)

    def clear_parts(self, cell: Cell) -> None:
        """Removes interrupted writes. The caller holds the claim, so no other process is writing."""
        for part in self.path.glob(f".{cell.name}*.part"):
            files.remove(part)

    def of_other_versions(self, cells: Iterable[Cell]) -> list[str]:
        """The versions of gradlab that have finished trainings like these cells, one for each such training."""
        known = {self.file(cell).name for cell in cells}
        asked = {_without_version(cell.configuration) for cell in cells}
        found = []
        for path in sorted(self.path.glob("?" * NAME + ".h5")):
            if path.name in known:
                continue
            with (
                contextlib.suppress(OSError, KeyError, TypeError, ValueError),
                h5py.File(path, "r", locking=False) as h5,
            ):
                configuration = str(h5.attrs["configuration"])
                if _without_version(configuration) in asked:
                    found.append(str(json.loads(configuration)["gradlab"]))
        return found

    def tidy(self, cells: Iterable[Cell], keep_models: bool, retry_failed: bool) -> None:
        """Prepares a sweep: renames damaged files, removes failed cells that are tried again, and removes leftovers.

        Cells that other processes are working on are not touched. Raises OSError if something other than a file has the
        name of a file.
        """
        more = self._with_leftovers(keep_models)
        for cell in cells:
            if cell.name in more:
                self._check_names(cell)
            try:
                ds = self.read(cell)
                if ds is None:
                    files.check_own(self.file(cell), "cell")
                todo = ds is not None and (cell.name in more or (retry_failed and has_failed(ds)))
            except errors.BadFile:
                todo = True
            if todo and (held := self.claim(cell)) is not None:
                with held:
                    self._tidy(cell, keep_models, retry_failed)

    def _check_names(self, cell: Cell) -> None:
        """Raises OSError for what has the name of a file that a training writes, and is none."""
        model = self.model(cell)
        for path in (model, training.resume_path(model), *self.tracks(cell).values()):
            files.check_own(path, "file")

    def _tidy(self, cell: Cell, keep_models: bool, retry_failed: bool) -> None:
        """Tidies one cell. Reads the file again, because another process may have repaired it before the claim."""
        try:
            ds = self.read(cell)
        except errors.BadFile as fault:
            self.set_aside(self.file(cell), fault)
            return
        if ds is not None and retry_failed and has_failed(ds):
            files.check_own(self.file(cell), "cell")
            files.remove(self.file(cell))
        elif ds is not None:
            self.clear(cell, keep_models)

    def _with_leftovers(self, keep_models: bool) -> set[str]:
        """Names of cells that have more files than a finished sweep leaves."""
        expected = (".h5", ".safetensors") if keep_models else (".h5",)
        with os.scandir(self.path) as found:
            more = [e.name for e in found if not (e.is_file(follow_symlinks=False) and e.name[NAME:] in expected)]
        return {name.removeprefix(".")[:NAME] for name in more}


def _without_version(configuration: str) -> str:
    whole = json.loads(configuration)
    return json.dumps({name: part for name, part in whole.items() if name != "gradlab"}, sort_keys=True)


def has_failed(ds: xr.Dataset) -> bool:
    return ds.attrs.get("status") == "failed"
