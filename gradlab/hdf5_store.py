"""A store for xarray on h5py: reads and writes netCDF-4 files as h5netcdf does, but several times faster.

A results file has some 70 small variables, and h5netcdf looks up each of its objects by name dozens of times. Here each
object is opened once. Layout: a dimension is an HDF5 dimension scale, which is its coordinate variable if it has one;
each axis of another variable is attached to the scale of its dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5s, h5t
from xarray.backends.common import WritableCFDataStore

INTERNAL = {"REFERENCE_LIST", "CLASS", "DIMENSION_LIST", "NAME", "_NCProperties", "_nc3_strict"}
INTERNAL |= {"_Netcdf4Dimid", "_Netcdf4Coordinates"}  # attributes of the layout
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."  # name of a scale without coordinate variable
RENAMED = "_nc4_non_coord_"  # prefix of a variable that has the name of a dimension, but not its dims
UNNAMED = "phony_dim"  # begins the name of a dimension of an axis without a scale
COMPRESSED = 1000  # numbers of an array; larger ones are compressed
# most attributes are a text, which h5py's own dict of attributes takes three times as long to read or write
_TEXT = h5py.string_dtype()
_IN_FILE, _IN_MEMORY = h5t.py_create(_TEXT, logical=True), h5t.py_create(_TEXT)
_ONE = h5s.create(h5s.SCALAR)


class Hdf5Store(WritableCFDataStore):
    """The variables of an open h5py.File for xarray, which decodes and encodes them.

    To read, `items` are the objects of the file by name, where they are open already.
    """

    def __init__(self, file: h5py.File, items: Mapping[str, Any] | None = None):
        self.file, self.items = file, items
        self.sizes: dict[str, int] = {}  # of dimensions to be written

    # --- reading ---

    def get_variables(self) -> dict[str, xr.Variable]:
        """Name -> Variable in memory, as stored."""
        opened = {name: self.file[name] for name in self.file} if self.items is None else self.items
        items = {name: item for name, item in opened.items() if isinstance(item, h5py.Dataset)}
        scales = {_address(item.id): name for name, item in items.items() if h5py.h5ds.is_scale(item.id)}
        found = {}
        for name, item in items.items():
            scale = h5py.h5ds.is_scale(item.id)
            if scale and h5py.h5ds.get_scale_name(item.id).startswith(NO_VARIABLE.encode()):
                continue
            dims = (name,) if scale and item.ndim == 1 else self._dims(name, item, scales)
            found[name.removeprefix(RENAMED)] = xr.Variable(dims, *_values(item))
        return found

    def get_attrs(self) -> dict[str, Any]:
        """Attributes of the file."""
        return _attributes(self.file["/"])

    def get_dimensions(self) -> dict[str, int]:
        """Dimensions to be written: name -> size."""
        return self.sizes

    def get_parent_dimensions(self) -> dict[str, int]:
        """No dimensions, since files have no groups."""
        return {}

    def _dims(self, name: str, item: h5py.Dataset, scales: Mapping[int, str]) -> tuple[str, ...]:
        """Names of the scales of its axes; `scales` are those of the file by address: looking up a name is slow."""
        if item.ndim == 0:
            return ()
        if "DIMENSION_LIST" not in item.attrs:
            return tuple(f"{UNNAMED}_{name}_{axis}" for axis in range(item.ndim))
        attached = [h5py.h5r.dereference(of[-1], self.file.id) for of in item.attrs["DIMENSION_LIST"]]
        return tuple(scales.get(_address(scale)) or _name(scale) for scale in attached)

    # --- writing ---

    def set_dimension(self, name: str, length: int, is_unlimited: bool = False) -> None:
        """Note a dimension; `set_variables` writes it."""
        self.sizes[_stored(name)] = length

    def set_attribute(self, name: str, value: Any) -> None:
        """Write an attribute of the file."""
        _write_attribute(self.file, name, value)

    def set_variables(self, variables: Mapping[Any, xr.Variable], *options: Any, **more: Any) -> None:
        """Write dimensions and variables; coordinate variables come first, since they are scales."""
        scales = {name: self._scale(name, size, variables) for name, size in self.sizes.items()}
        for name, variable in variables.items():
            if variable.dims == (name,):
                continue
            dataset = self._dataset(RENAMED + name if name in scales else _stored(name), variable)
            for axis, dim in enumerate(variable.dims):
                dataset.dims[axis].attach_scale(scales[str(dim)])

    def _scale(self, name: str, size: int, variables: Mapping[Any, xr.Variable]) -> h5py.Dataset:
        if name in variables and variables[name].dims == (name,):
            scale, title = self._dataset(name, variables[name]), name
        else:
            scale, title = self.file.create_dataset(name, (size,), ">f4"), f"{NO_VARIABLE}{size:10}"
        scale.make_scale(title)
        return scale

    def _dataset(self, name: str, variable: xr.Variable) -> h5py.Dataset:
        values, attributes = variable.values, dict(variable.attrs)
        fill = attributes.pop("_FillValue", None)
        options: dict[str, Any] = {"fillvalue": fill}
        if values.dtype.kind in "UO":
            values, options = values.astype(object), {"dtype": h5py.string_dtype()}
        elif values.dtype.kind not in "iufcS":
            raise TypeError(f"{name}: expected numbers or text, got {values.dtype}")
        if variable.ndim and values.dtype.kind == "f" and values.size > COMPRESSED:
            options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
        dataset = self.file.create_dataset(name, data=values, track_order=True, **options)
        if fill is not None:
            dataset.attrs["_FillValue"] = np.atleast_1d(np.asarray(fill, values.dtype))
        for key, value in attributes.items():
            _write_attribute(dataset, key, value)
        return dataset


def _address(of: h5py.h5d.DatasetID) -> int:
    """Where an object is in the file."""
    return h5py.h5o.get_info(of).addr


def _name(of: h5py.h5d.DatasetID) -> str:
    """The last part of an object's name."""
    return h5py.h5i.get_name(of).decode().split("/")[-1]


