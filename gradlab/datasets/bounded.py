"""Files from anywhere: no more is read than a data set can hold, and no more memory taken than is there."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from .. import errors, files

MOST_BYTES = 2**30  # of one file, of one file's pixels, and of one download
CHUNK = 2**16
GZIP = b"\x1f\x8b"


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read(content: Stream, most: int) -> bytearray:
    """Up to `most` bytes, in pieces, so that memory follows what is there and not what is announced."""
    body = bytearray()
    while len(body) < most and (piece := content.read(min(most - len(body), CHUNK))):
        body += piece
    return body


@contextlib.contextmanager
def unzipping(called: str) -> Iterator[None]:
    """BadFile, in which the file is `called` so, where the block meets broken compression."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise errors.BadFile(f"{called}: its compression is broken or cut short ({error})") from None


def sha256(path: Path, called: str) -> str:
    """Of the file as it is; BadFile if it is larger than any data set."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise errors.BadFile(f"{called}: {size:,} bytes; up to {MOST_BYTES:,} can be read")
    return files.sha256(path)
