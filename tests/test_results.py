"""Results files: round trips, readable without gradlab, and refusal of what is no results file."""

import itertools
import json
import re
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import gradlab
from gradlab import hdf5, networks, plots, results
from gradlab.errors import BadFile


def tiny_bias():
    config = {"latents": 2, "categories": 3, "hidden": [8], "image_shape": [1, 3, 3]}
    model = networks.build("categorical-vae", config, seed=0)
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return gradlab.bias(model, x, tf=[1.0, 1.6], tb=1.3, draws=64)


@pytest.fixture(scope="module")
def ds():
    return tiny_bias()


@pytest.fixture(scope="module")
def content(ds, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "bias.h5"
    gradlab.save_results(ds, path)
    return path.read_bytes()


@pytest.fixture
def saved(content, tmp_path):
    path = tmp_path / "bias.h5"
    path.write_bytes(content)
    return path


def refused(path, match=None):
    began = time.process_time()
    with pytest.raises(BadFile, match=match) as raised:
        gradlab.open_results(path)
    assert time.process_time() - began < 60
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.helper
def test_a_round_trip_changes_nothing(ds, saved):
    back = gradlab.open_results(saved)
    xr.testing.assert_identical(back, ds)
    assert list(back.attrs) == list(ds.attrs)
    assert list(back.variables) == list(ds.variables) or set(back.variables) == set(ds.variables)
    for name, variable in ds.variables.items():
        assert back[name].dtype == variable.dtype, name
        assert back[name].dims == variable.dims, name
        assert back[name].attrs == variable.attrs, name


def test_a_second_round_trip_changes_nothing(saved, ds):
    gradlab.save_results(gradlab.open_results(saved), saved)
    xr.testing.assert_identical(gradlab.open_results(saved), ds)


def test_values_are_kept_to_the_bit(tmp_path):
    values = np.array([0.1, -0.0, 5e-324, np.nan, np.inf, 1 / 3])
    gradlab.save_results(xr.Dataset({"a": ("x", values)}), tmp_path / "a.h5")
    assert gradlab.open_results(tmp_path / "a.h5")["a"].values.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(3, dtype=np.int16),
        np.float32([0.1, 0.2]),
        np.array([True, False]),
        np.array(["a", "Gumbel–Söftmax"]),
        np.array(["2024-02-29"], "M8[ns]"),
        np.array([1 + 2j]),
        np.array(3.5),
        np.zeros(0),
    ],
    ids=lambda v: f"{v.dtype}{v.shape}",
)
def test_types_are_kept(tmp_path, values):
    ds = xr.Dataset({"a": (["x"][: values.ndim], values, {"long_name": "a"})})
    gradlab.save_results(ds, tmp_path / "a.h5")
    back = gradlab.open_results(tmp_path / "a.h5")
    xr.testing.assert_identical(back, ds)
    assert back["a"].dtype == values.dtype


def test_long_attributes_are_kept(tmp_path):
    attributes = {"command_line": "checkpoint.safetensors " * 20_000, "empty": ""}
    ds = xr.Dataset({"a": ("x", [1.0])}, attrs=attributes)
    gradlab.save_results(ds, tmp_path / "a.h5")
    xr.testing.assert_identical(gradlab.open_results(tmp_path / "a.h5"), ds)


# --- lazy Datasets: values that are in a file, or not computed yet ---


def lazy(path, how):
    opened = {"chunks": lambda: xr.open_dataset(path, chunks={}), "lazy": lambda: xr.open_dataset(path)}
    opened["multi-file"] = lambda: xr.open_mfdataset([path], combine="nested", concat_dim=None)
    return opened[how]()


LAZY = list(itertools.product(["chunks", "lazy", "multi-file"], ["over itself", "elsewhere"]))


