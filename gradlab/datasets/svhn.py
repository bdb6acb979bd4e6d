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
HEAD = 512  # bytes that hold a variable's description: at most 32 dimensions and a name of 63 letters
ZIPPED_HEAD = 4096  # compressed bytes that hold it
MOST_EXPANSION = 1032  # of zlib's compression
MOST_VARIABLES = 16
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
NEEDED = "MATLAB 5 is needed, as `save -v7` writes it"


@dataclass(frozen=True)
class Variable:
    """What a file says of a variable before its values."""

    kind: str
    shape: tuple[int, ...]
    stored: int | None  # type of the values in the file, None where they are no real numbers
    values: int  # bytes of values

    def __str__(self) -> str:
        return f"{self.kind} of shape {self.shape}"


def read(path: Path) -> Tensor:
    """Pixels `(example, 3, 32, 32)`, uint8, contiguous.

    What the file says of its variables is checked before scipy reads any: it takes the memory they announce,
    and a type of values that it does not know ends the process. Nothing but `X` and `y` is loaded. Raises BadFile.
    """
    called = str(path)
    _check(called, _variables(called, path))
    images, labels = _loaded(called, path)
    wrong = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
    if len(wrong):
        raise errors.BadFile(f"{called}: label {labels[wrong[0]]} of image {wrong[0]}; 1 to 10 are SVHN's")
    return torch.from_numpy(np.ascontiguousarray(images))


def _loaded(called: str, path: Path) -> tuple[Any, Any]:
    """Arrays `(example, channel, height, width)` and `(example,)`."""
    import scipy.io

    try:
        with open(path, "rb") as file:
            found = scipy.io.loadmat(file, variable_names=["X", "y"])
        return found["X"].transpose(3, 2, 0, 1), found["y"][:, 0]
    except Exception as error:  # whatever scipy's reader stumbles over
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise errors.BadFile(f"{called}: damaged or cut short ({reason})") from None


def _check(called: str, found: dict[str, Variable]) -> None:
    """BadFile unless the file announces images and as many labels, in a size that can be read."""
    for name in ("X", "y"):
        if name not in found:
            raise errors.BadFile(f"{called}: no variable {name!r} in it; SVHN has X (images) and y (labels)")
    images, labels = found["X"], found["y"]
    if images.kind != "uint8" or images.stored != UINT8 or images.shape[:-1] != (32, 32, 3):
        raise errors.BadFile(f"{called}: X is {images}; uint8 of shape (32, 32, 3, example) is needed")
    count = images.shape[-1]
    if not 0 < math.prod(images.shape) <= bounded.MOST_BYTES:
        raise errors.BadFile(
            f"{called}: announces {images.shape} pixels; 1 to {bounded.MOST_BYTES:,} bytes can be read"
        )
    if labels.stored not in BYTES or labels.shape != (count, 1):
        raise errors.BadFile(f"{called}: y is {labels}; a label for each of the {count} images is needed")
    for name, variable, width in (("X", images, 1), ("y", labels, BYTES[labels.stored])):
        if variable.values != math.prod(variable.shape) * width:
            raise errors.BadFile(f"{called}: {name} is {variable}, but {variable.values:,} bytes are announced for it")


def _variables(called: str, path: Path) -> dict[str, Variable]:
    """All variables of the file; BadFile if it is no MATLAB 5 file, damaged, or cut short."""
    found: dict[str, Variable] = {}
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(START)
        if header.startswith((HDF5, b"MATLAB 7.3")):
            raise errors.BadFile(f"{called}: a MATLAB 7.3 (HDF5) file; {NEEDED}")
        if header[124:] != b"\x00\x01IM" or 0 in header[:4]:  # a zero there is MATLAB 4 to scipy
            begins = header[:4].hex(" ") or "nothing"
            raise errors.BadFile(f"{called}: no MATLAB 5 file (it begins with {begins}); {NEEDED}")
        at = START
        while at < size:
            file.seek(at)
            try:
                kind, length = struct.unpack("<II", file.read(8))
                at += 8 + length
                name, variable = _head(kind, length, file.read(min(length, ZIPPED_HEAD)))
            except (struct.error, zlib.error, ValueError) as error:
                raise errors.BadFile(f"{called}: damaged or cut short, no variable can be read ({error})") from None
            if at > size:
                raise errors.BadFile(f"{called}: cut short, {size:,} of at least {at:,} bytes")
            if name in found or len(found) == MOST_VARIABLES:
                raise errors.BadFile(f"{called}: {name!r} is there twice, or is the {MOST_VARIABLES + 1}th variable")
            found[name] = variable
    return found


def _head(kind: int, length: int, begins: bytes) -> tuple[str, Variable]:
    """Name and description of a variable of `length` bytes in the file, from its first bytes.

    The file holds a tag (matrix, length) and in it, each with a tag of its own: flags, shape, name, values.
    ValueError or struct.error if it is otherwise.
    """
    most = length
    if kind == COMPRESSED:
        most = length * MOST_EXPANSION
        begins = zlib.decompressobj().decompress(begins, 8 + HEAD)
        kind, _ = struct.unpack_from("<II", begins)
        begins = begins[8:]
    begins = begins[:HEAD]
    if kind != MATRIX:
        raise ValueError(f"it is of type {kind}")
    flags_type, flags_size, flags_at, at = _element(begins, 0)
    shape_type, shape_size, shape_at, at = _element(begins, at)
    name_type, name_size, name_at, at = _element(begins, at)
    types_and_sizes = (flags_type, flags_size, shape_type, shape_size % 4, name_type)
    if types_and_sizes != (UINT32, 8, INT32, 0, INT8) or name_at + name_size > len(begins):
        raise ValueError("its description is not as it should be")
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
        raise ValueError(f"{name!r} announces {values:,} bytes")
    return name, Variable(array, shape, stored, values)


def _element(begins: bytes, at: int) -> tuple[int, int, int, int]:
    """Type, length, place of the content, and place of the next element."""
    kind, length = struct.unpack_from("<II", begins, at)
    if kind >> 16:  # up to four bytes are in the tag
        return kind & 0xFFFF, kind >> 16, at + 4, at + 8
    return kind, length, at + 8, at + 8 + length + -length % 8
