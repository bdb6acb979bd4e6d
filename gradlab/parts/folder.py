"""The folder of the parts of a measurement, beside its results file: bias.h5.parts.

lock          held by the process that makes the results file
NAME.h5       a finished or failed part, with a checksum
NAME.lock     held by the process that measures the part
.NAME...part  an interrupted write
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import xarray as xr

from .. import errors, files, results
from ..sweeps.claims import Claim, NoLocks, claim
from .plan import NAME, Part

SUFFIX, LOCK = ".parts", "lock"
CONFIGURATION, ERROR = "part_configuration", "part_error"  # attributes of a part
_OURS = re.compile(rf"[0-9a-f]{{{NAME}}}\.(h5|lock)|\.[0-9a-f]{{{NAME}}}.*\.part")


class Folder:
    """The folder that contains the parts of a measurement."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def beside(cls, out: str | Path) -> Folder:
        """The folder of the parts of a results file."""
        target = files.target_of(out)
        return cls(target.with_name(target.name + SUFFIX))

    @contextlib.contextmanager
    def held(self, out: str | Path) -> Iterator[None]:
        """Creates the folder and keeps other commands from writing the same results, where the folder has locks."""
        self.make()
        try:
            held = claim(self.path / LOCK)
        except NoLocks as error:
            errors.warn(f"{self.path}: {error.strerror}; nothing keeps another command from measuring into {out}")
            held = Claim(self.path / LOCK, None)
        if held is None:
            raise OSError(f"{out}: another command measures into this file; wait for it, or take another --out")
        try:
            with held:
                yield
        finally:
            with contextlib.suppress(OSError):  # there are parts
                self.path.rmdir()

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise FileExistsError(
                f"{self.path}: expected no file or a folder of parts of gradlab, got something else; move it away"
            ) from None

    def file(self, part: Part) -> Path:
        return self.path / f"{part.name}.h5"

    def finished(self, part: Part) -> bool:
        return self.file(part).is_file()

    def claim(self, part: Part) -> Claim | None:
        """A claim on a part, or None if another process holds it. In a folder without locks nothing is held."""
        path = self.path / f"{part.name}.lock"
        try:
            return claim(path)
        except NoLocks as error:
            if multiprocessing.parent_process() is not None:  # of several workers, all would measure the same parts
                raise NoLocks(error.errno, f"{error.strerror}, or one worker", error.filename) from None
            return Claim(path, None)

    def write(self, part: Part, ds: xr.Dataset) -> None:
        files.check_own(self.file(part), "part")
        results.save_results(ds.assign_attrs({CONFIGURATION: part.configuration}), self.file(part))

    def read(self, part: Part) -> xr.Dataset | None:
        """The finished part, or None. Raises BadFile for a damaged file or the file of another part."""
        if not self.finished(part):
            return None
        ds = results.open_results(self.file(part), trusted=True)
        if ds.attrs.get(CONFIGURATION) != part.configuration:
            raise errors.BadFile(f"{self.file(part)}: expected the part of this name, got another one")
        return ds

    def tidy(self, parts: Iterable[Part]) -> int:
        """Removes damaged and failed parts, which are measured again. Returns the number of finished ones.

        Raises OSError for anything but a file with the name of a part, a link for example.
        """
        there = 0
        for part in parts:
            files.check_own(self.file(part), "part")
            try:
                ds = self.read(part)
            except errors.BadFile as fault:
                errors.warn(f"{fault}; this part is measured again")
                files.remove(self.file(part))
                continue
            if ds is not None and ERROR in ds.attrs:
                files.remove(self.file(part))
            elif ds is not None:
                there += 1
        return there

    def take_error(self, part: Part) -> str | None:
        """The error of a failed part, whose file is removed: it says nothing to the next call. None for the others."""
        with contextlib.suppress(OSError), h5py.File(self.file(part), "r", locking=False) as file:
            if ERROR not in file.attrs:
                return None
            error = str(file.attrs[ERROR])
            files.remove(self.file(part))
            return error
        return None

    def remove(self, parts: Iterable[Part]) -> int:
        """Removes these parts, and the folder if nothing else is in it. Returns the number of other parts there."""
        own, others = {part.name for part in parts}, 0
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self.path)):
                if not _OURS.fullmatch(entry.name):
                    continue
                if entry.name.lstrip(".")[:NAME] in own:
                    files.remove(entry.path)
                else:
                    others += entry.name.endswith(".h5")
            self.path.rmdir()
        return others
