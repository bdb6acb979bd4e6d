"""The progress of a sweep on standard error: a bar on a terminal, otherwise a line per finished cell."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from .. import errors
from ..progress import bar
from ..terminal import visible
from .cells import Cell, Temperature
from .folder import Folder, has_failed


class Watch:
    """Watches which cells of a sweep are finished, here or by other processes."""

    def __init__(self, folder: Folder, cells: list[Cell]):
        self._folder, self._waiting, self.total = folder, list(cells), len(cells)
        self._losses: dict[tuple[Temperature, Temperature], list[float]] = defaultdict(list)
        self.failed = 0
        for cell in self.new():
            self.take(cell)
        self._earlier, self._since = self.finished, time.monotonic()

    @property
    def finished(self) -> int:
        """The number of cells that are done or failed."""
        return self.total - len(self._waiting)

    def new(self) -> list[Cell]:
        """Finished cells that are not counted yet."""
        return [cell for cell in self._waiting if self._folder.finished(cell)]

    def take(self, cell: Cell) -> str:
        """Counts a finished cell and returns a line about its result."""
        self._waiting.remove(cell)
        with contextlib.suppress(errors.BadFile):  # damaged since then; reported when it is collected
            ds = self._folder.read(cell)
            if ds is not None and has_failed(ds):
                self.failed += 1
                return f"{cell}: failed ({ds.attrs['error']})"
            if ds is not None:
                loss = float(ds.validation_loss[-1])
                self._losses[cell.at[:2]].append(loss)
                return f"{cell}: validation loss {loss:.4g} after {ds.attrs['seconds']:.0f} s"
        return f"{cell}: finished"

    def figures(self) -> dict[str, str]:
        """The number of failed cells, the rate, the time left and the pair with the lowest mean loss, as strings."""
        shown = {"cells": f"{self.finished}/{self.total}", "failed": str(self.failed)}
        new, seconds = self.finished - self._earlier, time.monotonic() - self._since
        if new and seconds > 0:
            left = datetime.timedelta(seconds=round(seconds / new * len(self._waiting)))
            shown |= {"rate": f"{new / seconds * 3600:.3g}/h", "left": str(left)}
        if self._losses:
            means = {pair: sum(losses) / len(losses) for pair, losses in self._losses.items()}
            (tf, tb), loss = min(means.items(), key=lambda item: item[1])
            shown["best"] = f"{loss:.4g} at tf {tf}, tb {tb}"
        return shown


@contextlib.contextmanager
def display(watch: Watch, drawn: bool) -> Iterator[Callable[[], None]]:
    """Yields a function that updates the display when it is called. Shows nothing unless `drawn`."""
    lines = drawn and not sys.stderr.isatty()
    with bar("sweep", watch.total, drawn, done=watch.finished, time_left=False, long_steps=True) as advance:
        advance(0, **watch.figures())

        def after() -> None:
            for cell in watch.new():
                line = watch.take(cell)
                advance(1, **watch.figures())
                if lines:
                    print(visible(f"{watch.finished}/{watch.total} {line}"), file=sys.stderr)

        yield after
