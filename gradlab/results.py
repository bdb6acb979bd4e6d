"""Results: names, units, provenance, and HDF5 files that plain h5py and xarray read."""

from __future__ import annotations

import datetime
import hashlib
import io
import numbers
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from . import __version__, errors, files, hdf5, hdf5_sandbox, outputs, schema
from .hdf5_store import Hdf5Store
from .terminal import encodable

# attributes of a variable by which xarray decodes what it reads
DECODED = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "dtype")
PER_CHECKPOINT = {
    "checkpoint": "checkpoint",
    "checkpoint_sha256": "sha256 of the checkpoint file",
    "trained_epochs": "epochs of training",
    "trained_tf": "forward temperature of training",
    "trained_tb": "backward temperature of training",
    "trained_tf_schedule": "schedule of the forward temperature of training",
    "trained_tb_schedule": "schedule of the backward temperature of training",
    "trained_seed": "seed of training",
}


def stamp(**about: Any) -> dict[str, Any]:
    """Attributes of every result: versions, date, command line, and the given ones."""
    return {
        "format": schema.FORMAT,
        "gradlab": __version__,
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": command_line(),
        **about,
    }


def command_line() -> str:
    """The command line of this process; "notebook" in a notebook, whose own one is a file of its kernel."""
    if "ipykernel" in sys.modules and any(part in "".join(sys.argv) for part in ("ipykernel", "kernel-")):
        return "notebook"
    return shlex.join(sys.argv) if sys.argv and sys.argv[0] else "python"


