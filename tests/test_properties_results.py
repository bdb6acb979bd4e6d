"""Results files, for any Dataset and any damage: read back identical, or refused; HDF5's own faults stay outside."""

import faulthandler
import os
import signal
import struct
import warnings

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradlab
from gradlab import hdf5, hdf5_sandbox, sweeps
from gradlab.errors import BadFile

from . import tiny_sweep
from .damage import damaged, examples, one_line, overwrite

pytestmark = pytest.mark.helper

# HDF5 takes "." and "/" for places and no surrogates; numpy drops a string's trailing NUL
NAMES = st.text(st.characters(exclude_characters="/.\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
TYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "c8", "c16"]
NUMBERS = [st.floats(), st.integers(-(2**63), 2**63 - 1), st.lists(st.floats(), min_size=2, max_size=4)]
ATTRIBUTES = st.dictionaries(
    NAMES.map("a{}".format), st.one_of(*NUMBERS, WORDS, st.lists(WORDS, min_size=2, max_size=3)), max_size=3
)


@st.composite
def variables(draw, sizes):
    dims = draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=len(sizes)))
    shape = tuple(sizes[dim] for dim in dims)
    if draw(st.integers(0, 3)) == 0:
        count = int(np.prod(shape))
        values = np.array(draw(st.lists(WORDS, min_size=count, max_size=count)), dtype=str).reshape(shape)
    else:
        values = draw(hnp.arrays(np.dtype(draw(st.sampled_from(TYPES))), shape))
    return dims, values, draw(ATTRIBUTES)


@st.composite
def datasets(draw):
    sizes = draw(st.dictionaries(NAMES, st.integers(0, 3), min_size=1, max_size=3))
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    found = {name: draw(variables(sizes)) for name in names if name not in sizes}
    return xr.Dataset(found, attrs=draw(ATTRIBUTES))


def assert_read_back(ds, folder):
    path = folder / "a.h5"
    gradlab.save_results(ds, path)
    back = gradlab.open_results(path)
    assert set(back.variables) == set(ds.variables)
    for name, variable in ds.variables.items():
        assert back[name].dims == variable.dims
        assert back[name].dtype.kind == variable.dtype.kind
        if variable.dtype.kind != "U":
            assert back[name].dtype == variable.dtype
        np.testing.assert_array_equal(back[name].values, variable.values)
        assert_same_attributes(back[name].attrs, variable.attrs)
    assert_same_attributes(back.attrs, ds.attrs)


