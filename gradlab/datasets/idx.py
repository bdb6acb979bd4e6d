"""IDX image files, the format of MNIST: a header of 16 bytes, then the pixels; plain or gzip."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor

from .. import errors, files
from . import bounded

COPIES = 2  # of the pixels while they are read
MAGIC = b"\x00\x00\x08\x03"  # unsigned bytes in three dimensions


def read_idx(path: str | Path, called: str | None = None) -> tuple[Tensor, str]:
    """Pixels `(example, 1, height, width)` of an IDX image file, plain or gzip, and its content's sha256.

    Reads at most the announced size, and nothing if this is above the limit. Raises BadFile for a file that is not a
    complete IDX image file; `called` is its name in the message.

    Examples
    --------
    >>> gradlab.datasets.write_idx("pixels.gz", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    >>> pixels, sha256 = gradlab.datasets.read_idx("pixels.gz")
    >>> pixels.shape
    torch.Size([4, 1, 8, 8])
    """
    called = called or str(path)
    with open(path, "rb") as raw:
        zipped = raw.read(2) == bounded.GZIP
        raw.seek(0)
        with bounded.unzipping(called):
            content: bounded.Stream = gzip.GzipFile(fileobj=raw) if zipped else raw
            header = content.read(16)
            shape = _announced(called, header)
            size = math.prod(shape)
            bounded.check_room(called, size, COPIES)
            body = bounded.read(content, size + 1)
    if len(body) != size:
        got = "more" if len(body) > size else f"{len(body)}; the file is cut short"
        raise errors.BadFile(f"{called}: expected {size} bytes of {shape} pixels, got {got}")
    digest = hashlib.sha256(header)
    digest.update(body)
    pixels = torch.frombuffer(body, dtype=torch.uint8).reshape(shape[0], 1, *shape[1:])
    return pixels, digest.hexdigest()


def _announced(called: str, header: bytes) -> tuple[int, ...]:
    """The shape (example, height, width) in the header."""
    if len(header) < 16 or header[:4] != MAGIC:
        begins = header[:4].hex(" ") or "nothing"
        raise errors.BadFile(f"{called}: expected an IDX image file, got {begins} as first bytes")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in (4, 8, 12))
    if not 0 < math.prod(shape) <= bounded.MOST_BYTES:
        raise errors.BadFile(
            f"{called}: expected 1 to {bounded.MOST_BYTES:,} bytes of pixels, got an announced shape of {shape}"
        )
    return shape


def write_idx(path: str | Path, pixels: Tensor) -> None:
    """Writes images `(example, 1, height, width)`, uint8, to a gzip IDX file without a time stamp.

    Raises ValueError for a tensor of another type or shape.

    Examples
    --------
    >>> gradlab.datasets.write_idx("own/t10k-images-idx3-ubyte.gz", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    >>> gradlab.datasets.load("own").pixels.shape
    torch.Size([4, 1, 8, 8])
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 1 or not pixels.numel():
        raise ValueError(
            "pixels: expected torch.uint8 of shape (example, 1, height, width),"
            f" got {pixels.dtype} of shape {tuple(pixels.shape)}"
        )
    n, _, height, width = pixels.shape
    header = MAGIC + b"".join(int(k).to_bytes(4, "big") for k in (n, height, width))
    with files.written_aside(path) as aside:
        aside.write_bytes(gzip.compress(header + pixels.contiguous().numpy().tobytes(), mtime=0))