def tensor_sha256(x: Tensor) -> str:
    """Checksum of a tensor's values."""
    return hashlib.sha256(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def tensors_sha256(leaves: Sequence[Any]) -> str:
    """Checksum of several tensors in their order; of one tensor, that of `tensor_sha256`."""
    each = [tensor_sha256(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Checksum of a state dict's names and values."""
    return hashlib.sha256("".join(name + tensor_sha256(t) for name, t in state.items()).encode()).hexdigest()


def join_checkpoints(found: list[xr.Dataset]) -> xr.Dataset:
    """Results of the same analysis on several checkpoints, along a dim `checkpoint`.

    Attributes that all have alike are those of the result; versions, date and command line are the last. The attributes
    PER_CHECKPOINT, and other numbers and texts that differ, become coordinates along the dim where all have them. Of a
    number that a variable of its name states for each point, the attribute is the largest. The rest is left out.
    """
    joined = xr.concat(found, "checkpoint", join="exact", combine_attrs="drop_conflicts")
    joined.attrs, coordinates, common = {}, {}, {}
    newest = max(found, key=lambda ds: str(ds.attrs.get("date", "")))
    for name in found[0].attrs:
        values: list[Any] = [ds.attrs.get(name) for ds in found]
        plain = any(all(isinstance(value, kind) for value in values) for kind in (str, numbers.Real))
        if name not in PER_CHECKPOINT and all(_alike(value, values[0]) for value in values):
            common[name] = values[0]
        elif name in outputs.STAMPED and name in newest.attrs:
            common[name] = newest.attrs[name]
        elif name in joined.variables and plain:
            common[name] = max(values)
        elif plain:
            long_name = PER_CHECKPOINT.get(name, name.replace("_", " "))
            coordinates[name] = ("checkpoint", values, {"long_name": long_name, "units": "1"})
    several = {"checkpoint": f"{len(found)} checkpoints", "checkpoint_sha256": "of each: see coordinate"}
    return joined.assign_coords(coordinates).assign_attrs(common | several)


def _alike(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b))


def save_results(ds: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset to an HDF5 file, whole or not at all.

    The file is written beside `path` and renamed, so that a crash or a full disk leaves what was there. A lazy Dataset
    (of xarray.open_dataset, of dask) is computed first, so it may come from the file that it replaces. How the
    variables were encoded in the file that they come from has no effect: values are stored as they are.

    Raises ValueError for what cannot be stored and a name that does not end in .h5, .hdf5 or .nc, OSError where it
    cannot be written: a file of another program is not replaced.

    Examples
    --------
    >>> ds = gradlab.open_results("bias.h5")
    >>> gradlab.save_results(ds.sel(tf=[1.6]), "one-tf.h5")
    """
    if not isinstance(ds, xr.Dataset):
        raise ValueError(f"ds: expected an xarray.Dataset, as gradlab.bias returns it, got {type(ds).__name__}")
    outputs.check(path, outputs.RESULTS)
    ds = with_encodable_text(ds.compute().drop_encoding())
    _check_storable(ds)
    content = _hdf5(ds)
    with files.written_aside(path) as aside, open(aside, "wb") as file:  # in two pieces: results may be large
        file.write(content)
        file.write(hdf5.seal_of(content))


def open_results(path: str | Path, trusted: bool = False) -> xr.Dataset:
    """The Dataset of a results file, in memory.

    Parameters
    ----------
    path : of a file that `save_results` or a command wrote; one of an earlier version is read as this one writes it
    trusted : read the file in this process alone, tens of milliseconds faster. The HDF5 library hangs at some
        damaged files and crashes at others, so by default another process tries the file first.

    Raises
    ------
    BadFile
        A ValueError: a file that is not whole, differs from the checksum that it carries, is no HDF5, refers to other
        files or is absurdly large.
    FileNotFoundError
        No such file.

    Examples
    --------
    >>> ds = gradlab.open_results("bias.h5")
    >>> dict(ds.relative_bias.sizes)
    {'tf': 2, 'tb': 2}
    """
    path = errors.present(path, "results file")
    open(path, "rb").close()  # PermissionError here, and not for the helper
    try:
        hdf5.check_seal(path)
    except hdf5.Refused as refused:
        raise errors.BadFile(f"{path}: {refused}") from None
    if not trusted and (reason := hdf5_sandbox.fault(path)):
        raise errors.BadFile(f"{path}: {reason}")
    try:
        ds = hdf5.load(str(path))
    except hdf5.Refused as refused:
        raise errors.BadFile(f"{path}: {refused}") from None
    return schema.upgraded(ds) if "gradlab" in ds.attrs else ds


def with_encodable_text(ds: xr.Dataset) -> xr.Dataset:
    """Names of files that are no UTF-8 written out, which must not cost a finished measurement."""

    def encoded(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [encoded(one) for one in value]
        return encodable(value) if isinstance(value, str) else value

    ds = ds.copy()
    owners: list[Any] = [ds, *ds.variables.values()]
    for owner in owners:
        owner.attrs = {name: encoded(value) for name, value in owner.attrs.items()}
    for name, variable in ds.variables.items():
        if variable.dtype.kind in "OU" and any(encoded(value) != value for value in variable.values.flat):
            texts = np.vectorize(encoded, otypes=[object])(variable.values)
            ds[name] = variable.copy(data=texts.astype(str) if variable.dtype.kind == "U" else texts)
    return ds


def _check_storable(ds: xr.Dataset) -> None:
    for name, variable in ds.variables.items():
        if variable.dtype.kind == "O" and not all(isinstance(v, str) for v in variable.values.flat):
            raise ValueError(f"ds: expected numbers or strings, got Python objects in variable {name!r}")
        if " since " in str(units := variable.attrs.get("units")) and variable.dtype.kind not in "mM":
            raise ValueError(f"ds: expected units that are no dates, got {units!r} for variable {name!r}")
    owners = {"ds": ds.attrs} | {f"variable {name!r}": v.attrs for name, v in ds.variables.items()}
    for owner, attributes in owners.items():
        for name, value in attributes.items():
            if name == "coordinates" or (name in DECODED and owner != "ds"):
                raise ValueError(f"ds: expected no attribute that changes values, got {name!r} of {owner}; remove it")
            storable = isinstance(value, str | bytes | numbers.Number | np.ndarray | list | tuple)
            if not storable or isinstance(value, bool):
                raise ValueError(
                    f"ds: expected text, numbers or lists as attributes, got {value!r} for {name!r} of {owner}"
                )


def _hdf5(ds: xr.Dataset) -> memoryview:
    """The file's content. Made in memory: an HDF5 library that finds the disk full ends the whole process.

    Large arrays have a checksum that every HDF5 reader verifies.
    """
    content = io.BytesIO()
    try:
        with h5py.File(content, "w", track_order=True) as file:
            ds.dump_to_store(Hdf5Store(file))
    except (TypeError, ValueError, AttributeError, OSError) as error:
        raise ValueError(f"ds: expected values that HDF5 can store, got others ({hdf5.first_line(error)})") from None
    return content.getbuffer()
