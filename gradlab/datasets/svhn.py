"""SVHN, the cropped digits: a MATLAB 5 file with images `X` (height, width, channel, example) and labels `y`."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import errors
from . import bounded

HDF5 = b"\x89HDF\r\n\x1a\n"
START = 128  # of the first variable
HEAD = 512  # bytes of a variable's description: at most 32 dimensions and a name of 63 letters
ZIPPED_HEAD = 4096  # compressed bytes that contain the description
MOST_EXPANSION = 1032  # of zlib's compression
MOST_VARIABLES = 16
COPIES = 4  # of the pixels while scipy decompresses and gradlab transposes them
COMPRESSED, MATRIX = 15, 14
INT8, UINT8, INT32, UINT32 = 1, 2, 5, 6
BYTES = {INT8: 1, UINT8: 1, 3: 2, 4: 2, INT32: 4, UINT32: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # of a stored number
CLASSES = {
    1: "cell",
    2: "struct",
    3: "object",
    4: "char",
    5: "sparse",
    6: "double",
    7: "single",
    8: "int8",
    9: "uint8",
    10: "int16",
    11: "uint16",
    12: "int32",
    13: "uint32",
    14: "int64",
    15: "uint64",
    16: "function",
    17: "opaque",
}
NUMBERS = {"double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
COMPLEX, LOGICAL = 0x0800, 0x0200
NEEDED = "expected a MATLAB 5 file, as `save -v7` writes it"


@dataclass(frozen=True)
class Variable:
    """The description of a variable in a file."""

    kind: str
    shape: tuple[int, ...]
    stored: int | None  # type of the values in the file, None if they are not real numbers
    values: int  # bytes of values

    def __str__(self) -> str:
        return f"{self.kind} of shape {self.shape}"


def read(path: Path) -> Tensor:
    """Pixels `(example, 3, 32, 32)`, uint8, contiguous.

    The descriptions of the variables are checked before scipy reads the file, because scipy allocates the announced
    memory and crashes on unknown types. Only `X` and `y` are loaded. Raises BadFile for any other file.
    """
    called = str(path)
    _check(called, _variables(called, path))
    images, labels = _loaded(called, path)
    wrong = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
    if len(wrong):
        raise errors.BadFile(f"{called}: expected labels 1 to 10, got {labels[wrong[0]]} for image {wrong[0]}")
    return torch.from_numpy(np.ascontiguousarray(images))


def _loaded(called: str, path: Path) -> tuple[Any, Any]:
    """Arrays `(example, channel, height, width)` and `(example,)`."""
    import scipy.io

    try:
        with open(path, "rb") as file:
            found = scipy.io.loadmat(file, variable_names=["X", "y"])
        return found["X"].transpose(3, 2, 0, 1), found["y"][:, 0]
    except Exception as error:  # scipy raises many kinds of errors for damaged files
        if errors.out_of_memory(error) or getattr(error, "errno", None):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise errors.BadFile(
            f"{called}: expected a complete MATLAB 5 file, got a damaged or truncated one ({reason})"
        ) from None


def _check(called: str, found: dict[str, Variable]) -> None:
    """Raises BadFile unless the file describes images and one label for each, and is small enough to read."""
    for name in ("X", "y"):
        if name not in found:
            raise errors.BadFile(
                f"{called}: expected the variables X (images) and y (labels), got a file without {name!r}"
            )
    images, labels = found["X"], found["y"]
    if images.kind != "uint8" or images.stored != UINT8 or images.shape[:-1] != (32, 32, 3):
        raise errors.BadFile(f"{called}: expected X as uint8 of shape (32, 32, 3, example), got {images}")
    count = images.shape[-1]
    if not 0 < math.prod(images.shape) <= bounded.MOST_BYTES:
        raise errors.BadFile(
            f"{called}: expected 1 to {bounded.MOST_BYTES:,} bytes of pixels, got an announced shape of {images.shape}"
        )
    bounded.check_room(called, math.prod(images.shape), COPIES)
    if labels.stored not in BYTES or labels.shape != (count, 1):
        raise errors.BadFile(f"{called}: expected y with one label for each of {count} images, got {labels}")
    for name, variable, width in (("X", images, 1), ("y", labels, BYTES[labels.stored])):
        if variable.values != math.prod(variable.shape) * width:
            raise errors.BadFile(
                f"{called}: expected as announced {name}, {variable}, got {variable.values:,} bytes of it"
            )


def _variables(called: str, path: Path) -> dict[str, Variable]:
    """The variables of the file by name. Raises BadFile if it is damaged, truncated or not a MATLAB 5 file."""
    found: dict[str, Variable] = {}
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(START)
        if header.startswith((HDF5, b"MATLAB 7.3")):
            raise errors.BadFile(f"{called}: {NEEDED}, got a MATLAB 7.3 (HDF5) file")
        if header[124:] != b"\x00\x01IM" or 0 in header[:4]:  # scipy takes a zero there for MATLAB 4
            begins = header[:4].hex(" ") or "nothing"
            raise errors.BadFile(f"{called}: {NEEDED}, got {begins} as first bytes")
        at = START
        while at < size:
            file.seek(at)
            try:
                kind, length = struct.unpack("<II", file.read(8))
                at += 8 + length
                name, variable = _head(kind, length, file.read(min(length, ZIPPED_HEAD)))
            except (struct.error, zlib.error, ValueError) as error:
                raise errors.BadFile(
                    f"{called}: expected the description of a variable, got damaged or truncated data ({error})"
                ) from None
            if at > size:
                raise errors.BadFile(f"{called}: expected at least {at:,} bytes, got {size:,}; the file is cut short")
            if name in found or len(found) == MOST_VARIABLES:
                raise errors.BadFile(
                    f"{called}: expected at most {MOST_VARIABLES} variables, each once, got one more ({name!r})"
                )
            found[name] = variable
    return found


def _head(kind: int, length: int, begins: bytes) -> tuple[str, Variable]:
    """Name and description of a variable of `length` bytes in the file, from its first bytes.

    The file contains a tag (matrix, length) and then flags, shape, name and values, each with a tag.
    Raises ValueError or struct.error for anything else.
    """
    most = length
    if kind == COMPRESSED:
        most = length * MOST_EXPANSION
        begins = zlib.decompressobj().decompress(begins, 8 + HEAD)
        kind, _ = struct.unpack_from("<II", begins)
        begins = begins[8:]
    begins = begins[:HEAD]
    if kind != MATRIX:
        raise ValueError(f"expected a matrix, got type {kind}")
    flags_type, flags_size, flags_at, at = _element(begins, 0)
    shape_type, shape_size, shape_at, at = _element(begins, at)
    name_type, name_size, name_at, at = _element(begins, at)
    types_and_sizes = (flags_type, flags_size, shape_type, shape_size % 4, name_type)
    if types_and_sizes != (UINT32, 8, INT32, 0, INT8) or name_at + name_size > len(begins):
        raise ValueError("expected flags, shape and name, got another description")
    (flags,) = struct.unpack_from("<I", begins, flags_at)
    shape = struct.unpack_from(f"<{shape_size // 4}i", begins, shape_at)
    name = begins[name_at : name_at + name_size].decode("latin1")
    array = CLASSES.get(flags & 0xFF, "unknown")
    if array not in NUMBERS:
        return name, Variable(array, shape, None, 0)
    if flags & (COMPLEX | LOGICAL):
        return name, Variable("complex or logical", shape, None, 0)
    stored, values, values_at, _ = _element(begins, at)
    if values_at + values > most:
        raise ValueError(f"{name!r}: expected at most {most:,} bytes, got {values:,} announced")
    return name, Variable(array, shape, stored, values)


def _element(begins: bytes, at: int) -> tuple[int, int, int, int]:
    """Type and length of an element, the position of its content, and the position of the next element."""
    kind, length = struct.unpack_from("<II", begins, at)
    if kind >> 16:  # up to four bytes are in the tag
        return kind & 0xFFFF, kind >> 16, at + 4, at + 8
    return kind, length, at + 8, at + 8 + length + -length % 8
