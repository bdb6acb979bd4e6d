"""Progress with the time left on standard error: a bar on a terminal, otherwise a line per minute."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from .terminal import visible

Advance = Callable[..., None]  # advance(steps, **figures to show)
EVERY = 60.0  # seconds between lines
PAUSE = 5.0  # maximal seconds between two bars of one measurement
SHARE_EVERY = 1.0  # seconds between two shares that a bar without display passes on
JOIN = 1.0  # seconds that the thread of the lines gets to end; standard error may be a pipe that is not read
_told, _ended = 0.0, -PAUSE  # time of the last line or of the start; end of the last bar
_telling = threading.Lock()
_open: list[_Count] = []  # what is under way, of all threads, the innermost last
_opening = threading.Lock()  # of _open and _teller
_teller: _Teller | None = None  # prints lines while anything is under way


class _OfThread(threading.local):
    """What a thread measures: threads of one process, of a cluster's worker say, measure independently."""

    before = ""  # what descriptions begin with
    take: Callable[[float], None] | None = None  # gets the share of a step that bars without display have done
    bars = 0  # of those, the number that ended in the present step


_here = _OfThread()


def duration(seconds: float) -> str:
    """A duration as text: "34 s", "12 min", "3.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def within() -> Iterator[None]:
    """In this block `say_before` puts words before all descriptions: which part of a whole is measured."""
    before = _here.before
    try:
        yield
    finally:
        _here.before = before


def say_before(words: str) -> None:
    _here.before = words


def pass_shares_to(take: Callable[[float], None] | None) -> None:
    """From now on bars of this thread that are not displayed call `take` with the share of a step that is done."""
    _here.take, _here.bars = take, 0


def step_ends() -> None:
    """Tells that what bars without display have done is a whole step: they begin the next one."""
    _here.bars = 0
    if _here.take is not None:
        _here.take(0.0)


def under_way(share: float) -> None:
    """Tells what this thread counts that this fraction of a step is done, or of several that run at once."""
    with _opening:
        own = [count for count in _open if count.thread == threading.get_ident()]
    if own:
        own[-1].share = share


@contextlib.contextmanager
def bar(
    description: str,
    total: int,
    shown: bool,
    done: int = 0,
    *,
    time_left: bool = True,
    long_steps: bool = False,
    pieces: int | None = None,
) -> Iterator[Advance]:
    """Yields `advance(steps=1, **figures)`, which updates the display. Shows nothing unless `shown`.

    The time left is estimated from the last half minute; `time_left=False` omits it on a terminal. With `long_steps`,
    bars within a step, which are not shown, say how much of it is done: one with `pieces` is that many whole steps; of
    the others, whose number is not known, each counts as half of what is left.
    """
    description = f"{_here.before}{description}"
    if not shown:
        with _passing_on(total, done, pieces) as advance:
            yield advance
        return
    if not _on_terminal():
        with _lines(_Count(description, total, done), long_steps) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        *([TextColumn("left"), TimeRemainingColumn()] if time_left else []),
        TextColumn("{task.fields[figures]}"),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(visible(description), total=total, completed=done, figures="")

        def advance(steps: int = 1, **figures: object) -> None:
            shown_figures = {"figures": visible("  ".join(f"{k} {v}" for k, v in figures.items()))} if figures else {}
            progress.update(task, advance=steps, **shown_figures)  # type: ignore[arg-type]

        yield advance


@contextlib.contextmanager
def running(words: str) -> Iterator[None]:
    """In this block a line per minute says that `words` is running, unless a bar says more or there is a terminal."""
    if _on_terminal():
        yield
        return
    with _lines(_Count(words, 0, 0)):
        yield


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class _Count:
    """Steps done, and since when."""

    def __init__(self, description: str, total: int, done: int):
        self.description, self.total, self.done = description, total, done
        self.began, self.made, self.share, self.figures = time.monotonic(), 0.0, 0.0, ""
        self.thread = threading.get_ident()

    def line(self, now: float) -> str:
        passed = now - self.began
        if not self.total:
            return f"{self.description}: running for {_minutes(passed)}{_busy()}"
        made = min(self.made + self.share, self.total - self.done)
        left = f", about {_minutes(passed / made * (self.total - self.done - made))} left" if made > 0 else ""
        share = f"{(self.done + made) / self.total:.0%} after {_minutes(passed)}"
        return f"{self.description}: {share}{left}{self.figures}{_busy()}"


@contextlib.contextmanager
def _lines(count: _Count, long_steps: bool = False) -> Iterator[Advance]:
    """Prints one line per minute with the time left, starting after one minute. A thread does so in long steps."""
    global _told, _ended
    if not _open and count.began - _ended > PAUSE:
        _told = count.began
    before = _here.take

    def advance(steps: int = 1, **figures: object) -> None:
        count.made += steps
        if figures:
            count.figures = "".join(f", {name} {value}" for name, value in figures.items() if name != "left")
        _tell_if_due()

    try:
        _opened(count)
        if long_steps:
            pass_shares_to(lambda share: setattr(count, "share", share))
        yield advance
    finally:
        _closed(count)
        if long_steps:
            pass_shares_to(before)
        _ended = time.monotonic()


def _opened(count: _Count) -> None:
    global _teller
    with _opening:
        _open.append(count)
        if _teller is None:
            _teller = _Teller()  # first known, then started: Ctrl-C may come while it starts
            _teller.start()


def _closed(count: _Count) -> None:
    """The thread of the lines ends with the last measurement of all threads."""
    global _teller
    with _opening:
        if count in _open:  # no Ctrl-C came while it was opened
            _open.remove(count)
        last, _teller = (None, _teller) if _open else (_teller, None)
    if last is not None:
        last.end()


class _Teller:
    """A thread that prints lines in steps of more than a minute."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="gradlab progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _tell(self) -> None:
        while not self._over.wait(max(0.05, EVERY - (time.monotonic() - _told))):
            _tell_if_due()

    def end(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(JOIN)


def _tell_if_due() -> None:
    """Prints a line about the innermost measurement if the last one is a minute old."""
    global _told
    now = time.monotonic()
    if now - _told < EVERY or not _telling.acquire(blocking=False):
        return
    try:
        with contextlib.suppress(OSError, ValueError, AttributeError, IndexError):  # standard error is closed; the end
            line = _open[-1].line(now)
            _told = now
            print(visible(f"gradlab: {line}"), file=sys.stderr, flush=True)
    finally:
        _telling.release()


@contextlib.contextmanager
def _passing_on(total: int, done: int, pieces: int | None) -> Iterator[Advance]:
    """Passes the share of the outermost bar that is not displayed on, once a second at most."""
    take, _here.take = _here.take, None
    if take is None:
        yield lambda steps=1, **figures: None
        return
    made, last, ended = float(done), time.monotonic(), _here.bars

    def share(of_bar: float) -> float:
        return pieces * of_bar if pieces else 1 - 0.5**ended * (1 - of_bar / 2)

    def advance(steps: int = 1, **figures: object) -> None:
        nonlocal made, last
        made += steps
        now = time.monotonic()
        if now - last >= SHARE_EVERY:
            last = now
            take(share(min(1.0, made / max(total, 1))))

    try:
        yield advance
    finally:
        take(share(1.0))
        _here.take, _here.bars = take, ended + 1


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _busy() -> str:
    """Advice if other programs keep the cores busy: then torch's threads wait for each other and waste CPU time."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # unknown on Windows
    if load < 1.5 * cores + 0.5 or "OMP_NUM_THREADS" in os.environ:
        return ""
    return f" (load {load:.1f} on {cores} cores: OMP_NUM_THREADS=1 may be faster)"
