"""The store that reads and writes HDF5: against h5netcdf, xarray's own, in both directions."""

import io

import h5py
import numpy as np
import pytest
import xarray as xr

import gradlab
from gradlab import hdf5
from gradlab.hdf5_store import Hdf5Store

EVERYTHING = xr.Dataset(
    {
        "a": (("x", "y"), np.arange(6.0).reshape(2, 3), {"units": "1", "list": ["α", "b"], "one": ["c"], "n": 3}),
        "large": ("n", np.linspace(0, 1, 2000), {"numbers": np.array([1.5, 2.5])}),
        "single": ("x", np.float32([1.5, np.nan])),
        "whole": ("x", np.array([1, -2], np.int16)),
        "flags": ("x", [True, False]),
        "texts": ("y", ["a", "", "Gumbel–Söftmax"]),
        "text": ((), "alone"),
        "when": ("x", np.array(["2024-02-29", "NaT"], "M8[ns]")),
        "nothing": ("none", np.zeros(0)),
        "scalar": ((), 2.5),
    },
    {"x": [0.5, 1.6], "y": ["p", "q", "r"], "along": ("x", ["s", "t"])},
    {"title": "é", "empty": "", "numbers": [1, 2, 3], "texts": ["u", "v"]},
)


def test_what_it_writes_is_read_by_xarray(tmp_path):
    gradlab.save_results(EVERYTHING, tmp_path / "a.h5")
    found = xr.load_dataset(tmp_path / "a.h5", engine="h5netcdf")
    xr.testing.assert_identical(found, EVERYTHING)


def test_what_xarray_writes_is_read(tmp_path):
    EVERYTHING.to_netcdf(tmp_path / "a.h5", engine="h5netcdf")
    wanted = xr.load_dataset(tmp_path / "a.h5", engine="h5netcdf")
    for found in (hdf5.load(str(tmp_path / "a.h5")), gradlab.open_results(tmp_path / "a.h5")):
        xr.testing.assert_identical(found, wanted)
        assert {name: v.dtype for name, v in found.variables.items()} == {
            n: v.dtype for n, v in wanted.variables.items()
        }
        assert {name: list(v.attrs) for name, v in found.variables.items()} == {
            name: list(v.attrs) for name, v in wanted.variables.items()
        }


def test_a_variable_with_the_name_of_a_dimension_is_kept(tmp_path):
    ds = xr.Dataset({"a": ("x", [1.0, 2.0]), "b": ("a", [3.0, 4.0, 5.0])})
    gradlab.save_results(ds, tmp_path / "a.h5")
    xr.testing.assert_identical(gradlab.open_results(tmp_path / "a.h5"), ds)
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "a.h5", engine="h5netcdf"), ds)


@pytest.mark.parametrize("name", ["", "a/b"])
@pytest.mark.parametrize("named", ["variable", "dimension"])
def test_names_that_hdf5_does_not_take_are_refused(tmp_path, name, named):
    ds = xr.Dataset({name: ("x", [1.0])} if named == "variable" else {"a": (name, [1.0])})
    with pytest.raises(ValueError, match="ds: expected values that HDF5 can store"):
        gradlab.save_results(ds, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


def test_each_object_is_opened_once(monkeypatch):
    """h5netcdf opens 40 objects per variable."""
    content, opened = io.BytesIO(), []
    with h5py.File(content, "w", track_order=True) as file:
        EVERYTHING.dump_to_store(Hdf5Store(file))
    get = h5py.Group.__getitem__
    monkeypatch.setattr(h5py.Group, "__getitem__", lambda group, name: (opened.append(name), get(group, name))[1])
    with h5py.File(content, "r") as file:
        assert len(xr.load_dataset(Hdf5Store(file)).variables) == len(EVERYTHING.variables)
        assert sorted(opened) == sorted([*file, "/"])
