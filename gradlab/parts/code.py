"""Checksums of code that is not gradlab's, on which the numbers of a part depend."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from .. import estimators, files

OWN = __name__.partition(".")[0]


def of_module(text: str) -> str:
    """Checksum of the source of an imported MODULE:NAME: its package and folder, and all code that is not installed.

    Other installed packages do not count: a part would otherwise depend on what happens to be imported.
    """
    where = text.partition(":")[0]
    file = getattr(sys.modules[where], "__file__", None)
    folder = None if file is None else Path(file).resolve().parent

    def counts(package: str, path: Path) -> bool:
        if package in (OWN, "__main__", "__mp_main__"):
            return False
        return package == where.partition(".")[0] or folder in path.parents or not _installed(path)

    return _checksum(text, counts)


def of_estimators() -> dict[str, str]:
    """Checksums of the packages of registered estimators that are not gradlab's, by package."""
    packages = {estimators.find(name).__module__.partition(".")[0] for name in estimators.names()}
    found = {}
    for own in sorted(packages - {OWN}):

        def counts(package: str, _: Path, own: str = own) -> bool:
            return package == own

        found[own] = _checksum(own, counts)
    return found


def _checksum(text: str, counts: Callable[[str, Path], bool]) -> str:
    """Of a text, and of the files of imported modules that count, by the name of their package and their path."""
    loaded = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    there = sorted((name, Path(file).resolve()) for name, file in loaded if isinstance(file, str))
    counting = [(name, path) for name, path in there if path.is_file() and counts(name.partition(".")[0], path)]
    found = [text, *(f"{name} {files.sha256(path)}" for name, path in counting)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _installed(path: Path) -> bool:
    """Whether a file is Python's, or of an installed package, of whichever environment."""
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or not _standard().isdisjoint(path.parents)


@functools.cache
def _standard() -> frozenset[Path]:
    """Folders of Python's own modules; `sysconfig` takes longer to name them than a file takes to read."""
    return frozenset(Path(sysconfig.get_path(one)).resolve() for one in ("stdlib", "platstdlib"))
