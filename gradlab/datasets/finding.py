"""Finds the file of each split."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

from .. import errors
from .sources import LAYOUTS, SAMPLE, SOURCES, SPLITS, names

ARCHIVE = ".tar.gz"
Places = dict[str, Path | None]


def default_folder() -> Path:
    """The folder $GRADLAB_DATA, or the user's cache folder if it is not set.

    Examples
    --------
    >>> folder = gradlab.datasets.default_folder()
    """
    import pooch

    return Path(os.environ.get("GRADLAB_DATA") or pooch.os_cache("gradlab"))


def where(name: str | Path, folder: str | Path | None = None) -> Places:
    """The file that `load` reads for each split, or None. Opens no file.

    Raises ValueError for a name that is not a known data set, a folder or an archive, and for a folder with several
    archives.

    Examples
    --------
    >>> sorted(gradlab.datasets.where("mnist"))
    ['test', 'train']
    """
    if name == SAMPLE:
        path = Path(str(importlib.resources.files("gradlab.data") / f"{SAMPLE}.gz"))
        return {"test": path if path.is_file() else None}
    if known(name):
        return _find(folders(name, folder), SOURCES[str(name)].layout)
    if not isinstance(name, str | Path) or not str(name) or not Path(name).exists():
        raise _unknown(name)
    path = Path(name)
    if path.is_dir():
        return _of_one_s_own(path)
    if not path.is_file() or not path.name.endswith(ARCHIVE):
        raise _unknown(name)
    return dict.fromkeys(SPLITS, path)


def known(name: str | Path) -> bool:
    return isinstance(name, str) and name in SOURCES


def folders(name: str | Path, folder: str | Path | None) -> list[Path]:
    """The folders that may contain a known data set, in the order of search."""
    root = Path(folder) if folder is not None else default_folder()
    return [root / name, root]


def layout(name: str | Path, path: Path) -> str:
    """The format of a file that `where` returned: "idx", "cifar10" or "svhn"."""
    if known(name):
        return SOURCES[str(name)].layout
    return "cifar10" if path.name.endswith(ARCHIVE) else "svhn" if path.suffix == ".mat" else "idx"


def missing(name: str | Path, split: str, folder: str | Path | None) -> str:
    """The message for a split without a file."""
    if name == SAMPLE:
        return f"{SAMPLE}.gz is missing from this installation of gradlab; reinstall gradlab"
    if known(name):
        looked = " and ".join(str(f) for f in folders(name, folder))
        wanted = _called(SOURCES[str(name)].layout, split)
        cure = f"`gradlab data fetch {name}` downloads it, or give the folder that contains it"
        return f"{wanted} is not in {looked}; {cure}"
    others = [path for path in where(name).values() if path is not None]
    wanted = " or ".join(_called(kind, split) for kind in ([layout(name, others[0])] if others else LAYOUTS))
    return f"{wanted} is not in {name}; put it there"


def _called(kind: str, split: str) -> str:
    return f"{LAYOUTS[kind][split][0]}[.gz]" if kind == "idx" else LAYOUTS[kind][split][0]


def _unknown(name: object) -> errors.UnknownName:
    own = (
        "an existing folder with IDX files, SVHN's .mat files or CIFAR-10's binary .tar.gz, or the path of the .tar.gz"
    )
    return errors.UnknownName(f"{errors.unknown_name('data', name, names())}; or give {own}")


def _of_one_s_own(folder: Path) -> Places:
    for kind in LAYOUTS:
        found = _find([folder], kind)
        if any(found.values()):
            return found
    archives = sorted(path for path in folder.glob(f"*{ARCHIVE}") if path.is_file())
    if len(archives) > 1:
        raise ValueError(f"data: expected one {ARCHIVE} file in {folder}, got {len(archives)}; give the path of one")
    return dict.fromkeys(SPLITS, archives[0] if archives else None)


def _find(places: list[Path], kind: str) -> Places:
    def first(split: str) -> Path | None:
        paths = (place / name for place in places for name in LAYOUTS[kind][split])
        return next((path for path in paths if path.is_file()), None)

    return {split: first(split) for split in SPLITS}
