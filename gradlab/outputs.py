"""Names of the files that gradlab writes, and which files they may replace: those that gradlab has written.

Every kind of file carries a mark that only gradlab writes. It is looked for at the beginning and the end of a file, so
that a large file costs no more than a small one, and a damaged one is still recognised where its mark is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import __version__, files, hdf5, hdf5_sandbox

PROGRAM = f"gradlab {__version__}"  # in the metadata of figures and pages
FORMAT = "gradlab-"  # begins the format in the metadata of a checkpoint
SUMMARY_TITLE = "# Verdicts, budget"
INCOMPLETE = "incomplete"  # attribute of results in which some of what was asked for is missing
STAMPED = ("gradlab", "torch", "date", "command_line")  # attributes of all results, also of earlier versions
SEARCHED = 2**20  # bytes at the beginning, and at the end
# the caption in the metadata of a PNG, PDF or SVG, and words of gradlab's captions
CAPTION = rb"(tEXt|iTXt)Description\0.*?IDAT|/Subject \(.*?\)\s*(/|>>)|<dc:description>.*?</"
IN_CAPTIONS = rb"; loss \w+ \\?\(|target laws? (sampled|model) |; aggregation: |; code \d+x\d+|one code per image"
MOST_HEADER = 16 * 2**20  # bytes of JSON at the beginning of a checkpoint


@dataclass(frozen=True)
class Kind:
    """A kind of file: its suffixes, and whether gradlab wrote an open file, which has the given beginning and end."""

    name: str
    suffixes: tuple[str, ...]
    ours: Callable[[BinaryIO, bytes, bytes], bool]


def _results(file: BinaryIO, begin: bytes, end: bytes) -> bool:
    """The checksum behind the data. Without it, the attributes of all results, in the file itself and not in a group.

    Files of earlier versions, and those that HDF5 has written to, have no checksum. Of a damaged file no groups are
    known.
    """
    if re.search(hdf5.SEAL + rb"[0-9a-f]{0,64}\Z", end):
        return True
    if not all(_has_attribute(begin + end, name) for name in STAMPED):
        return False
    there = hdf5_sandbox.attributes(file.name)
    return there is None or set(STAMPED) <= set(there)


def _has_attribute(content: bytes, name: str) -> bool:
    """Whether an HDF5 attribute of this name is among the bytes: the length of a name, two sizes, the name, a zero."""
    length = (len(name) + 1).to_bytes(2, "little")
    return bool(re.search(re.escape(length) + b".{4}" + name.encode() + b"\0", content, re.DOTALL))


def _checkpoint(file: BinaryIO, begin: bytes, end: bytes) -> bool:
    """The format in the metadata; in a damaged header, its text, which in a value would have escaped quotes."""
    file.seek(8)
    header = file.read(min(int.from_bytes(begin[:8], "little"), MOST_HEADER))
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        return str(json.loads(header).get("__metadata__", {}).get("format")).startswith(FORMAT)
    return bool(re.search(rb'(?<!\\)"format"\s*:\s*"' + FORMAT.encode(), header))


def _figure(file: BinaryIO, begin: bytes, end: bytes) -> bool:
    """gradlab as the program in the metadata; of earlier versions Matplotlib, and a caption of gradlab."""
    content = begin + end
    if re.search(rb"(tEXtSoftware\0|/Creator \(|<dc:title>)gradlab [\w.+-]+, Matplotlib ", content):
        return True
    found = re.search(CAPTION, content, re.DOTALL) if b"atplotlib" in content else None
    return bool(found and re.search(IN_CAPTIONS, found[0].replace(b"\0", b"")))  # UTF-16 in a PDF


def _summary(file: BinaryIO, begin: bytes, end: bytes) -> bool:
    return bool(re.match(SUMMARY_TITLE.encode() + rb" \w+\s+\| analysis \| claim \|", begin))


def _page(file: BinaryIO, begin: bytes, end: bytes) -> bool:
    """The generator; of earlier versions the title and the line below the heading."""
    if b'<meta name="generator" content="gradlab ' in begin:
        return True
    return b"<title>gradlab: " in begin and b"<p>Made by gradlab " in begin


RESULTS = Kind("results", (".h5", ".hdf5", ".nc"), _results)
CHECKPOINT = Kind("a checkpoint", (".safetensors",), _checkpoint)
FIGURE = Kind("a figure", (".png", ".pdf", ".svg"), _figure)
SUMMARY = Kind("a summary", (".md",), _summary)
PAGE = Kind("a page", (".html", ".htm"), _page)


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


def is_complete(path: str | Path) -> bool:
    """Whether there is a results file with all that was asked for: one that is not empty and not marked as a part."""
    try:
        with open(files.target_of(path), "rb") as file:
            begin, end = _ends(file)
    except FileNotFoundError:
        return False
    return bool(begin) and not _has_attribute(begin + end, INCOMPLETE)


def _replaceable(target: Path, kind: Kind) -> bool:
    """Whether there is no file, an empty one, or one that gradlab wrote."""
    try:
        with open(target, "rb") as file:
            begin, end = _ends(file)
            return not begin or kind.ours(file, begin, end)
    except FileNotFoundError:
        return True


def _ends(file: BinaryIO) -> tuple[bytes, bytes]:
    """The beginning and the end of a file, which are the same of a small one."""
    begin = file.read(SEARCHED)
    file.seek(max(0, os.fstat(file.fileno()).st_size - SEARCHED))
    return begin, file.read()