@pytest.mark.parametrize(
    ("how", "where"),
    [case if i in (0, 3, 4) else pytest.param(*case, marks=pytest.mark.deep) for i, case in enumerate(LAZY)],
)
def test_a_lazy_dataset_is_saved_with_its_values(saved, ds, tmp_path, how, where):
    """Every way once, the other place where deep."""
    path = saved if where == "over itself" else tmp_path / "other.h5"
    with lazy(saved, how) as opened:
        gradlab.save_results(opened, path)
    xr.testing.assert_identical(gradlab.open_results(path), ds)


def test_saving_a_lazy_dataset_leaves_it_lazy(saved, tmp_path):
    with xr.open_dataset(saved, chunks={}) as opened:
        gradlab.save_results(opened, tmp_path / "other.h5")
        assert opened["mean_gradient"].chunks is not None


def test_lazy_texts_dates_and_coordinates_are_saved(tmp_path):
    values = {"s": ("x", np.array(["a", "bc"], object)), "t": ("x", np.array(["2024-02-29", "NaT"], "M8[ns]"))}
    ds = xr.Dataset(values, {"x": [1.0, 2.0], "y": ("x", ["left", "right"])})
    gradlab.save_results(ds.chunk(x=1), tmp_path / "a.h5")
    xr.testing.assert_identical(gradlab.open_results(tmp_path / "a.h5"), ds)


def test_several_lazy_files_are_joined_into_one(ds, tmp_path):
    halves = [ds.isel(tf=[0]), ds.isel(tf=[1])]
    for number, half in enumerate(halves):
        gradlab.save_results(half, tmp_path / f"{number}.h5")
    with xr.open_mfdataset(sorted(tmp_path.glob("*.h5")), combine="nested", concat_dim="tf", data_vars="all") as opened:
        gradlab.save_results(opened, tmp_path / "0.h5")
    back = gradlab.open_results(tmp_path / "0.h5")
    xr.testing.assert_equal(back.mean_gradient, ds.mean_gradient)
    assert not back.relative_bias.isnull().any()


def test_a_lazy_dataset_is_shown_as_a_computed_one(ds, tmp_path):
    lazy_one = ds.chunk(tf=1, example=1)
    cells = []
    for number, one in enumerate([ds, lazy_one]):
        gradlab.report(one, tmp_path / f"{number}.html")
        plots.save(plots.bias_trends(one), tmp_path / f"{number}.png")
        cells.append(re.findall(r"<td.*?</td>", (tmp_path / f"{number}.html").read_text()))
    assert len(cells[0]) > 20
    assert cells[1] == cells[0]
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "0.png").read_bytes()


def test_what_cannot_be_computed_leaves_the_old_file(saved, ds, content):
    def fail(block):
        raise ArithmeticError("no such block")

    broken = ds.chunk(tf=1).assign(
        mean_norm=ds.mean_norm.chunk(tf=1).map_blocks(fail, template=ds.mean_norm.chunk(tf=1))
    )
    with pytest.raises(ArithmeticError, match="no such block"):
        gradlab.save_results(broken, saved)
    assert saved.read_bytes() == content


@pytest.mark.parametrize(
    "encoding",
    [{"dtype": "int16"}, {"scale_factor": 0.1, "dtype": "int32"}, {"_FillValue": 0.25}, {"dtype": "float32"}],
    ids=lambda encoding: next(iter(encoding)),
)
def test_values_are_stored_as_they_are_and_not_as_the_file_they_come_from_had_them(tmp_path, encoding):
    ds = xr.Dataset({"a": ("x", [0.25, 0.1, 7.75])})
    ds["a"].encoding.update(encoding)
    gradlab.save_results(ds, tmp_path / "a.h5")
    assert gradlab.open_results(tmp_path / "a.h5")["a"].values.tolist() == [0.25, 0.1, 7.75]


