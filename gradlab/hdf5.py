"""HDF5 results files from anywhere: sizes are checked before memory is taken.

`hdf5_sandbox` runs this in a process of its own, which is why it imports no torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import h5py
import xarray as xr

MOST_BYTES = 2**34  # of one results file, in memory
MOST_VARIABLES = 1000
MOST_RATIO = 1100  # of data to file; no zlib stream expands more
STRING = 128  # bytes that one of free length takes in memory, at least: a Python object and its place


class Refused(ValueError):
    """A file that is no results file; the message, which does not name the file, says why."""


def load(path: str, announced: Callable[[int, int], None] = lambda size, variables: None) -> xr.Dataset:
    """The file's Dataset; before any data are read, `announced` is called with their bytes and the number of variables.

    Raises Refused, PermissionError, MemoryError.
    """
    try:
        with h5py.File(path, "r") as file:
            announced(_checked_size(file, os.path.getsize(path)), len(file))
        ds = xr.load_dataset(path, engine="h5netcdf", phony_dims="access")
    except (Refused, PermissionError, MemoryError):
        raise
    except Exception as error:  # what three libraries raise at damaged files is no closed list
        raise Refused(f"no whole HDF5 results file ({first_line(error)})") from None
    if any(str(dim).startswith("phony_dim") for dim in ds.dims):
        raise Refused("no results file (its dimensions have no names)")
    return ds


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _checked_size(file: h5py.File, stored: int) -> int:
    """Bytes of data; Refused unless all are numbers or strings, lie in the file itself, and fit in memory."""
    if len(file) > MOST_VARIABLES:
        raise Refused(f"no results file ({len(file):,} variables; up to {MOST_VARIABLES:,} can be read)")
    size = 0
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{name} is a link to elsewhere; results hold their own data")
        item = file[name]
        if isinstance(item, h5py.Datatype):
            continue
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            raise Refused(f"no results file ({name} is no array)")
        if item.external or item.is_virtual:
            raise Refused(f"{name} keeps its data elsewhere; results hold their own data")
        string = h5py.check_string_dtype(item.dtype)
        if item.dtype.kind not in "biufcSU" and string is None:
            raise Refused(f"no results file ({name} is of type {item.dtype})")
        width = STRING if string is not None and string.length is None else item.dtype.itemsize
        size += max(math.prod(item.shape), math.prod(item.chunks or ())) * width
    most = min(MOST_BYTES, 2**24 + MOST_RATIO * stored)
    if size > most:
        raise Refused(f"announces {size:,} bytes of data; at most {most:,} are read from it")
    return size
