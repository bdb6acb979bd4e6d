"""Kills a running sweep at random moments, lets it finish, and compares with an undisturbed run.

    python -m tests.kill_sweep [KILLS] [WORKERS]

30 kills with one worker by default. The tests do a handful of them.
"""

from __future__ import annotations

import fcntl
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
# imports take seconds, a fork of a process that has them takes none
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([__name__, "torch._dynamo"])


class Sweep:
    """The tiny sweep in a process of its own, begun.

    `most_bytes` is the size no file may exceed; `trainings` a file that gets a line for each training begun or gone on
    with.
    """

    def __init__(self, folder: Path, most_bytes: int = 0, trainings: Path | None = None, **options: Any):
        self._pipe, theirs = FORKED.Pipe()
        self.process = FORKED.Process(target=_child, args=(theirs, folder, most_bytes, trainings, options))
        self.process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def result(self, timeout: float = 60) -> str:
        """What the sweep came to: the number of cells done, or its error."""
        assert self._pipe.poll(timeout)
        return self._pipe.recv()

    def kill(self) -> bool:
        """SIGKILL; whether it was still running."""
        running = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return running


def _child(pipe: Connection, folder: Path, most_bytes: int, trainings: Path | None, options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as elsewhere:
        tiny_sweep.sweep(elsewhere, **tiny_sweep.ONE, epochs=1)  # what is slow the first time
    if trainings:
        _write_down(trainings)
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


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
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


def survive(folder: Path, kills: int, longest: float, seed: int = 0, **options: Any) -> tuple[xr.Dataset, list[str]]:
    """The sweep after so many kills, each within `longest` seconds of the first claim, and what they left."""
    moments = random.Random(seed)
    left = []
    for _ in range(kills):
        sweep = Sweep(folder, **options)
        while sweep.process.is_alive() and not claimed(folder):
            time.sleep(0.001)
        moment = moments.uniform(0, longest)
        time.sleep(moment)
        if sweep.kill():
            endings = {"a state": ".resume.safetensors", "a model": ".safetensors", "nothing": ""}
            begun = next(what for what, ending in endings.items() if not ending or files(folder, ending))
            left.append(f"killed after {moment:.3f} s: {len(files(folder, '.h5'))} cells finished, of the next {begun}")
    return tiny_sweep.sweep(folder, **options | {"workers": 1}), left


def main(kills: int = 30, workers: int = 1) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as path:
        tiny_sweep.sweep(Path(path) / "imports", **tiny_sweep.ONE)
        started = time.monotonic()
        undisturbed = tiny_sweep.sweep(Path(path) / "undisturbed", epochs=EPOCHS)
        seconds = time.monotonic() - started
        print(f"undisturbed: {undisturbed.status.size} cells in {seconds:.1f} s", flush=True)
        folder = Path(path) / "killed"
        longest = 1.2 * seconds / kills if workers == 1 else 5.0  # workers are slow at their first steps
        found, left = survive(folder, kills, longest, epochs=EPOCHS, workers=workers)
        print(*left, sep="\n")
        tiny_sweep.assert_same(found, undisturbed)
        assert tiny_sweep.leftovers(folder) == []
    print(
        f"{len(left)} kills of a sweep under way, {kills - len(left)} after its end: identical to the undisturbed run"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
