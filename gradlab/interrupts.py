"""Ctrl-C that is not lost: Python drops a KeyboardInterrupt that is raised in a destructor, such as a file's."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

AGAIN = 0.1  # seconds until a lost one comes again: the destructor has then returned


@contextlib.contextmanager
def none_lost() -> Iterator[None]:
    """In this block a KeyboardInterrupt that Python drops in the main thread comes again, until none is dropped.

    Python tells `sys.unraisablehook` of what it drops, and goes on as if there had been no Ctrl-C.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main or not hasattr(signal, "pthread_kill"):  # Windows
        yield
        return
    before, ended, sending = sys.unraisablehook, threading.Event(), threading.Lock()

    def again() -> None:
        ended.wait(AGAIN)
        with sending:
            if not ended.is_set() and main.ident is not None:
                signal.pthread_kill(main.ident, _raised_by())

    def hook(lost: Any) -> None:
        if lost.exc_type is not None and issubclass(lost.exc_type, KeyboardInterrupt):
            threading.Thread(target=again, name="gradlab interrupt", daemon=True).start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        with sending:
            ended.set()


def _raised_by() -> int:
    """The signal to send: SIGINT, or the one that has a handler where a shell's background job ignores SIGINT."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    return next((number for number in numbers if callable(signal.getsignal(number))), signal.SIGINT)


class Stop:
    """A handler of SIGINT. `check` stops what has caught the first KeyboardInterrupt, as a model's `except:` does."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, *given: object) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt
