"""Results: names, units, provenance, and HDF5 files that plain h5py and xarray read."""

from __future__ import annotations

import datetime
import hashlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from . import __version__, errors, files

MOST_BYTES = 2**34  # of one results file, in memory


def stamp(**about: Any) -> dict[str, Any]:
    """Attributes every result carries: versions, date, command line, and what else is given."""
    return {
        "gradlab": __version__,
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": shlex.join(sys.argv) if sys.argv and sys.argv[0] else "python",
        **about,
    }


def tensor_sha256(x: Tensor) -> str:
    """Checksum of a tensor's values."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def save_results(ds: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset to an HDF5 file, whole or not at all.

    The file is written beside `path` and renamed, so that a crash or a full disk leaves what was there before.
    Raises ValueError for something that is no Dataset, OSError where it cannot be written.
    """
    if not isinstance(ds, xr.Dataset):
        raise ValueError(f"ds: got {type(ds).__name__}; an xarray.Dataset, as gradlab.bias returns, is needed")
    encoding: Mapping[Any, Any] = {
        name: {"zlib": True, "complevel": 4, "shuffle": True}
        for name, variable in ds.variables.items()
        if variable.ndim > 0 and variable.dtype.kind == "f" and variable.size > 1000
    }
    with files.written_aside(path) as aside:
        ds.to_netcdf(aside, engine="h5netcdf", encoding=encoding)


def open_results(path: str | Path) -> xr.Dataset:
    """Read a results file into memory.

    Raises BadFile (a ValueError) for a file that is not whole, no HDF5, refers to other files or is absurdly large;
    FileNotFoundError for none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such results file")
    try:
        with h5py.File(path, "r") as file:
            _check(path, file)
        return xr.load_dataset(path, engine="h5netcdf")
    except errors.BadFile:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise errors.BadFile(f"{path}: no whole HDF5 results file ({reason})") from None


def _check(path: Path, file: h5py.File) -> None:
    size = 0
    for name in file:
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise errors.BadFile(f"{path}: {name} is a link to elsewhere; results hold their own data")
        item = file[name]
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise errors.BadFile(f"{path}: {name} keeps its data in another file; results hold their own data")
            size += int(np.prod(item.shape, dtype=object)) * item.dtype.itemsize
    if size > MOST_BYTES:
        raise errors.BadFile(f"{path}: announces {size:,} bytes of data; at most {MOST_BYTES:,} are read")
