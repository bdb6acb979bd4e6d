"""Reading of untrusted files: limits on the bytes read and on the memory used."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from .. import errors, files
from ..numerics import free_memory

MOST_BYTES = 2**30  # of one file, of one file's pixels, and of one download
CHUNK = 2**16
GZIP = b"\x1f\x8b"


def check_room(called: str, size: int, copies: int) -> None:
    """Raises BadFile if `copies` times `size`, the bytes of the pixels, do not fit in the free memory."""
    if copies * size > (free := free_memory()):
        raise errors.BadFile(
            f"{called}: expected pixels that fit {copies} times in the free memory of {errors.size(free)}, got"
            f" {errors.size(size)}"
        )


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read(content: Stream, most: int) -> bytearray:
    """Up to `most` bytes. Reads in pieces, so that memory grows with the actual content, not with an announced size."""
    body = bytearray()
    while len(body) < most and (piece := content.read(min(most - len(body), CHUNK))):
        body += piece
    return body


@contextlib.contextmanager
def unzipping(called: str) -> Iterator[None]:
    """Raises BadFile if the block reads broken compression. `called` is the name of the file in the message."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise errors.BadFile(
            f"{called}: expected complete compressed data, got broken or truncated data ({error})"
        ) from None


def sha256(path: Path, called: str) -> str:
    """The sha256 of the file. Raises BadFile for a file that is larger than any data set."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise errors.BadFile(f"{called}: expected at most {MOST_BYTES:,} bytes, got {size:,}")
    return files.sha256(path)
