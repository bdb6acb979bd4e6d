"""Claims on cells: a claim is a file lock, which the system releases when the process dies.

A lock is a regular file that a claim makes and removes; anything else with its name is left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from .. import files


class NoLocks(OSError):
    """A folder without a lock service."""


class Claim:
    """A claim. It is released, and its file removed, at the end of a `with` block. Without a handle nothing is held."""

    def __init__(self, path: Path, handle: int | None):
        self._path, self._handle = path, handle

    def release(self) -> None:
        """Removes the file while the lock is held, so that no process locks a file that is about to be removed."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        if self._handle is not None:
            os.close(self._handle)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def claim(path: Path) -> Claim | None:
    """Locks the file at `path` and returns the Claim, or None if another thread or process holds it.

    Raises OSError if the file cannot be created, something other than a lock has its name, or the system has no locks,
    and NoLocks if the file system has none.
    """
    try:
        import fcntl
    except ImportError:
        fault = f"{path}: expected the file locks of Linux or macOS, got {sys.platform}; run this on WSL"
        raise OSError(fault) from None
    while True:
        files.check_own(path, "lock")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return Claim(path, handle)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
            reason = f"this folder allows no file locks ({error.strerror}); take one on a disk of this machine"
            raise NoLocks(error.errno, reason, str(path)) from None
        os.close(handle)  # the previous holder removed this file: try the new one


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block, so that no claim is lost between creating and storing it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda *given: came.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])


def _is_at(handle: int, path: Path) -> bool:
    try:
        status = os.fstat(handle)
        return stat.S_ISREG(status.st_mode) and os.path.samestat(status, path.lstat())
    except FileNotFoundError:
        return False