def _stored(name: Any) -> str:
    """The name, if HDF5 can store it. Raises ValueError."""
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(f"name: expected text without '/', got {name!r}")
    return name


def _values(item: h5py.Dataset) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Values, attributes and encoding of a variable; the encoding says that text is text."""
    string = h5py.check_string_dtype(item.dtype)
    if string is None or string.length is not None:
        return np.asarray(item[()]), _attributes(item), {}
    return np.asarray(item.asstr()[()], dtype=object), _attributes(item), {"dtype": str}


def _attributes(of: h5py.HLObject) -> dict[str, Any]:
    """Attributes as plain values: text as str, arrays of text as lists, arrays of one number as numbers."""
    return {name: _plain(name, _attribute(of, name)) for name in of.attrs if name not in INTERNAL}


def _attribute(of: h5py.HLObject, name: str) -> Any:
    stored = h5a.open(of.id, name.encode("utf-8", "surrogateescape"))
    kind = stored.get_type()
    is_text = kind.get_class() == h5t.STRING and kind.is_variable_str()
    if not is_text or stored.get_space().get_simple_extent_type() != h5s.SCALAR:
        return of.attrs[name]
    value = np.zeros((), _TEXT)
    stored.read(value, mtype=_IN_MEMORY)
    return value.item()


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind == "S" else np.array([], value.dtype)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        value = [_text(one) for one in value.flat]
    if not np.isscalar(value) and len(value) == 1:
        value = value[0]
    return value if name in ("_FillValue", "missing_value") else _text(value)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _write_attribute(of: h5py.HLObject, name: str, value: Any) -> None:
    kind = np.asarray(value).dtype.kind
    if name in INTERNAL or kind not in "iufcSU":
        raise ValueError(f"{name}: expected text, numbers or lists of these as an attribute, got {value!r}")
    if type(value) is str:
        stored = h5a.create(of.id, name.encode("utf-8", "surrogateescape"), _IN_FILE, _ONE)
        stored.write(np.array(value, _TEXT), mtype=_IN_MEMORY)
    else:
        of.attrs[name] = np.atleast_1d(value) if np.isscalar(value) and kind not in "SU" else value
