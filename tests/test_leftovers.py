"""What a killed process leaves, the same command removes; what another process is writing stays."""

import fcntl
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import gradlab
from gradlab import errors, files, hdf5_sandbox

from .command_line import POINT, tiny

DIES = """
import os, signal, sys
from gradlab import errors, files, hdf5_sandbox
with files.written_aside(sys.argv[1]) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def parts(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".part"))


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    for name in ("a.h5", "b.h5"):
        done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / name)], timeout=300)
        assert done.returncode == -signal.SIGKILL
    assert len(parts(tmp_path)) == 2
    with files.written_aside(tmp_path / "a.h5") as aside:
        aside.write_text("whole")
    assert (tmp_path / "a.h5").read_text() == "whole"
    (left,) = parts(tmp_path)
    assert left.startswith(".b.h5.")


def test_what_another_process_is_writing_stays(tmp_path):
    path = tmp_path / "a.h5"
    with files.written_aside(path) as first:
        with files.written_aside(path) as second:
            assert first.exists()
            second.write_text("second")
        first.write_text("first")
    assert path.read_text() == "first"
    assert parts(tmp_path) == []


def test_names_that_only_look_alike_stay(tmp_path):
    for name in (".a.h5.note.part", ".a.h5.0123456.part", "a.h5.01234567.part", ".other.01234567.part"):
        (tmp_path / name).touch()
    (tmp_path / ".a.h5.01234567.part").mkdir()
    before = os.listdir(tmp_path)
    with files.written_aside(tmp_path / "a.h5") as aside:
        aside.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "a.h5"])


def test_a_command_removes_the_leftovers_of_its_outputs(run, tmp_path):
    tiny("m.safetensors")
    left = [tmp_path / name for name in (".bias.h5.01234567.part", ".bias.png.89abcdef.part")]
    for path in left:
        path.touch()
    assert run("bias", "m.safetensors", *[part for part in POINT if part != "--no-plot"]).code == 0
    assert parts(tmp_path) == []


# --- locks ---


@pytest.fixture
def saved(tmp_path):
    gradlab.save_results(xr.Dataset({"a": ("x", np.arange(3.0))}), tmp_path / "a.h5")
    return tmp_path / "a.h5"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_locked_file_is_called_that_and_read(saved, trusted):
    with open(saved, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.warns(UserWarning, match=r"a\.h5: another program has locked this file; it is read without"):
            assert gradlab.open_results(saved, trusted).a.values.tolist() == [0, 1, 2]


def test_a_folder_without_locks_is_called_that_and_read(saved, monkeypatch):
    def none(*given):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match=r"a\.h5: its folder has no file locks \(No locks available\)"):
        ds = gradlab.open_results(saved)
    assert ds.a.values.tolist() == [0, 1, 2]
    gradlab.save_results(ds, saved)
    assert parts(saved.parent) == []


def test_several_checkpoints_are_measured_in_a_folder_without_locks(run, tmp_path, monkeypatch):
    """One process needs none; several workers would all measure the same."""

    def no_locks(*given):
        raise OSError(37, "No locks available")

    for name in "ab":
        tiny(f"{name}.safetensors")
    monkeypatch.setattr("fcntl.flock", no_locks)
    done = run("bias", "a.safetensors", "b.safetensors", *POINT)
    assert done.code == 0
    assert "bias.h5.parts: this folder allows no file locks (No locks available)" in done.err
    assert not (tmp_path / "bias.h5.parts").exists()
    monkeypatch.setattr("multiprocessing.parent_process", lambda: True)
    done = run("bias", "a.safetensors", "b.safetensors", *POINT)
    assert done.code == 1
    assert "take one on a disk of this machine, or one worker" in done.err


def test_the_helper_says_nothing_of_its_own_file(monkeypatch, recwarn):
    monkeypatch.setattr(hdf5_sandbox, "_warm_up", lambda: errors.warn("/tmp/x.h5: its folder has no file locks"))
    monkeypatch.setattr("sys.stdin", [])
    hdf5_sandbox.serve()
    assert [str(one.message) for one in recwarn] == []