@pytest.mark.parametrize(
    "attributes",
    [{"_FillValue": 1.0}, {"scale_factor": 2.0}, {"dtype": "bool"}, {"units": "days since 2000-01-01"}],
    ids=lambda attributes: next(iter(attributes)),
)
def test_attributes_with_which_other_values_would_be_read_are_refused(tmp_path, attributes):
    with pytest.raises(ValueError, match=f"ds: expected .*{next(iter(attributes))}"):
        gradlab.save_results(xr.Dataset({"a": ("x", [1.0, 2.0], attributes)}), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_large_arrays_are_compressed(tmp_path):
    gradlab.save_results(xr.Dataset({"a": ("x", np.zeros(10**6))}), tmp_path / "a.h5")
    assert (tmp_path / "a.h5").stat().st_size < 10**5
    assert gradlab.open_results(tmp_path / "a.h5").sizes["x"] == 10**6


def test_plain_h5py_reads_it(saved, ds):
    with h5py.File(saved, "r") as file:
        np.testing.assert_array_equal(file["mean_gradient"][()], ds["mean_gradient"].values)
        assert file["mean_gradient"].attrs["long_name"] == ds["mean_gradient"].attrs["long_name"]
        assert file.attrs["draws"] == 64
        scales = [dimension.keys() for dimension in file["exact_gradient"].dims]
        assert scales == [["tf"], ["example"], ["latent"], ["category"]]


def test_plain_xarray_reads_it(saved, ds):
    with xr.open_dataset(saved) as back:
        xr.testing.assert_identical(back.load(), ds)


def test_every_variable_says_what_it_is(saved):
    for name, variable in gradlab.open_results(saved).variables.items():
        assert variable.attrs.get("long_name"), name
        assert variable.attrs.get("units"), name


def test_a_crash_while_writing_leaves_the_old_file(saved, content, ds, monkeypatch):
    def crash(*given, **named):
        raise RuntimeError("crash")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(RuntimeError, match="crash"):
        gradlab.save_results(ds, saved)
    assert saved.read_bytes() == content
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"a": 1}, "ds: expected an xarray.Dataset, .* got dict"),
        (None, "ds: expected an xarray.Dataset, .* got NoneType"),
        (xr.Dataset({"a": ("x", np.array([object()]))}), "got Python objects in variable 'a'"),
        (xr.Dataset({"a": ("x", np.array(["a", None]))}), "got Python objects in variable 'a'"),
        (xr.Dataset(attrs={"a": None}), "got None for 'a' of ds"),
        (xr.Dataset(attrs={"a": True}), "got True for 'a' of ds"),
        (xr.Dataset(attrs={"a": {}}), "got {} for 'a' of ds"),
        (xr.Dataset({"v": ("x", [1.0], {"a": None})}), "got None for 'a' of variable 'v'"),
        (xr.Dataset(attrs={"a": ["b", None]}), "ds: expected values that HDF5 can store"),
        (xr.Dataset({"a/b": ("x", [1.0])}), "ds: expected values that HDF5 can store"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_the_old_file_kept(saved, content, given, match):
    with pytest.raises(ValueError, match=match):
        gradlab.save_results(given, saved)
    assert saved.read_bytes() == content
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such results file"):
        gradlab.open_results(tmp_path / "none.h5")
    refused(tmp_path, "a folder")


FOREIGN = [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"# notes\n" * 500, bytes(5000)]


@pytest.mark.helper
@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_file_is_refused(tmp_path, foreign):
    (tmp_path / "a.h5").write_bytes(foreign)
    refused(
        tmp_path / "a.h5",
        r"expected a complete HDF5|expected a results file, got (a zip archive|a text file|an empty file)",
    )


def test_a_file_cut_short_anywhere_is_refused(saved, content):
    for size in [*range(0, 400, 13), *range(400, len(content), 997), len(content) - 1]:
        saved.write_bytes(content[:size])
        refused(saved)


@pytest.mark.helper
def test_a_damaged_byte_is_refused_or_read_but_nothing_else(tmp_path):
    """HDF5 does not check numbers; damage elsewhere must end in BadFile and in nothing worse.

    tests/test_properties_results.py has damage of every kind.
    """
    path = tmp_path / "a.h5"
    gradlab.save_results(xr.Dataset({"a": ("x", np.arange(3.0), {"units": "1"})}), path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refusals = 0
    for position in random.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 + int(random.integers(255))
        path.write_bytes(damaged)
        try:
            gradlab.open_results(path)
        except BadFile:
            refusals += 1
    assert refusals > 0


def scale(file, name, values):
    file[name] = values
    file[name].make_scale(name)
    return file[name]


def external_link(file, elsewhere):
    file["a"] = h5py.ExternalLink(str(elsewhere), "/secret")


def soft_link(file, elsewhere):
    scale(file, "b", [1.0])
    file["a"] = h5py.SoftLink("/b")


def dangling_link(file, elsewhere):
    file["a"] = h5py.SoftLink("/none")


def link_in_a_group(file, elsewhere):
    file.create_group("g")["a"] = h5py.ExternalLink(str(elsewhere), "/secret")


def loop(file, elsewhere):
    file["a"] = file["/"]


def external_storage(file, elsewhere):
    file.create_dataset("a", (8,), "u1", external=[(str(elsewhere), 0, 8)]).make_scale("a")


def virtual(file, elsewhere):
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(str(elsewhere), "secret", (8,))
    file.create_virtual_dataset("a", layout).make_scale("a")


@pytest.mark.helper
@pytest.mark.parametrize(
    ("build", "match"),
    [
        (external_link, "got a link to another place for a"),
        (soft_link, "got a link to another place for a"),
        (dangling_link, "got a link to another place for a"),
        (link_in_a_group, "got g, which is not an array"),
        (loop, "got a, which is not an array"),
        (external_storage, "got external data for a"),
        (virtual, "got external data for a"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_file_that_refers_to_elsewhere_is_refused(tmp_path, build, match):
    elsewhere = tmp_path / "secret.h5"
    with h5py.File(elsewhere, "w") as file:
        file["secret"] = np.arange(8.0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        build(file, elsewhere)
    refused(tmp_path / "a.h5", match)


def absurd_shape(file):
    file.create_dataset("a", (10**6, 10**7), "f8", chunks=(100, 100))


def more_than_the_file_can_hold(file):
    file.create_dataset("a", (2**24,), "f8", chunks=(1000,)).make_scale("a")


def never_written(file):
    file.create_dataset("a", (2**28,), "f8").make_scale("a")


def absurd_chunk(file):
    file.create_dataset("a", (1,), "f8", maxshape=(None,), chunks=(2**28,)).make_scale("a")


def many_small(file):
    for k in range(40):
        file.create_dataset(f"a{k}", (2**18,), "f8", chunks=(1000,)).make_scale(f"a{k}")


@pytest.mark.helper
@pytest.mark.parametrize("build", [absurd_shape, more_than_the_file_can_hold, never_written, absurd_chunk, many_small])
def test_sizes_are_checked_before_memory_is_taken(tmp_path, build):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        build(file)
    assert (tmp_path / "a.h5").stat().st_size < 10**5
    refused(tmp_path / "a.h5", "expected at most .* bytes of data")


def test_address_space_that_libraries_reserve_is_not_the_file_s(saved):
    """Arrow, which pandas loads where it is installed, reserves gigabytes; so does a process with a GPU."""
    reserve = "import mmap; held = mmap.mmap(-1, 2**32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)"
    serve = f"{reserve}; from gradlab import hdf5_sandbox; hdf5_sandbox.serve()"
    asked = json.dumps(["fault", str(saved)]) + "\n"
    done = subprocess.run([sys.executable, "-c", serve], input=asked, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ""


def test_the_limit_is_on_the_sum(saved, monkeypatch):
    monkeypatch.setattr(hdf5, "MOST_BYTES", 1000)
    refused(saved, "at most 1,000")


def unnamed(file):
    file["a"] = np.arange(3.0)


def references(file):
    file.create_dataset("a", (2,), h5py.ref_dtype)


def compound(file):
    file["a"] = np.zeros(2, [("x", "f8"), ("y", "i4")])


def opaque(file):
    file["a"] = np.array([b"ab"], "V2")


def ragged(file):
    file.create_dataset("a", (2,), h5py.vlen_dtype("f8"))


def no_space(file):
    file["a"] = h5py.Empty("f8")


def named_type(file):
    file["a"] = np.dtype("f8")


def scale_that_is_none(file):
    file["a"] = np.arange(3.0)
    file["a"].attrs["CLASS"] = "DIMENSION_SCALE"
    file["a"].attrs["_Netcdf4Dimid"] = "x"


def dimensions_that_are_text(file):
    file["a"] = np.arange(3.0)
    file["a"].attrs["DIMENSION_LIST"] = "x"


def rubbish_units(file):
    scale(file, "a", np.arange(3.0)).attrs["units"] = "days since rubbish"


def rubbish_scale_factor(file):
    scale(file, "a", np.arange(3.0)).attrs["scale_factor"] = "rubbish"


def reference_as_attribute(file):
    file.attrs["a"] = file.ref


@pytest.mark.helper
@pytest.mark.parametrize(
    "build",
    [
        unnamed,
        references,
        compound,
        opaque,
        ragged,
        no_space,
        named_type,
        scale_that_is_none,
        dimensions_that_are_text,
        rubbish_units,
        rubbish_scale_factor,
        reference_as_attribute,
    ],
)
def test_hdf5_that_is_no_results_file_is_refused(tmp_path, build, recwarn):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        build(file)
    refused(tmp_path / "a.h5")
    assert not recwarn.list


def test_a_file_may_be_replaced_while_its_dataset_is_in_use(saved, ds):
    back = gradlab.open_results(saved)
    gradlab.save_results(xr.Dataset({"a": ("x", [1.0])}), saved)
    xr.testing.assert_identical(back, ds)


def test_stamps_and_checksums():
    about = results.stamp(seed=3)
    assert {"gradlab", "torch", "date", "command_line"} < set(about)
    assert about["seed"] == 3
    x = torch.arange(6.0).reshape(2, 3)
    assert results.tensor_sha256(x.T.contiguous().T) == results.tensor_sha256(x)
    assert results.tensor_sha256(x) != results.tensor_sha256(x + 1)


def test_attributes_of_joined_checkpoints_are_those_that_all_have():
    """The first one's stood for all: an exact_dtype, an error, whatever a checkpoint alone has."""
    of_all = {"analysis": "bias", "evaluations": [1, 2]}
    draws = {"draws": ("candidate", [32, 64])}
    one, two = (xr.Dataset({"bias": value} | draws, attrs=of_all) for value in (0.1, 0.2))
    one.attrs |= {"exact_dtype": "float64", "date": "2026-01-01", "trained_tf": 1.0, "draws": 64, "n": np.int64(1)}
    two.attrs |= {"exact_dtype": "float32", "date": "2026-01-02", "alone": 1, "draws": np.int64(96), "n": np.int64(2)}
    joined = results.join_checkpoints([one, two])
    assert joined.exact_dtype.values.tolist() == ["float64", "float32"]
    assert joined.n.values.tolist() == [1, 2]  # numbers of numpy, as files have them
    assert {name: joined.attrs.get(name) for name in of_all} == of_all
    assert joined.attrs["date"] == "2026-01-02"
    assert not {"exact_dtype", "alone", "trained_tf", "n"} & joined.attrs.keys()
    assert not {"alone", "trained_tf"} & joined.coords.keys()
    assert joined.attrs["draws"] == 96
    assert joined.draws.values.tolist() == 2 * [[32, 64]]  # a variable keeps its name from an attribute
