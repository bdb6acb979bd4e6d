"""Reads untrusted HDF5 results files: checksum and sizes are checked before memory is allocated.

HDF5 has no checksum of numbers and attributes. That of `seal_of` is put behind the end of the data, where other readers
do not look. Whatever writes to the file with HDF5, or writes its data to a new one, leaves it out, so that only damage
is found different. `hdf5_sandbox` runs this in a separate process, so it does not import torch.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import xarray as xr

from . import errors
from .hdf5_store import UNNAMED, Hdf5Store

MOST_BYTES = 2**34  # of one results file, in memory
MOST_VARIABLES = 1000
MOST_RATIO = 1100  # of data to file size; zlib cannot expand more
STRING = 128  # bytes of memory of a variable-length string, at least
SEAL = b"\ngradlab sha256 "  # followed by the hexadecimal digits of the checksum of everything before it
SEALED = len(SEAL) + 64
BLOCK = 2**20  # bytes read at once
EOF_AT = 40  # position of the end of the data, 8 bytes, in a superblock of version 0


class Refused(ValueError):
    """A file that is not a results file. The message gives the reason, without the name of the file."""


def seal_of(content: bytes | memoryview) -> bytes:
    """What is put behind the content of an HDF5 file: its checksum."""
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def check_seal(path: str | Path) -> None:
    """Raises Refused if the file has a checksum that is cut short or not that of its content."""
    size = os.path.getsize(path)
    if size > MOST_BYTES:
        raise Refused(f"expected a results file of at most {MOST_BYTES:,} bytes, got {size:,}")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        begin = file.read(EOF_AT + 8)
        file.seek(max(0, size - SEALED))
        seal = file.read()
        if sum(map(operator.eq, seal, SEAL)) <= len(SEAL) // 2:  # of another program, or of an earlier version
            data = int.from_bytes(begin[EOF_AT:], "little")
            rest = seal[-(size - data) :] if begin[8:9] == b"\0" and 0 < size - data < SEALED else b""
            if rest and rest[: len(SEAL)] == SEAL[: len(rest)]:
                raise Refused("expected a complete results file, got one that is cut short")
            if data < size and _contains(file, SEAL, max(0, data - SEALED)):
                raise Refused("expected nothing behind the checksum of a results file, got more: the file is damaged")
            return
        file.seek(0)
        for start in range(0, size - SEALED, BLOCK):
            digest.update(file.read(min(BLOCK, size - SEALED - start)))
    if seal != SEAL + digest.hexdigest().encode():
        raise Refused("expected the content of its checksum, got another: the file is damaged")


def _contains(file: BinaryIO, text: bytes, start: int) -> bool:
    """Whether the file has the text from byte `start` on."""
    file.seek(start)
    before = b""
    while piece := file.read(BLOCK):
        if text in before + piece:
            return True
        before = piece[-len(text) :]
    return False


def load(path: str, announced: Callable[[int, int], None] = lambda size, variables: None) -> xr.Dataset:
    """The Dataset of a file.

    Before it reads data, `announced` is called with the number of bytes and the number of variables. Raises Refused,
    PermissionError or MemoryError.
    """
    locking = _locking(path)
    try:
        with h5py.File(path, "r", locking=locking) as file:
            items = _checked_items(file)
            announced(_checked_size(items.values(), os.path.getsize(path)), len(items))
            ds = xr.load_dataset(Hdf5Store(file, items))
    except (Refused, PermissionError, MemoryError):
        raise
    except Exception as error:  # three libraries raise many kinds of errors for damaged files
        if errors.out_of_memory(error):
            raise MemoryError(first_line(error)) from None
        raise Refused(f"expected a complete HDF5 results file, got a damaged one ({first_line(error)})") from None
    if any(str(dim).startswith(UNNAMED) for dim in ds.dims):
        raise Refused("expected a results file, got dimensions without names")
    return ds


def _locking(path: str) -> bool | None:
    """False, with a warning, for a file that cannot be locked: that another program writes, or without a lock service.

    HDF5 calls such a file damaged.
    """
    try:
        import fcntl

        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except ImportError:
        return None
    except BlockingIOError:
        errors.warn(f"{path}: another program has locked this file; it is read without a lock")
        return False
    except OSError as error:
        reason = f"{path}: its folder has no file locks ({error.strerror}); it is read without one"
        errors.warn(reason)
        return False
    return None


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, or its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _checked_items(file: h5py.File) -> dict[str, Any]:
    """The arrays in a file by name. Raises Refused unless they are numbers or strings in this file."""
    if len(file) > MOST_VARIABLES:
        raise Refused(f"expected a results file of at most {MOST_VARIABLES:,} variables, got {len(file):,}")
    items = {}
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"expected data inside the file, got a link to another place for {name}")
        item = file[name]
        if isinstance(item, h5py.Datatype) and item.dtype.kind == "c":  # of complex numbers, in files of h5netcdf
            continue
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            raise Refused(f"expected a results file, got {name}, which is not an array")
        if item.external or item.is_virtual:
            raise Refused(f"expected data inside the file, got external data for {name}")
        if item.dtype.kind not in "biufcSU" and h5py.check_string_dtype(item.dtype) is None:
            raise Refused(f"expected a results file of numbers and strings, got {name} of type {item.dtype}")
        items[name] = item
    return items


def _checked_size(items: Iterable[h5py.Dataset], stored: int) -> int:
    """The number of bytes of arrays. Raises Refused unless they fit in memory."""
    size = 0
    for item in items:
        string = h5py.check_string_dtype(item.dtype)
        width = STRING if string is not None and string.length is None else item.dtype.itemsize
        size += max(math.prod(item.shape), math.prod(item.chunks or ())) * width
    most = min(MOST_BYTES, 2**24 + MOST_RATIO * stored)
    if size > most:
        raise Refused(f"expected at most {most:,} bytes of data in this file, got {size:,} announced")
    return size
