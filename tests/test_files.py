"""Files are whole or not there: nothing that goes wrong while writing harms what was there before."""

import errno
import os
import resource
import socket
import stat
from pathlib import Path

import pytest
import torch
import xarray as xr

import gradlab
from gradlab import datasets, files, hdf5, networks, plots

from . import forks
from .command_line import POINT, images, refused, tiny


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
    with (
        pytest.raises(IsADirectoryError, match="expected the name of a file, got a folder"),
        files.written_aside(tmp_path),
    ):
        pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == []


def special(path, kind):
    """Something at `path` that is no regular file, made here and for this test alone."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "device":
        if os.geteuid():
            pytest.skip("only root makes devices")
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # that of /dev/full, in a folder of its own
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    return path


SPECIAL = ["pipe", "socket", "device", "folder", "loop"]


def of_all(folder):
    """Name, inode and kind of everything in a folder."""
    found = [(path.name, path.lstat()) for path in folder.iterdir()]
    return sorted((name, status.st_ino, stat.S_IFMT(status.st_mode)) for name, status in found)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_replaced(tmp_path, monkeypatch, kind, link):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = special(Path("there"), kind)
    if link:
        Path("link").symlink_to("there")
        path = Path("link")
    before = of_all(tmp_path)
    with pytest.raises(OSError, match=r"expected the name of a file|symbolic links"), files.written_aside(path):
        pytest.fail("the block was entered")
    assert of_all(tmp_path) == before


def test_what_comes_to_the_target_during_the_block_is_not_replaced_either(tmp_path):
    path = tmp_path / "file"

    def write():
        with files.written_aside(path) as aside:
            aside.write_bytes(b"new")
            os.mkfifo(path)

    with pytest.raises(OSError, match="a pipe"):
        write()
    assert os.listdir(tmp_path) == ["file"]
    assert path.is_fifo()


@pytest.mark.parametrize("there", [True, False])
def test_behind_a_symbolic_link_the_file_that_it_points_to_is_written(tmp_path, there):
    target = tmp_path / "elsewhere" / "file"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    (tmp_path / "middle").symlink_to("elsewhere/file")
    link = tmp_path / "link"
    link.symlink_to("middle")
    with files.written_aside(link) as aside:
        aside.write_bytes(b"new")
        assert aside.parent == target.parent
    assert target.read_bytes() == b"new"
    assert os.readlink(link) == "middle"
    assert os.listdir(target.parent) == ["file"]


def test_a_link_to_a_file_without_a_name_is_refused(tmp_path):
    path = tmp_path / "gone"
    with open(path, "wb") as file:
        path.unlink()
        with pytest.raises(OSError, match="without a name"), files.written_aside(f"/proc/self/fd/{file.fileno()}"):
            pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(old, mode):
    old.chmod(mode)
    with files.written_aside(old) as aside:
        aside.unlink()  # as safetensors does, which puts a file of its own there
        aside.write_bytes(b"new")
    assert old.read_bytes() == b"new"
    assert stat.S_IMODE(old.stat().st_mode) == mode


def write_with(writer, path):
    ds = xr.Dataset({"a": ("x", [1.0, 2.0])})
    if writer == "results":
        gradlab.save_results(ds, path)
    elif writer == "checkpoint":
        gradlab.save(gradlab.bundled("vae-8x4-mnist"), path)
    elif writer == "images":
        datasets.write_idx(path, torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    elif writer == "figure":
        plots.save(plots.Figure(), path)
    else:
        gradlab.report(gradlab.bias(gradlab.bundled("vae-8x4-mnist"), torch.rand(2, 1, 28, 28), 1, 1, draws=2), path)


@pytest.mark.parametrize("writer", ["results", "checkpoint", "images", "figure", "report"])
def test_no_writer_replaces_a_pipe(tmp_path, writer):
    path = special(tmp_path / "there.png", "pipe")
    with pytest.raises(OSError, match="expected the name of a file, got a pipe"):
        write_with(writer, path)
    assert path.is_fifo()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("command", ["bias", "gap", "report", "plot", "train", "sweep"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_command_replaces_a_pipe_or_a_device(run, tmp_path, command, kind):
    tiny("m.safetensors")
    images(tmp_path, 4)
    assert run("bias", "m.safetensors", *POINT).code == 0
    training = ["--data", "own", "--data-dir", ".", "--epochs", "1"]
    arguments = {
        "bias": ["m.safetensors", *POINT],
        "gap": ["m.safetensors", "--no-plot", "--images", "2", "--draws", "2"],
        "report": ["bias.h5"],
        "plot": ["bias.h5"],
        "train": ["vae", *training],
        "sweep": ["vae", "--tf", "1", "--tb", "1", "--seeds", "1", *training],
    }[command]
    there = special(tmp_path / "there.pdf", kind)
    refused(run(command, *arguments, "--out", "there.pdf"), 1, f"expected the name of a file, got a {kind}")
    assert not there.is_file()
    assert there.exists()


TRAINING = ["--data", "own", "--data-dir", ".", "--epochs", "1"]


@pytest.mark.parametrize("name", ["o.resume.safetensors", "o.bias.h5", "o-epoch0001.safetensors"])
def test_what_a_training_writes_beside_its_model_replaces_no_pipe(run, tmp_path, name):
    images(tmp_path, 4)
    there = special(tmp_path / name, "pipe")
    options = ["--track", "bias", "--track-images", "2", "--track-draws", "4", "--keep-every", "1", "--overwrite"]
    ran = run("train", "vae", *TRAINING, *options, "--out", "o.safetensors")
    assert (ran.code, ran.err.strip().splitlines()[-1]) == (
        1,
        f"gradlab: {name}: expected the name of a file, got a pipe",
    )
    assert there.is_fifo()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link"])
@pytest.mark.parametrize("suffix", [".lock", ".safetensors", ".resume.safetensors", ".h5"])
def test_a_sweep_removes_nothing_but_files_of_its_own(run, tmp_path, suffix, kind):
    """A pipe with the name of a lock was locked, and removed at the end; so were links."""
    images(tmp_path, 4)
    arguments = ["sweep", "vae", "--tf", "1", "--tb", "1", "--seeds", "1", *TRAINING, "--folder", "cells"]
    assert run(*arguments, "--out", "first.h5").code == 0
    (cell,) = (tmp_path / "cells").glob("*.h5")
    cell.unlink()
    there = cell.with_suffix(suffix)
    if kind == "link":
        special(tmp_path / "behind", "pipe")
        there.symlink_to("../behind")
    else:
        special(there, kind)
    before = of_all(cell.parent)
    refused(run(*arguments, "--out", "o.h5"), 1, there.name, "a symbolic link" if kind == "link" else f"a {kind}")
    assert of_all(cell.parent) == before


def test_an_analysis_knows_before_measuring_that_its_figure_cannot_be_written(run, tmp_path):
    special(tmp_path / "figure6-quick.png", "pipe")
    refused(run("reproduce", "figure6", "--budget", "quick", "--out", "."), 1, "figure6-quick.png", "a pipe")
    assert os.listdir(tmp_path) == ["figure6-quick.png"]


def test_a_figure_that_cannot_be_written_is_known_before_the_measurement(run, tmp_path):
    tiny("m.safetensors")
    special(tmp_path / "bias.png", "pipe")
    arguments = [argument for argument in POINT if argument != "--no-plot"]
    refused(run("bias", "m.safetensors", *arguments), 1, "bias.png", "a pipe")
    assert not (tmp_path / "bias.h5").exists()


def test_the_longest_name_a_folder_takes_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    with files.written_aside(path) as aside:
        aside.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_sha256_is_that_of_the_content(old):
    assert files.sha256(old) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"


def written_to_a_full_disk(paths):
    """What each writer says there."""
    model = networks.build("categorical-vae", {"latents": 2, "hidden": [64], "image_shape": [1, 3, 3]}, seed=0)
    model.provenance = {"enough": "x" * 9000}
    ds = xr.Dataset({"a": ("x", torch.rand(9000).double().numpy())})
    writers = [
        lambda path: gradlab.save(model, path),
        lambda path: gradlab.save_results(ds, path),
        lambda path: datasets.write_idx(path, torch.randint(256, (90, 1, 10, 10), dtype=torch.uint8)),
    ]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    said = []
    for write, path in zip(writers, paths, strict=True):
        with pytest.raises(OSError) as raised:
            write(path)
        said.append(str(raised.value))
    return "\n".join(said)


def test_every_writer_survives_a_write_that_the_system_refuses(tmp_path):
    """A limit on file sizes fails a write half-way as a full disk does; HDF5 then crashes the process."""
    header = b'{"__metadata__":{"format":"gradlab-1"}}'
    old = {
        "checkpoint/file.safetensors": len(header).to_bytes(8, "little") + header,
        "results/file.h5": b"old" + hdf5.seal_of(b"old"),
        "images/file.gz": b"old",
    }
    paths = [tmp_path / name for name in old]
    for path, content in zip(paths, old.values(), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    code, text = forks.ended(lambda: written_to_a_full_disk(paths))
    assert code == 0, text
    for said, path, content in zip(text.splitlines(), paths, old.values(), strict=True):
        assert "File too large" in said
        assert str(path) in said
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == [path.name]


def test_the_limit_on_file_sizes_is_the_forked_process_s_alone():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
