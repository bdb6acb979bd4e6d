"""Files are whole or not there: nothing that goes wrong while writing harms what was there before."""

import errno
import os
import resource
import stat
import subprocess
import sys

import pytest

from gradlab import files


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def assert_untouched(path):
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_the_target_is_replaced_at_the_end_only(old):
    with files.written_aside(old) as aside:
        aside.write_bytes(b"new")
        assert old.read_bytes() == b"old"
        assert aside.parent == old.parent
    assert old.read_bytes() == b"new"
    assert os.listdir(old.parent) == [old.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_no_litter(old, error):
    def write_half():
        with files.written_aside(old) as aside:
            aside.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert_untouched(old)


def test_no_file_is_made_where_the_block_fails(tmp_path):
    with pytest.raises(ValueError), files.written_aside(tmp_path / "file"):
        raise ValueError
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file_and_is_reported_with_its_name(old):
    with pytest.raises(OSError, match="No space left") as raised, files.written_aside(old):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(old) in str(raised.value)
    assert_untouched(old)


def test_a_disk_that_fills_up_while_flushing_leaves_the_old_file(old, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), files.written_aside(old) as aside:
        aside.write_bytes(b"new")
    assert_untouched(old)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with files.written_aside(tmp_path / "file") as aside:
            aside.write_bytes(b"new")
    finally:
        assert os.umask(before) == umask
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_missing_folders_are_made(tmp_path):
    with files.written_aside(tmp_path / "a" / "b" / "file") as aside:
        aside.write_bytes(b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


def test_a_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(IsADirectoryError, match="give the name of a file"), files.written_aside(tmp_path):
        pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == []


def test_the_longest_name_a_folder_takes_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    with files.written_aside(path) as aside:
        aside.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_sha256_is_that_of_the_content(old):
    assert files.sha256(old) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"


FULL_DISK = """
import resource, sys
import torch
import gradlab
import xarray as xr
from gradlab import datasets, networks

path = sys.argv[1]
model = networks.build("categorical-vae", {"latents": 2, "hidden": [64], "image_shape": [1, 3, 3]}, seed=0)
model.provenance = {"enough": "x" * 9000}
ds = xr.Dataset({"a": ("x", torch.rand(9000).double().numpy())})
writers = {
    "checkpoint": lambda: gradlab.save(model, path),
    "results": lambda: gradlab.save_results(ds, path),
    "images": lambda: datasets.write_idx(path, torch.randint(256, (90, 1, 10, 10), dtype=torch.uint8)),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    writers[sys.argv[2]]()
except OSError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("writer", ["checkpoint", "results", "images"])
def test_every_writer_survives_a_write_that_the_system_refuses(old, writer):
    """A limit on file sizes fails a write half-way as a full disk does; HDF5 then crashes the process."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(old), writer], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 7, ran.stderr
    assert "File too large" in ran.stdout
    assert str(old) in ran.stdout
    assert_untouched(old)


def test_the_limit_on_file_sizes_is_the_subprocess_s_alone():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