def assert_same_attributes(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@examples(25)
@given(ds=datasets())
def test_any_dataset_is_read_back(ds, tmp_path):
    assert_read_back(ds, tmp_path)


@pytest.mark.deep
@examples(1000)
@given(ds=datasets())
def test_any_dataset_is_read_back_in_depth(ds, tmp_path):
    assert_read_back(ds, tmp_path)


# --- damage ---


def plain(path):
    """In the oldest layout, which has no checksums: damage gets through to the library."""
    with h5py.File(path, "w", libver="earliest") as file:
        file["x"] = np.arange(3.0)
        file["x"].make_scale("x")
        file["y"] = np.arange(99.0)
        file["y"].make_scale("y")
        for name, values in {"a": np.eye(3)[0], "s": ["a", "bcd", "é"]}.items():
            file.create_dataset(name, data=values, dtype=h5py.string_dtype() if name == "s" else "f8")
            file[name].dims[0].attach_scale(file["x"])
            file[name].attrs["units"] = "1"
        file.create_dataset("z", data=np.ones((3, 99)), chunks=(2, 50), compression="gzip", shuffle=True)
        for dim, name in enumerate("xy"):
            file["z"].dims[dim].attach_scale(file[name])


def written(path):
    values = {"a": ("x", np.arange(3.0), {"units": "1"}), "s": ("x", ["a", "bcd", "é"])}
    gradlab.save_results(xr.Dataset(values, {"x": [1.0, 2.0, 3.0]}, {"n": 3}), path)


@pytest.fixture(params=[plain, written], ids=lambda build: build.__name__)
def path(request, tmp_path):
    path = tmp_path / "a.h5"
    request.param(path)
    return path


def assert_refused_or_read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of xarray's, about attributes that it passes over
        try:
            ds = gradlab.open_results(path)
        except BadFile as error:
            one_line(error, path)
            return False
    assert isinstance(ds, xr.Dataset)
    assert ds.nbytes < 2**24 + hdf5.MOST_RATIO * path.stat().st_size
    return True


@examples(30)
@given(data=st.data())
def test_damage_is_refused_or_read_but_nothing_else(path, data):
    content = path.read_bytes()
    overwrite(path, data.draw(damaged(content)))
    try:
        assert_refused_or_read(path)
    finally:
        overwrite(path, content)


@pytest.mark.deep
@examples(3000)
@given(data=st.data())
def test_damage_is_refused_or_read_in_depth(path, data):
    content = path.read_bytes()
    overwrite(path, data.draw(damaged(content)))
    try:
        assert_refused_or_read(path)
    finally:
        overwrite(path, content)


# --- what the HDF5 library itself does not survive ---


def test_a_heap_that_goes_in_circles_is_refused(tmp_path):
    """A free space of size 0 in a heap of strings: HDF5 looks behind it for ever."""
    path = tmp_path / "a.h5"
    plain(path)
    assert_refused_or_read(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while (index := struct.unpack_from("<H", content, at)[0]) != 0:
        size = struct.unpack_from("<Q", content, at + 8)[0]
        at += 16 + size + -size % 8
    assert index == 0
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(BadFile, match="reading timed out"):
        gradlab.open_results(path)


def endless(path, announced):
    while True:
        pass


def crash(path, announced):
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def abort(path, announced):
    faulthandler.disable()
    os.abort()


@pytest.mark.parametrize(("load", "words"), [(endless, "reading timed out"), (crash, "crashes"), (abort, "crashes")])
def test_how_the_reading_child_ends_is_told(monkeypatch, load, words, tmp_path):
    monkeypatch.setattr(hdf5, "load", load)
    assert words in hdf5_sandbox._tried(str(tmp_path / "a.h5"))


def test_a_helper_that_was_killed_is_replaced(path):
    assert assert_refused_or_read(path)
    hdf5_sandbox._helper.kill()
    hdf5_sandbox._helper.wait()
    assert assert_refused_or_read(path)


def test_a_forked_process_has_a_helper_of_its_own(path):
    assert assert_refused_or_read(path)
    child = os.fork()
    if not child:
        os._exit(hdf5_sandbox._helper is not None)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def no_helper(monkeypatch):
    """Asking the helper fails."""
    monkeypatch.setattr(hdf5_sandbox, "fault", lambda path: pytest.fail(f"{path}: read by the helper"))


def test_a_trusted_file_is_read_without_the_helper(path, no_helper):
    """Damage that the HDF5 library reports is refused all the same, and so are sizes."""
    assert gradlab.open_results(path, trusted=True).a.values.shape == (3,)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadFile, match=r"expected a complete (HDF5 )?results file"):
        gradlab.open_results(path, trusted=True)
    with h5py.File(path, "w") as file:
        many_variables(file)
    with pytest.raises(BadFile, match="at most 1,000 variables, got 1,001"):
        gradlab.open_results(path, trusted=True)


def test_a_sweep_reads_its_own_files_without_the_helper(tmp_path, no_helper):
    options = tiny_sweep.ONE | {"track": ["gap"], "track_images": 2, "track_draws": 2, "epochs": 1}
    for _ in range(2):
        assert (tiny_sweep.sweep(tmp_path, **options).status == "done").all()
    assert (sweeps.collect(tmp_path).status == "done").all()


def test_a_system_that_cannot_fork_reads_files_itself(path, monkeypatch):
    monkeypatch.setattr(hdf5_sandbox, "_CAN_FORK", False)
    monkeypatch.setattr(hdf5_sandbox, "_ask", lambda path: pytest.fail("no helper there"))
    assert assert_refused_or_read(path)


# --- small files that announce or unfold to much ---


def strings_of_unequal_length(file):
    """As an array of fixed width these are 100 GiB."""
    kind = h5py.string_dtype()
    file.create_dataset("a", data=["x" * 2**20] + [""] * 10**5, dtype=kind).make_scale("a")


def wide_strings(file):
    file.create_dataset("a", (2**10,), "S1048576", chunks=(1,)).make_scale("a")


def unknown_filter(file):
    space, kind = h5py.h5s.create_simple((8,)), h5py.h5t.NATIVE_DOUBLE
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((8,))
    properties.set_filter(4242, h5py.h5z.FLAG_OPTIONAL, (1,))
    data = h5py.Dataset(h5py.h5d.create(file.id, b"a", kind, space, properties))
    data.id.write_direct_chunk((0,), b"\xff" * 64)
    data.make_scale("a")


def deep_groups(file):
    for _ in range(500):
        file = file.create_group("g")


def many_variables(file):
    for number in range(hdf5.MOST_VARIABLES + 1):
        file[f"a{number}"] = 1.0


BOMBS = [strings_of_unequal_length, wide_strings, unknown_filter, deep_groups, many_variables]


@pytest.mark.parametrize("build", BOMBS, ids=lambda build: build.__name__)
def test_a_bomb_is_refused(tmp_path, build):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        build(file)
    assert path.stat().st_size < 2**23
    with pytest.raises(BadFile) as raised:
        gradlab.open_results(path)
    one_line(raised.value, path)


def test_a_string_that_is_referred_to_many_times_is_refused(tmp_path):
    """2 MiB in the file, 8 GiB in memory."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("a", data=["x" * 2**21] + ["y"] * 4095, dtype=h5py.string_dtype()).make_scale("a")
        at = file["a"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[at : at + 16 * 4096] = bytes(content[at : at + 16]) * 4096
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"memory|timed out"):
        gradlab.open_results(path)
