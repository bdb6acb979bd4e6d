"""Shared by tests: few threads, since the tensors are small and tests run side by side; the command line; a sweep."""

import math
import os
import shutil
import sys
from typing import NamedTuple

import pytest
import torch

torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # which a parallel run of the tests sets, to its own width
# compiled modules are kept: compiling the tests takes 8 s, and gradlab half a second of each process that tests start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(autouse=True)
def _a_measurement_of_its_own(monkeypatch):
    """Tests that follow each other closely are no measurement of minutes, of which progress tells in lines."""
    monkeypatch.setattr("gradlab.progress._ended", -math.inf)


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command line in this process, in an empty folder. Results are read without the helper process."""
    from gradlab.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradlab.hdf5_sandbox.fault", lambda path: "")

    def run_it(*arguments):
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as ended:
            code = ended.code
        return Ran(code, *capsys.readouterr())

    return run_it


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder and the Dataset of the tiny sweep."""
    from .tiny_sweep import sweep

    folder = tmp_path_factory.mktemp("undisturbed")
    ds = sweep(folder)
    assert (ds.status == "done").all()
    return folder, ds


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A folder of finished cells to spoil."""
    return shutil.copytree(undisturbed[0], tmp_path / "finished")


@pytest.fixture
def trainings(monkeypatch):
    """A list that gets (tf, tb, seed) of each training of a sweep."""
    from .tiny_sweep import listed_trainings

    return listed_trainings(monkeypatch)


@pytest.fixture
def checkpoint(tmp_path):
    from .command_line import tiny

    tiny(tmp_path / "tiny.safetensors")
    return "tiny.safetensors"
