"""Several worker processes on one machine, which claim cells like any other process on the folder."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from .. import errors, interrupts, progress
from .claims import uninterrupted
from .queue import POLL, Job, work

SPAWN = multiprocessing.get_context("spawn")
NO_GUARD = 78  # exit code of a worker that ran the caller's script from its beginning


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    error: OSError | RuntimeError | None = None
    share: float = 0.0  # of what it computes now


def work_in_processes(job: Job, count: int, after: Callable[[], None]) -> None:
    """Trains all cells in `count` processes, which share torch's threads and use one GPU each if there are several.

    If a worker dies, a warning names it and the others take its cell. If all workers die before the end, raises the
    error of the first. Raises KeyboardInterrupt after all workers have written their states.
    """
    end_within_import()
    threads = max(1, torch.get_num_threads() // count)
    with _all_stopped_at_the_end() as workers:
        for index in range(count):
            workers.append(_start(threads))
            workers[-1].process.name = f"worker {index + 1} of {count}"
        for index, worker in enumerate(workers):
            with contextlib.suppress(BrokenPipeError):  # the worker died; handled below
                worker.pipe.send_bytes(pickle.dumps(job.in_worker(index)))
        running = list(workers)
        while running:
            wait([thing for worker in running for thing in (worker.pipe, worker.process.sentinel)], POLL)
            with uninterrupted():  # Python drops a KeyboardInterrupt that is raised in a destructor, as of a file read
                for worker in running:
                    _listen(worker)
                progress.under_way(sum(worker.share for worker in running))
                after()
            running = [worker for worker in running if worker.process.is_alive()]
        for worker in workers:
            _listen(worker)
    _account_for_deaths(job, workers)


def end_within_import() -> None:
    """Ends a worker process that runs the caller's script instead of importing it; the parent says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(NO_GUARD)


def place(device: str, index: int = 0) -> str:
    """The device of a worker, of those that `chosen` returns. Several GPUs are used in turn."""
    device = chosen(device)
    count = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{index % count}" if count > 1 else device


def chosen(device: str) -> str:
    """The device, where "auto" is a GPU if there is one, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _start(threads: int) -> _Worker:
    """A process that waits for its job. It blocks SIGINT until it is in another process group than the terminal."""
    ours, theirs = SPAWN.Pipe()
    resource_tracker.ensure_running()  # otherwise Process.start does it and unblocks SIGINT
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = SPAWN.Process(target=_main, args=(theirs, threads))
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
    theirs.close()
    return _Worker(process, ours)


def _main(pipe: Connection, threads: int) -> None:
    """The main function of a worker."""
    sys.stdout = sys.stderr  # models of the user may print, and standard output is for results
    os.setpgrp()  # Ctrl-C of a terminal reaches only the parent, which passes it on once
    torch.set_num_threads(threads)
    warnings.showwarning = lambda message, *_: pipe.send(str(message))
    progress.pass_shares_to(functools.partial(_send, pipe))
    try:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # a scheduler sends them to all; the parent passes them on once
            signal.signal(number, signal.SIG_IGN)
        stop = interrupts.Stop()
        signal.signal(signal.SIGINT, stop)  # also where the shell of a background job has it ignored
        with interrupts.none_lost():  # it comes once
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            threading.Thread(target=_stop_with_parent, daemon=True).start()
            work(pickle.loads(pipe.recv_bytes()), stop.check)
    except (KeyboardInterrupt, EOFError):
        pass
    except Exception as error:
        text = str(error) or type(error).__name__
        kept: Exception = (
            OSError(text) if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__}: {text}")
        )
        kept.add_note(traceback.format_exc())
        pipe.send(kept)


def _send(pipe: Connection, share: float) -> None:
    with contextlib.suppress(OSError):  # the parent has ended, and soon this process too
        pipe.send(share)


def _stop_with_parent() -> None:
    """Stops the worker, as Ctrl-C does, when its parent ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)


def _listen(worker: _Worker) -> None:
    """Repeats the warnings of a worker, stores its error and how far it is."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        while worker.pipe.poll():
            said = worker.pipe.recv()
            if isinstance(said, Exception):
                worker.error = said  # type: ignore[assignment]
            elif isinstance(said, float):
                worker.share = said
            else:
                errors.warn(said)


def _account_for_deaths(job: Job, workers: list[_Worker]) -> None:
    """Warns of workers that died. Raises an error if unfinished cells are left."""
    dead = [worker for worker in workers if worker.error or worker.process.exitcode != 0]
    if not all(job.folder.finished(cell) for cell in job.cells):
        first = next((worker.error for worker in dead if worker.error), None)
        if {worker.process.exitcode for worker in workers} == {NO_GUARD}:
            raise RuntimeError(
                "workers: expected a script that runs only its own part, got one that each worker runs from its"
                " beginning; put the call under `if __name__ == '__main__':`"
            )
        codes = ", ".join(sorted({str(worker.process.exitcode) for worker in workers}))
        raise first or ChildProcessError(
            f"workers: all died (exit codes {codes}); the same call continues the {job.called}"
        )
    for worker in dead:
        reason = worker.error or f"exit code {worker.process.exitcode}"
        errors.warn(f"{worker.process.name} died ({reason}); the other workers continue")


@contextlib.contextmanager
def _all_stopped_at_the_end() -> Iterator[list[_Worker]]:
    """Yields a list of workers. At the end they are stopped and joined; a second Ctrl-C kills them."""
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
