"""A Ctrl-C that comes once, as from a scheduler or a parent that ends, stops the work whatever Python drops."""

import contextlib
import os
import pickle
import signal
import time
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest

from gradlab import interrupts
from gradlab.sweeps import processes

from .forks import ended

PARTS = 40


class Destroyed:
    """Python drops what is raised in its destructor, where the signal comes."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


def in_a_destructor():
    Destroyed()


def caught_by_the_model():
    """As by a model's `except:`."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)


class Files:
    """The parts that were computed, as the folder of a job."""

    def __init__(self, path):
        self.path = path

    def finished(self, part):
        return (self.path / str(part)).exists()

    def claim(self, part):
        return contextlib.nullcontext()


class Interrupted:
    """A job whose parts take a moment; the signal comes once, in the first."""

    ensemble, cells = 1, range(PARTS)

    def __init__(self, path, comes):
        self.folder, self.comes = Files(path), comes

    def run(self, parts):
        if parts == [0]:
            self.comes()
        time.sleep(0.02)
        (self.folder.path / str(parts[0])).touch()


@pytest.mark.parametrize("comes", [in_a_destructor, caught_by_the_model])
def test_a_worker_stops_at_its_first_signal(tmp_path, comes):
    ours, theirs = Pipe()
    ours.send_bytes(pickle.dumps(Interrupted(tmp_path, comes)))
    assert ended(lambda: processes._main(theirs, 1)) == (0, "None")
    assert len(list(tmp_path.iterdir())) < PARTS


def test_what_else_is_dropped_goes_to_the_hook_before(monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    with interrupts.none_lost():
        import sys

        sys.unraisablehook(SimpleNamespace(exc_type=ZeroDivisionError))
    assert [one.exc_type for one in told] == [ZeroDivisionError]
    assert sys.unraisablehook == told.append


def test_none_comes_after_the_end(monkeypatch):
    """One that is dropped at the end of the block does not interrupt what follows."""
    monkeypatch.setattr(interrupts, "AGAIN", 0.05)
    with contextlib.suppress(KeyboardInterrupt), interrupts.none_lost():
        in_a_destructor()
    time.sleep(0.1)


def test_where_sigint_is_ignored_the_signal_that_has_a_handler_comes(monkeypatch):
    """As in a background job of a script, whose scheduler sends SIGTERM."""
    monkeypatch.setattr(interrupts, "AGAIN", 0.01)

    def stop(number, frame):
        raise KeyboardInterrupt

    class Terminated(Destroyed):
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass

    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, stop)
    started = time.monotonic()
    try:
        with contextlib.suppress(KeyboardInterrupt), interrupts.none_lost():
            Terminated()
            time.sleep(5)
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
