"""Shared by tests: few threads, since the tensors are small and tests run side by side; the command line; a sweep."""

import contextlib
import gc
import math
import os
import shutil
import signal
import sys
import threading
import warnings
from typing import NamedTuple

import pytest

# a shell's background jobs ignore Ctrl-C, which tests press
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("COLUMNS", None)  # which a parallel run of the tests sets, to its own width
# compiled modules are kept: compiling the tests takes 8 s, and gradlab half a second of each process that tests start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(autouse=True)
def _a_measurement_of_its_own(monkeypatch):
    """Tests that follow each other closely are no measurement of minutes, of which progress tells in lines."""
    monkeypatch.setattr("gradlab.progress._ended", -math.inf)


@pytest.fixture(autouse=True)
def _no_helper_for_own_files(request, monkeypatch):
    """Results are read without the helper process, which tests with the marker `helper` are about."""
    if request.node.get_closest_marker("helper") is None:
        monkeypatch.setattr("gradlab.hdf5_sandbox.fault", lambda path: "")


def pytest_collection():
    """In each worker, not in the process that only hands out tests: torch takes two seconds to load."""
    import torch

    torch.set_num_threads(1)
    gc.disable()  # what collecting makes stays: modules and thousands of tests


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Warnings that no test expects are errors in the default run; in runs by hand they are shown."""
    for item in items:
        if item.get_closest_marker("deep") or item.get_closest_marker("foreign"):
            item.add_marker(pytest.mark.filterwarnings("default", "error::RuntimeWarning"))


# --- nothing is skipped in silence where CI runs, with GRADLAB_NO_SKIPS ---

ALLOWED = ("needs a GPU", "root may write anywhere", "only root makes devices")
_skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append((report.nodeid, str(report.longrepr[-1]).removeprefix("Skipped: ")))


def pytest_collectreport(report):
    if report.skipped:
        pytest_runtest_logreport(report)


def unforeseen_skips(skipped):
    """Those that are neither for want of a GPU nor for being root."""
    return [f"{name}: {reason}" for name, reason in skipped if reason not in ALLOWED]


def pytest_sessionfinish(session):
    if os.environ.get("GRADLAB_NO_SKIPS") and unforeseen_skips(_skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if os.environ.get("GRADLAB_NO_SKIPS") and (found := unforeseen_skips(_skipped)):
        terminalreporter.section("skipped, and must not be here")
        for line in found:
            terminalreporter.line(line)


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command line in this process, in an empty folder."""
    from gradlab.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run_it(*arguments):
        capsys.readouterr()
        code = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # as outside of the tests: the command line prints them
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


@pytest.fixture(scope="session")
def measured_once(tmp_path_factory):
    """A file of results of the tiny checkpoint at POINT."""
    from gradlab.cli.main import main

    from .command_line import POINT, tiny

    folder = tmp_path_factory.mktemp("measured")
    tiny(folder / "tiny.safetensors")
    with contextlib.chdir(folder), contextlib.suppress(SystemExit):
        main(["bias", "tiny.safetensors", *POINT])
    return folder / "bias.h5"


@pytest.fixture
def results_at_point(measured_once, tmp_path):
    """A copy of it, bias.h5, as a Dataset."""
    import gradlab

    return gradlab.open_results(shutil.copy(measured_once, tmp_path))


@pytest.fixture
def checkpoint(tmp_path):
    from .command_line import tiny

    tiny(tmp_path / "tiny.safetensors")
    return "tiny.safetensors"


# the small training of several test files


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vae.safetensors"


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The small training, made without an interruption."""
    from . import small_trainings

    return small_trainings.train(tmp_path_factory.mktemp("unbroken") / "vae.safetensors")
