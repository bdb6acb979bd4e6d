"""Progress with time left, on standard error, where that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[..., None]  # advance(steps, **figures to show)


@contextlib.contextmanager
def bar(description: str, total: int, shown: bool, done: int = 0, time_left: bool = True) -> Iterator[Advance]:
    """Yields `advance(steps=1, **figures)`. Draws nothing unless `shown` and standard error is a terminal.

    The time left is from the steps of the last half minute; `time_left=False` for longer ones leaves it out.
    """
    if not (shown and sys.stderr.isatty()):
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
        task = progress.add_task(description, total=total, completed=done, figures="")

        def advance(steps: int = 1, **figures: object) -> None:
            shown_figures = {"figures": "  ".join(f"{k} {v}" for k, v in figures.items())} if figures else {}
            progress.update(task, advance=steps, **shown_figures)  # type: ignore[arg-type]

        yield advance
