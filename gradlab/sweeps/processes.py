"""Several workers on one machine: processes that pull cells by the same claims as any other sweep on the folder."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from .folder import Folder
from .queue import POLL, Job, work

SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    error: OSError | RuntimeError | None = None


def work_in_processes(job: Job, count: int, after: Callable[[], None]) -> None:
    """Train all cells on `count` processes, which share torch's threads and take a GPU each where there are several.

    A worker that dies is named in a warning, and its cell goes to the others. Raises its error if no worker is left
    and cells are; KeyboardInterrupt once all workers have written their states.
    """
    threads = max(1, torch.get_num_threads() // count)
    with _all_stopped_at_the_end() as workers:
        for index in range(count):
            workers.append(_start(threads))
            workers[-1].process.name = f"worker {index + 1} of {count}"
        for index, worker in enumerate(workers):
            with contextlib.suppress(BrokenPipeError):  # it died: seen below
                own = replace(job, folder=Folder(job.folder.path), device=place(job.device, index))
                worker.pipe.send_bytes(pickle.dumps(own))
        running = list(workers)
        while running:
            wait([thing for worker in running for thing in (worker.pipe, worker.process.sentinel)], POLL)
            for worker in running:
                _listen(worker)
            after()
            running = [worker for worker in running if worker.process.is_alive()]
        for worker in workers:
            _listen(worker)
    _account_for_deaths(job, workers)


def place(device: str, index: int = 0) -> str:
    """The device of a worker: "auto" is a GPU where there is one, else the CPU; of several GPUs each in turn."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{index % count}" if count > 1 else device


def _start(threads: int) -> _Worker:
    """A process that waits for its job. SIGINT is held back in it until it can be told from a terminal's."""
    ours, theirs = SPAWN.Pipe()
    resource_tracker.ensure_running()  # which Process.start would do, and let SIGINT through again
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = SPAWN.Process(target=_main, args=(theirs, threads))
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
    theirs.close()
    return _Worker(process, ours)


def _main(pipe: Connection, threads: int) -> None:
    """The life of a worker."""
    os.setpgrp()  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
    torch.set_num_threads(threads)
    warnings.showwarning = lambda message, *_: pipe.send(str(message))
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        work(pickle.loads(pipe.recv_bytes()))
    except (KeyboardInterrupt, EOFError):
        pass
    except Exception as error:
        text = str(error) or type(error).__name__
        kept: Exception = (
            OSError(text) if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__}: {text}")
        )
        kept.add_note(traceback.format_exc())
        pipe.send(kept)


def _stop_with_parent() -> None:
    """As on Ctrl-C when the parent is gone: nobody would see what comes of it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)


def _listen(worker: _Worker) -> None:
    """Pass on a worker's warnings, keep its error."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        while worker.pipe.poll():
            said = worker.pipe.recv()
            if isinstance(said, Exception):
                worker.error = said  # type: ignore[assignment]
            else:
                warnings.warn(said, stacklevel=2)


def _account_for_deaths(job: Job, workers: list[_Worker]) -> None:
    """Warn of workers that died; raise if cells are left that nobody trains any more."""
    dead = [worker for worker in workers if worker.error or worker.process.exitcode != 0]
    if not all(job.folder.finished(cell) for cell in job.cells):
        first = next((worker.error for worker in dead if worker.error), None)
        codes = ", ".join(sorted({str(worker.process.exitcode) for worker in workers}))
        raise first or ChildProcessError(f"workers: all died (exit codes {codes}); the same call continues the sweep")
    for worker in dead:
        reason = worker.error or f"exit code {worker.process.exitcode}"
        warnings.warn(f"{worker.process.name} died ({reason}); the other workers continue", stacklevel=3)


@contextlib.contextmanager
def _all_stopped_at_the_end() -> Iterator[list[_Worker]]:
    """A list of workers; on the way out they are told to stop and waited for, at a second Ctrl-C killed."""
    workers: list[_Worker] = []
    try:
        yield workers
    finally:
        try:
            for worker in workers:
                if worker.process.is_alive() and worker.process.pid:
                    os.kill(worker.process.pid, signal.SIGINT)
            for worker in workers:
                worker.process.join()
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.kill()
            raise
        finally:
            for worker in workers:
                worker.pipe.close()
