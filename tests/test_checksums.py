"""What gradlab writes carries a checksum of its content, which reading verifies: a damaged byte is never a number."""

import json
import zipfile

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gradlab
from gradlab import checkpoints, hdf5, networks, sweeps, training
from gradlab.errors import BadFile

from . import tiny_sweep
from .damage import one_line

CONFIG = {"latents": 2, "categories": 3, "hidden": [5], "image_shape": [1, 3, 3]}


def model(seed=3):
    return networks.build("categorical-vae", CONFIG, seed=seed)


def state(path):
    run = training.Run(tiny_sweep.BASE, tiny_sweep.IMAGES, tiny_sweep.VALIDATION, "cpu")
    run.one_step(torch.arange(5))
    run.save(path)


def dataset():
    values = {
        "a": ("x", np.arange(3.0), {"units": "nats", "rank": 2.5}),
        "s": ("x", ["a", "bcd", "é"], {"units": "1"}),
        "large": (("x", "y"), np.random.default_rng(0).normal(size=(3, 500))),
    }
    return xr.Dataset(values, {"x": [1.0, 2.0, 3.0]}, {"estimator": "st-gs", "draws": 8, "format": 2})


def saved_weights(path):
    torch.save(model().state_dict(), path)


def own_weights(path):
    found = gradlab.load_weights(model(0), path)
    for name, tensor in model().state_dict().items():  # an archive has bits that mean nothing
        assert torch.equal(found.state_dict()[name], tensor)


KINDS = {
    "checkpoint.safetensors": (lambda path: gradlab.save(model(), path), gradlab.load),
    "state.safetensors": (state, checkpoints.read),
    "results.h5": (lambda path: gradlab.save_results(dataset(), path), lambda path: gradlab.open_results(path, True)),
    "weights.pt": (saved_weights, own_weights),
    "weights.safetensors": (lambda path: gradlab.save(model(), path), own_weights),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("flips", [40, pytest.param(1000, marks=pytest.mark.deep)])
def test_a_flipped_bit_is_refused(tmp_path, name, flips):
    """Of the bits of each file some at random, and one of each of the last 90 bytes."""
    path, (write, read) = tmp_path / name, KINDS[name]
    write(path)
    read(path)
    content = path.read_bytes()
    random = np.random.default_rng(1)
    for position in (*random.integers(0, len(content), flips), *range(len(content) - 90, len(content))):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            read(path)
        except BadFile as error:
            one_line(error, path)
        else:
            assert name == "weights.pt"


def test_a_checksum_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    gradlab.save_results(dataset(), path)
    content = path.read_bytes()
    for missing in (1, 2, 40, hdf5.SEALED - 16, hdf5.SEALED - 2, hdf5.SEALED - 1):
        path.write_bytes(content[:-missing])
        with pytest.raises(BadFile, match=r"cut short|damaged"):
            gradlab.open_results(path, trusted=True)
    path.write_bytes(content[: -hdf5.SEALED])  # all data, and none
    assert gradlab.open_results(path).equals(dataset())


def test_bytes_behind_a_checksum_do_not_hide_it(tmp_path):
    """A file that is longer and damaged was read as one of another program, without a checksum."""
    path = tmp_path / "a.h5"
    gradlab.save_results(dataset(), path)
    content = path.read_bytes()
    at = content.index(np.arange(3.0).tobytes()) + 15  # within 1.0
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    for longer in (flipped + b"\n", flipped + bytes(500), flipped[:800] + bytes(8) + flipped[800:] + b"x" * 70):
        path.write_bytes(longer)
        with pytest.raises(BadFile, match=r"behind the checksum|damaged"):
            gradlab.open_results(path, trusted=True)


def test_every_reader_verifies_large_arrays(tmp_path):
    gradlab.save_results(dataset(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["large"].fletcher32


def test_a_damaged_cell_is_trained_again(finished):
    """Of the tiny sweep: kept beside, and the sweep ends with the numbers that it had."""
    before = tiny_sweep.sweep(finished)
    cell = min(finished.glob("?" * 32 + ".h5"))
    content = bytearray(cell.read_bytes())
    content[len(content) // 2] ^= 4
    cell.write_bytes(content)
    with pytest.warns(UserWarning, match="left out"):
        assert (sweeps.collect(finished).status == "missing").sum() == 1
    with pytest.warns(UserWarning, match="trained again"):
        again = tiny_sweep.sweep(finished)
    tiny_sweep.assert_same(again, before)


# --- files without a checksum are read as they are ---


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    gradlab.save(model(), tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        about = {name: text for name, text in file.metadata().items() if name != checkpoints.CHECKSUM}
    save_file(load_file(tmp_path / "new.safetensors"), tmp_path / "old.safetensors", metadata=about)
    assert gradlab.load(tmp_path / "old.safetensors").config == CONFIG


def test_a_checkpoint_with_other_weights_or_metadata_is_refused(tmp_path):
    """A training that was edited by hand, a checksum whose name is damaged."""
    path = tmp_path / "a.safetensors"
    gradlab.save(model(), path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    for changed, match in (
        (about | {"provenance": json.dumps({"settings": {"tf": 2.0}})}, "checksum"),
        ({("sha257" if name == checkpoints.CHECKSUM else name): text for name, text in about.items()}, "'sha257'"),
    ):
        save_file(tensors, path, metadata=changed)
        with pytest.raises(BadFile, match=match):
            gradlab.load(path)
    save_file(tensors | {"decoder.3.bias": tensors["decoder.3.bias"] + 1}, path, metadata=about)
    with pytest.raises(BadFile, match="checksum"):
        gradlab.load(path)


def test_a_state_dict_without_checksums_is_read_as_it_is(tmp_path):
    """torch may leave them out; the archive then says 0 for each. One that has them is never taken for such a file."""
    path = tmp_path / "weights.pt"
    torch.serialization.set_crc32_options(False)
    try:
        saved_weights(path)
    finally:
        torch.serialization.set_crc32_options(True)
    own_weights(path)
    with zipfile.ZipFile(path) as archive:
        assert {member.CRC for member in archive.infolist()} == {0}
    content = bytearray(path.read_bytes())
    name, tensor = max(model().state_dict().items())
    content[content.index(tensor.numpy().tobytes())] ^= 1  # the last bit of a weight
    path.write_bytes(content)
    assert not torch.equal(gradlab.load_weights(model(0), path).state_dict()[name], tensor)


def test_results_that_another_program_wrote_anew_are_read(tmp_path):
    gradlab.save_results(dataset(), tmp_path / "a.h5")
    with xr.open_dataset(tmp_path / "a.h5") as ds:
        ds.isel(x=[0]).to_netcdf(tmp_path / "b.h5", engine="h5netcdf")
    assert gradlab.open_results(tmp_path / "b.h5").sizes["x"] == 1


def test_results_that_another_program_changed_in_place_are_read(tmp_path):
    """HDF5 cuts off what is behind the data that it writes: a change on purpose is no damage."""
    gradlab.save_results(dataset(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["a"][0] = 7.0
    assert hdf5.SEAL not in (tmp_path / "a.h5").read_bytes()
    assert gradlab.open_results(tmp_path / "a.h5").a[0] == 7.0
