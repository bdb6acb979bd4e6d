"""Progress with the time left on standard error: a bar on a terminal, otherwise a line per minute."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from .terminal import visible

Advance = Callable[..., None]  # advance(steps, **figures to show)
EVERY = 60.0  # seconds between lines
PAUSE = 5.0  # maximal seconds between two bars of one measurement
_told, _ended = 0.0, -PAUSE  # time of the last line or of the start; end of the last bar
_before = ""  # what descriptions begin with


def duration(seconds: float) -> str:
    """A duration as text: "34 s", "12 min", "3.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def within() -> Iterator[None]:
    """In this block `say_before` puts words before all descriptions: which part of a whole is measured."""
    global _before
    before = _before
    try:
        yield
    finally:
        _before = before


def say_before(words: str) -> None:
    global _before
    _before = words


@contextlib.contextmanager
def bar(description: str, total: int, shown: bool, done: int = 0, time_left: bool = True) -> Iterator[Advance]:
    """Yields `advance(steps=1, **figures)`, which updates the display. Shows nothing unless `shown`.

    The time left is estimated from the last half minute. `time_left=False` omits it, for longer steps, and also the
    lines if standard error is not a terminal.
    """
    description = f"{_before}{description}"
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        if shown and time_left:
            with _lines(description, total, done) as advance:
                yield advance
        else:
            yield lambda steps=1, **figures: None
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
def _lines(description: str, total: int, done: int) -> Iterator[Advance]:
    """Prints one line per minute with the time left, starting after one minute."""
    global _told, _ended
    began = time.monotonic()
    if began - _ended > PAUSE:
        _told = began
    made = 0

    def advance(steps: int = 1, **figures: object) -> None:
        global _told
        nonlocal made
        made += steps
        now = time.monotonic()
        if now - _told < EVERY:
            return
        _told = now
        shown = "".join(f", {name} {value}" for name, value in figures.items())
        left = f", about {_minutes(max(0.0, (now - began) / made * (total - done - made)))} left" if made else ""
        share = f"{(done + made) / max(total, 1):.0%} after {_minutes(now - began)}"
        with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is closed
            line = f"gradlab: {description}: {share}{left}{shown}{_busy()}"
            print(visible(line), file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        _ended = time.monotonic()


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
