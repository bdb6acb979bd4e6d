"""Kills a running sweep at random moments, lets it finish, and compares with an undisturbed run.

Moments are counted in what happens in the folder and not in seconds, so that they are spread over the sweep on machines
of any speed; a sweep that ends before its kill is compared too, and another one begun.

    python -m tests.kill_sweep [KILLS] [WORKERS]

30 kills with one worker by default. The tests do two of them, the deep ones 30.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from gradlab import training

from . import tiny_sweep

EPOCHS = 15
CHANGES = 600  # of the folder in an undisturbed sweep of that many epochs, about
# imports take seconds, a fork of a process that has them takes none
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([__name__, "torch._dynamo"])


class Sweep:
    """The tiny sweep in a process of its own, begun.

    `most_bytes` is the size no file may exceed; `trainings` a file that gets a line for each training begun or gone on
    with; after the step `stops_after` it stops (SIGSTOP), with the claim of its cell.
    """

    def __init__(
        self, folder: Path, most_bytes: int = 0, trainings: Path | None = None, stops_after: int = 0, **options: Any
    ):
        self._pipe, theirs = FORKED.Pipe()
        given = theirs, folder, most_bytes, trainings, stops_after, options
        self.process = FORKED.Process(target=_child, args=given)
        self.process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"
        if stops_after:
            assert self.result() == "stopping"  # nothing happens in the folder after that

    def signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def result(self, timeout: float = 300) -> str:
        """What the sweep came to: the number of cells done, or its error."""
        assert self._pipe.poll(timeout)
        return self._pipe.recv()

    def kill(self) -> bool:
        """SIGKILL; whether the sweep was under way."""
        self.process.kill()
        self.process.join()
        try:
            self._pipe.recv()
        except EOFError:
            return True
        return False


def _child(
    pipe: Connection, folder: Path, most_bytes: int, trainings: Path | None, stops_after: int, options: dict[str, Any]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as blocked where the fork server was started
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as elsewhere:
        tiny_sweep.sweep(elsewhere, **tiny_sweep.ONE, epochs=1)  # what is slow the first time
    if trainings:
        _write_down(trainings)
    if stops_after:
        _stop_after(stops_after, pipe)
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    pipe.send("ready")
    try:
        found = tiny_sweep.sweep(folder, **options)
        pipe.send(f"{int((found.status == 'done').sum())} done")
    except (KeyboardInterrupt, OSError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _write_down(trainings: Path) -> None:
    train = training.train

    def noted(settings, *given, **options):
        with open(trainings, "a") as file:
            file.write(f"{settings.tf} {settings.tb} {settings.seed}\n")
        return train(settings, *given, **options)

    training.train = noted  # type: ignore[assignment]


def _stop_after(steps: int, pipe: Connection) -> None:
    one_step, made = training.Run.one_step, itertools.count(1)

    def stopping(run, batch):
        one_step(run, batch)
        if next(made) == steps:
            pipe.send("stopping")
            os.kill(os.getpid(), signal.SIGSTOP)

    training.Run.one_step = stopping  # type: ignore[method-assign]


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def when(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """A thread that does `action` once `condition` holds."""
    thread = threading.Thread(target=lambda: (wait_for(condition), action()), daemon=True)
    thread.start()
    return thread


def claimed(folder: Path) -> list[Path]:
    """Locks that some process holds; kills leave files that none holds."""
    return [lock for lock in folder.glob("*.lock") if _is_held(lock)]


def _is_held(lock: Path) -> bool:
    try:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def files(folder: Path, ending: str) -> list[Path]:
    """Of cells, by what follows their names."""
    return list(folder.glob("?" * 32 + ending))


def survive(folder: Path, kills: int, most: int, **options: Any) -> tuple[list[xr.Dataset], list[str]]:
    """Sweeps, one after the other, killed so often while under way: what each came to, and what the kills left.

    Each kill comes after at most `most` changes of the folder, and a share of the time they took on average.
    """
    chance = random.Random(0)
    found, left = [], []
    place = folder / "0"
    while len(left) < kills:
        sweep = Sweep(place, **options)
        _watch(sweep, place, chance.randint(1, most), chance.random())
        if sweep.kill():
            left.append(_left(place))
        else:
            found.append(tiny_sweep.sweep(place, **options | {"workers": 1}))
            place = folder / str(len(found))
    return [*found, tiny_sweep.sweep(place, **options | {"workers": 1})], left


def _watch(sweep: Sweep, folder: Path, changes: int, share: float) -> None:
    """Returns after so many changes in the folder, and that share of the mean time between two; or when it ended."""
    began, before, seen = time.monotonic(), _content(folder), 0
    while seen < changes and sweep.process.is_alive():
        time.sleep(0.0005)
        if (now := _content(folder)) != before:
            before, seen = now, seen + 1
    time.sleep(share * (time.monotonic() - began) / changes)


def _content(folder: Path) -> set[tuple[str, int]]:
    """Names and times of files."""
    found = set()
    with contextlib.suppress(FileNotFoundError):  # no folder yet
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # gone since
                found.add((entry.name, entry.stat().st_mtime_ns))
    return found


def _left(folder: Path) -> str:
    begun = {"a state": ".resume.safetensors", "a model": ".safetensors"}
    there = next((what for what, ending in begun.items() if files(folder, ending)), "nothing")
    return f"{len(files(folder, '.h5'))} cells finished, of the next {there}"


def main(kills: int = 30, workers: int = 1) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as path:
        undisturbed = tiny_sweep.sweep(Path(path) / "undisturbed", epochs=EPOCHS)
        print(f"undisturbed: {undisturbed.status.size} cells", flush=True)
        folder = Path(path) / "killed"
        found, left = survive(folder, kills, max(1, 2 * CHANGES // kills), epochs=EPOCHS, workers=workers)
        for number, one in enumerate(left, 1):
            print(f"kill {number}: {one}")
        for number, one in enumerate(found):
            tiny_sweep.assert_same(one, undisturbed)
            assert tiny_sweep.leftovers(folder / str(number)) == []
    print(f"{len(left)} kills of {len(found)} sweeps under way: identical to the undisturbed one")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
