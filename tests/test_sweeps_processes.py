"""Sweeps killed, interrupted, on a full disk, and several on one folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradlab import sweeps

from .kill_sweep import Sweep, claimed, files, survive, wait_for, when
from .tiny_sweep import assert_same, cells, leftovers, sweep

EPOCHS = 4  # one more than in other tests, so that there is something to interrupt
FOREVER = 100_000


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    ds = sweep(tmp_path_factory.mktemp("undisturbed"), epochs=EPOCHS)
    assert (ds.status == "done").all()
    return ds


# --- kills ---


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.deep)])
def test_a_sweep_killed_at_random_moments_ends_as_an_undisturbed_one(undisturbed, tmp_path, kills):
    found, left = survive(tmp_path, kills, 60, epochs=EPOCHS)
    assert len(left) == kills
    for number, one in enumerate(found):
        assert_same(one, undisturbed)
        assert leftovers(tmp_path / str(number)) == []


@pytest.mark.deep
def test_a_sweep_that_ends_before_its_kill_does_not_count_as_killed(tmp_path):
    sweep = Sweep(tmp_path, epochs=1)
    assert sweep.result() == "12 done"
    again = Sweep(tmp_path, epochs=1)
    wait_for(lambda: not again.process.is_alive())
    assert not again.kill()


def test_ctrl_c_writes_the_state_and_says_how_to_go_on(tmp_path):
    other = Sweep(tmp_path, epochs=FOREVER)
    wait_for(lambda: files(tmp_path, ".resume.safetensors"))
    other.signal(signal.SIGINT)
    assert (
        other.result() == "KeyboardInterrupt: interrupted; 0 of 12 cells are finished, and the same command continues"
    )
    assert leftovers(tmp_path) == [path.name for path in files(tmp_path, ".resume.safetensors")]


# --- several sweeps on one folder ---


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.deep)])
def test_sweeps_at_once_train_every_cell_exactly_once(undisturbed, tmp_path, count):
    side, folder = tmp_path / "trainings", tmp_path / "shared"
    several = [Sweep(folder, trainings=side, epochs=EPOCHS) for _ in range(count)]
    assert [one.result() for one in several] == ["12 done"] * count
    begun = side.read_text().splitlines()
    assert sorted(begun) == sorted("{} {} {}".format(*cell.at) for cell in cells())
    assert leftovers(folder) == []
    assert_same(sweeps.collect(folder), undisturbed)


def test_a_sweep_waits_for_cells_that_another_trains_and_takes_them_if_it_dies(undisturbed, tmp_path):
    """The other one is stopped with its claim held, then killed."""
    other = Sweep(tmp_path, epochs=EPOCHS, stops_after=10)
    try:
        (lock,) = claimed(tmp_path)
        there = len(files(tmp_path, ".h5"))
        when(lambda: len(files(tmp_path, ".h5")) == 11, other.kill)
        found = sweep(tmp_path, epochs=EPOCHS)
    finally:
        other.kill()
    assert there == 0
    assert (tmp_path / f"{lock.stem}.h5").is_file()
    assert_same(found, undisturbed)
    assert leftovers(tmp_path) == []


def test_what_another_is_working_on_is_not_tidied_away(tmp_path):
    other = Sweep(tmp_path, epochs=FOREVER, stops_after=10)
    try:
        assert files(tmp_path, ".resume.safetensors")
        (lock,) = claimed(tmp_path)
        there = leftovers(tmp_path)
        tf, tb, seed = next(cell.at for cell in cells() if (cell.settings.tf, cell.settings.tb) == (1.6, 3.0))
        sweep(tmp_path, tf=tf, tb=tb, seeds=[seed])
        assert leftovers(tmp_path) == there
        assert claimed(tmp_path) == [lock]
    finally:
        other.kill()


# --- a full disk ---


@pytest.mark.parametrize(("most_bytes", "kept"), [pytest.param(2000, 0, marks=pytest.mark.deep), (11_000, 1)])
def test_a_write_that_the_system_refuses_is_named_and_loses_nothing(undisturbed, tmp_path, most_bytes, kept):
    """A limit on file sizes fails as a full disk does: at the first state, or at the cell's file."""
    told = Sweep(tmp_path, most_bytes=most_bytes, epochs=EPOCHS).result()
    assert told.startswith("OSError: ")
    assert "File too large" in told
    assert str(tmp_path) in told
    assert len(leftovers(tmp_path)) == len(files(tmp_path, ".safetensors")) == kept
    assert_same(sweep(tmp_path, epochs=EPOCHS), undisturbed)
    assert leftovers(tmp_path) == []


SCRIPT = """
from pathlib import Path
from tests import tiny_sweep
tiny_sweep.sweep(Path(__file__).parent / "cells", workers=2)
"""


@pytest.mark.deep
def test_a_script_without_a_main_guard_is_told_the_cure(tmp_path):
    """One line, and no tracebacks of the workers, which run the script from its beginning."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "put the call under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]
