"""A job on a Dask cluster: each cell is a task that works in a local folder of a worker and returns the files.

What cells share, images say, is sent once to every worker, also to those that join later. So a worker needs neither
the data set nor a shared disk. Claims are taken in the job's folder on this machine, so other calls on it share the
work.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import silence_logging_cmgr

from .. import __version__, errors, files, progress
from .claims import Claim, uninterrupted
from .queue import POLL, Cell, Job

ATTEMPTS = 5
AHEAD = 2  # tasks per thread of the cluster, so that no thread waits for its next one


class Shared(WorkerPlugin):
    """What the cells of a job share, stored by every worker."""

    def __init__(self, content: Any):
        self.content = content


def work_on_cluster(job: Job, address: str, after: Callable[[], None]) -> None:
    """Computes all cells on the cluster whose scheduler is at `address`.

    If a worker dies, another one runs its cell again. Raises ValueError for an invalid address, and OSError if the
    scheduler does not answer or no worker can run the remaining cells. Finished cells are kept.
    """
    try:
        distributed.comm.get_address_host_port(address)  # with an invalid address the client takes a minute to close
    except ValueError as error:
        raise ValueError(f"scheduler: expected an address like tcp://host:8786, got {address!r} ({error})") from None
    # Dask's own log tells of a lost connection in tracebacks; the error that is raised says it in a line
    with silence_logging_cmgr(logging.CRITICAL), contextlib.ExitStack() as closing:
        try:
            client = distributed.Client(address, set_as_default=False)
        except Exception as error:  # of several kinds, where the scheduler dies or is none
            raise OSError(f"scheduler: no answer from {address!r} ({_reason(error)})") from None
        closing.callback(_close, client)
        try:
            tasks = _Tasks(client, job)
        except Exception as error:  # likewise
            raise OSError(f"scheduler: connection to {address!r} lost while it began ({_reason(error)})") from None
        try:
            tasks.run(after)
        finally:
            tasks.end()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _close(client: distributed.Client) -> None:
    with contextlib.suppress(Exception):  # the scheduler may be gone, and this is no news
        client.close()


class _Tasks:
    """The cells that a cluster is computing."""

    def __init__(self, client: distributed.Client, job: Job):
        self.client, self.job = client, job
        self.key = f"gradlab-{uuid.uuid4().hex}"
        self.under_way: dict[Any, tuple[Cell, Claim]] = {}
        self.errors: dict[str, str] = {}  # by name of the cell
        self.shares: dict[str, float] = {}  # of cells under way, by name: how much is done
        self.changed = threading.Event()
        for attempt in range(ATTEMPTS):  # it fails for all if one worker dies meanwhile; the scheduler then drops that
            try:
                client.register_plugin(Shared(job.shared()), name=self.key)
                break
            except OSError:
                time.sleep(POLL)
                if client.status != "running" or attempt == ATTEMPTS - 1:
                    raise
        client.subscribe_topic(self.key, self._listen)
        if not client.nthreads():
            errors.warn("scheduler: no workers yet; waiting for them")

    def run(self, after: Callable[[], None]) -> None:
        while left := self._left():
            if self.client.status != "running":
                raise OSError("scheduler: connection lost; the same call continues with another scheduler")
            self._submit(left)
            self.changed.wait(POLL)
            self.changed.clear()
            for future in [future for future in self.under_way if future.done()]:
                self._take(future)
            progress.under_way(sum(self.shares.get(cell.name, 0.0) for cell, _ in list(self.under_way.values())))
            after()
        if self.errors:
            first = next(iter(self.errors.values()))
            raise OSError(f"{len(self.errors)} of {len(self.job.cells)} {self.job.of} did not run; {first}")

    def end(self) -> None:
        """Releases all claims. Cells that are under way end on their workers, and their results are dropped."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self.client.cancel(list(self.under_way), force=True)
            self.client.unregister_worker_plugin(self.key)
            self.client.unsubscribe_topic(self.key)
        for _, claim in self.under_way.values():
            claim.release()

    def _listen(self, event: tuple[float, Any]) -> None:
        """Stores how much of a cell is done, as its worker says."""
        name, share = event[1]
        self.shares[str(name)] = float(share)

    def _left(self) -> list[Cell]:
        return [c for c in self.job.cells if c.name not in self.errors and not self.job.folder.finished(c)]

    def _submit(self, left: list[Cell]) -> None:
        """Submits enough cells to keep the cluster busy: each claim keeps a file open, and other sweeps need cells."""
        most = AHEAD * max(1, sum(self.client.nthreads().values()))
        there = {cell.name for cell, _ in self.under_way.values()}
        for cell in left:
            if len(self.under_way) >= most:
                return
            if cell.name in there:
                continue
            with uninterrupted():
                future = self._submit_one(cell)
            if future is not None:
                future.add_done_callback(lambda _: self.changed.set())

    def _submit_one(self, cell: Cell) -> Any:
        """Submits a cell. Returns its future, or None if the cell is finished or claimed by others."""
        if (held := self.job.folder.claim(cell)) is None:
            return None
        if self.job.folder.finished(cell):  # finished between the check and the claim
            held.release()
            return None
        given = (self.key, cell.name, cell.version, *self.job.task(cell))
        future = self.client.submit(run_task, *given, key=f"{self.key}-{cell.name}-{uuid.uuid4().hex}", pure=False)
        self.under_way[future] = cell, held
        return future

    def _take(self, future: Any) -> None:
        """Writes the files of a finished task or stores its error. A task that the cluster lost is submitted again."""
        cell, claim = self.under_way.pop(future)
        self.shares.pop(cell.name, None)
        with claim:
            if future.status == "finished":
                self._write(cell, future.result())
            elif future.status == "error":
                self.errors[cell.name] = f"{cell}: {future.exception()}"

    def _write(self, cell: Cell, content: dict[str, bytes]) -> None:
        """Writes the files of a worker, the file of the cell last. Raises BadFile if it is not the requested cell."""
        folder = self.job.folder
        own = folder.file(cell).name
        if own not in content:
            raise errors.BadFile(f"{cell}: expected {own} from the worker, got {sorted(content) or 'nothing'}")
        for name in sorted(content, key=lambda name: name == own):
            files.check_own(folder.path / name, "file")
            with files.written_aside(folder.path / name) as aside:
                aside.write_bytes(content[name])
        folder.read(cell)


def run_task(
    key: str, name: str, version: str, compute: Callable[..., None], arguments: tuple[Any, ...]
) -> dict[str, bytes]:
    """Computes a cell on a worker and returns its files by name. Tells the client meanwhile how much is done."""
    if version != __version__:
        raise RuntimeError(f"gradlab: expected version {version}, that of the job, on the worker, got {__version__}")
    worker = distributed.get_worker()
    shared: Any = worker.plugins[key]
    progress.pass_shares_to(lambda share: worker.log_event(key, [name, share]))
    try:
        with tempfile.TemporaryDirectory(dir=worker.local_directory) as path:
            compute(path, shared.content, *arguments)
            return {file.name: file.read_bytes() for file in Path(path).iterdir()}
    finally:
        progress.pass_shares_to(None)
