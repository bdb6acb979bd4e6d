"""Names of the files that gradlab writes, and which files they may replace: those of gradlab, figures of Matplotlib."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from . import files


@dataclass(frozen=True)
class Kind:
    """A kind of file: its suffixes, and a text that every file of this kind by gradlab contains."""

    name: str
    suffixes: tuple[str, ...]
    mark: bytes


RESULTS = Kind("results", (".h5", ".hdf5", ".nc"), b"gradlab")
CHECKPOINT = Kind("a checkpoint", (".safetensors",), b"gradlab")
FIGURE = Kind("a figure", (".png", ".pdf", ".svg"), b"atplotlib")  # its program, in the metadata of all three
SUMMARY = Kind("a summary", (".md",), b"# Verdicts, budget")
PAGE = Kind("a page", (".html", ".htm"), b"gradlab")


def check(path: str | Path, kind: Kind, argument: str = "path") -> None:
    """Raises ValueError for a name of another kind of file, and OSError if it is that of a file of another program.

    An empty file may be replaced. Folders, devices and pipes may not, as `files.target_of` says.
    """
    target = files.target_of(path)
    check_name(path, kind, argument)
    if not _replaceable(target, kind):
        raise FileExistsError(
            f"{path}: expected no file or {kind.name} of gradlab, got a file of another program, which is not replaced;"
            f" move it away, or take another name"
        )


def check_name(path: str | Path, kind: Kind, argument: str = "path") -> None:
    """Raises ValueError unless the name ends as files of this kind do."""
    if Path(path).suffix.lower() not in kind.suffixes:
        *others, last = kind.suffixes
        known = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{argument}: expected a name ending in {known}, got {str(path)!r}")


def _replaceable(target: Path, kind: Kind) -> bool:
    """Whether there is no file, an empty one, or one that contains the mark. A damaged file is searched, not parsed."""
    try:
        with open(target, "rb") as file:
            if not target.stat().st_size:
                return True
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(kind.mark) >= 0
    except FileNotFoundError:
        return True
