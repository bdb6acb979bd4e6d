"""Observations in a file that changes between opening and use: an error, no other numbers, no killed process."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import torch

from gradlab import datasets
from gradlab.datasets import loading
from gradlab.errors import BadFile

from . import forks

VALUES = np.random.default_rng(0).normal(size=(50, 3, 4)).astype("f4")


@pytest.fixture(params=["C", "F", "bytes swapped"])
def path(request, tmp_path):
    values = np.asfortranarray(VALUES) if request.param == "F" else VALUES
    np.save(tmp_path / "x.npy", values.astype(">f4") if request.param == "bytes swapped" else values)
    return tmp_path / "x.npy"


@pytest.mark.parametrize("count", [50, 7])
def test_the_values_are_those_of_the_file(path, count):
    found = datasets.load_array(path).first(count).floats()
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), VALUES[:count])


def test_what_was_written_over_in_place_is_an_error(path):
    opened = datasets.load_array(path).first(2)
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)  # behind the first two
        file.write(b"\0\0\0\0")
    with pytest.raises(BadFile, match=r"x\.npy: expected the observations as they were opened, got a file that has ch"):
        opened.floats()


def cut_short(path):
    opened = datasets.load_array(path)
    os.truncate(path, 130)
    with pytest.raises(BadFile, match="got a file that has changed"):
        opened.floats()


def test_what_was_cut_short_kills_no_process(tmp_path):
    np.save(tmp_path / "x.npy", VALUES)
    code, said = forks.ended(lambda: cut_short(tmp_path / "x.npy"))
    assert code == 0, said


SHORT = """
import os, sys, torch, gradlab
gradlab.save(gradlab.bundled("vae-8x4-mnist"), sys.argv[1])
model = gradlab.load(sys.argv[1])
os.truncate(sys.argv[1], 100)
print(all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()))
"""


@pytest.mark.deep
def test_a_checkpoint_that_is_cut_short_after_reading_kills_no_process(tmp_path):
    command = [sys.executable, "-c", SHORT, str(tmp_path / "m.safetensors")]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0
    assert done.stdout == b"True\n"


def test_images_that_change_while_they_are_read_have_no_checksum_of_others(tmp_path, monkeypatch):
    path, read = tmp_path / "test_32x32.mat", loading.svhn.read
    images = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 6)).astype(np.uint8)

    def write(x):
        scipy.io.savemat(path, {"X": x, "y": np.ones((6, 1), np.uint8)})

    def read_after_a_change(name):
        write(255 - images)
        return read(name)

    write(images)
    assert len(datasets.load(tmp_path)) == 6
    monkeypatch.setattr(loading.svhn, "read", read_after_a_change)
    with pytest.raises(BadFile, match=r"test_32x32\.mat: expected the same content until it is read"):
        datasets.load(tmp_path)
