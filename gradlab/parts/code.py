"""Checksums of code that is not gradlab's, on which the numbers of a part depend."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable

from .. import estimators, files

OWN = __name__.partition(".")[0]


def of_module(text: str) -> str:
    """Checksum of the source of an imported MODULE:NAME: its package and folder, and all code that is not installed.

    Other installed packages do not count: a part would otherwise depend on what happens to be imported.
    """
    where = text.partition(":")[0]
    file = getattr(sys.modules[where], "__file__", None)
    folder = None if file is None else os.path.join(os.path.dirname(os.path.realpath(file)), "")

    def counts(package: str, path: str) -> bool:
        if package in (OWN, "__main__", "__mp_main__"):
            return False
        beside = folder is not None and path.startswith(folder)
        return beside or package == where.partition(".")[0] or not _installed(path)

    return _checksum(text, counts)


def of_estimators() -> dict[str, str]:
    """Checksums of the packages of registered estimators that are not gradlab's, by package."""
    packages = {estimators.find(name).__module__.partition(".")[0] for name in estimators.names()}
    found = {}
    for own in sorted(packages - {OWN}):

        def counts(package: str, _: str, own: str = own) -> bool:
            return package == own

        found[own] = _checksum(own, counts)
    return found


def _checksum(text: str, counts: Callable[[str, str], bool]) -> str:
    """Of a text, and of the files of imported modules that count, by the name of their package and their real path."""
    folders = functools.cache(os.path.realpath)  # some hundred, of thousands of modules

    def real(file: str) -> str:
        folder, name = os.path.split(file)
        return os.path.realpath(file) if os.path.islink(file) else os.path.join(folders(folder), name)

    loaded = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    there = sorted((name, real(file)) for name, file in loaded if isinstance(file, str))
    counting = [(name, path) for name, path in there if counts(name.partition(".")[0], path) and os.path.isfile(path)]
    found = [text, *(f"{name} {files.sha256(path)}" for name, path in counting)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _installed(path: str) -> bool:
    """Whether a file is Python's, or of an installed package, of whichever environment."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.split(os.sep)) or path.startswith(_standard())


@functools.cache
def _standard() -> tuple[str, ...]:
    """Folders of Python's own modules, which `sysconfig` takes a while to name."""
    return tuple(os.path.join(os.path.realpath(sysconfig.get_path(one)), "") for one in ("stdlib", "platstdlib"))
