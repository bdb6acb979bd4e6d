"""When to measure, so that all measurements together take at most a share of the wall time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_CAREFUL = 1.25  # times the longest of the latest measurements: what the next is expected to take
_LATEST = 3


class Budget:
    """The time a monitor took, and the first step at which it may take more.

    The first measurement is made at once: it shows that all fits together. Its time counts, and later ones wait until
    the share of all time taken, the next one included, is below `share`. They are made at multiples of `base` steps,
    which lengthen to `every` where a measurement is long beside that many steps.
    """

    def __init__(self, share: float, base: int, clock: Callable[[], float] = time.perf_counter):
        self.share, self.base, self.every, self.clock = share, base, base, clock
        self.due = 0  # the step
        self._begun = self._ended = math.nan
        self._first: int | None = None  # step
        self._spent = 0.0
        self._costs: list[float] = []

    @property
    def overhead(self) -> float:
        """The time taken over all time, from the beginning of the first step to the end of the last; 0 before it."""
        elapsed = self._ended - self._begun
        return self._spent / elapsed if elapsed > 0 else 0.0

    @property
    def begun(self) -> bool:
        return self._first is not None

    def begin(self, step: int, now: float) -> None:
        """Called at each step, with the time at which the monitor was called."""
        if self._first is None:
            self._first, self._begun = step, now

    def waited(self, seconds: float) -> None:
        """For what the training had left to do: it is none of the monitor's time."""
        self._spent -= seconds

    def end(self, began: float) -> None:
        """Called last at each step."""
        self._ended = self.clock()
        self._spent += self._ended - began

    def allows(self, step: int, now: float) -> bool:
        """Whether a measurement is due at this step and is expected to keep below the share; puts it off if not."""
        if step < self.due or not self.share:
            return False
        cost = _CAREFUL * max(self._costs[-_LATEST:], default=0.0)
        if self._spent + cost <= self.share * (now - self._begun + cost) or not self._costs:
            return True
        self.due = step + self.base
        return False

    def measured(self, step: int, began: float) -> None:
        """Called after a measurement: when the next is due."""
        now = self.clock()
        self._costs.append(now - began)
        if len(self._costs) == 2:  # the first loads and compiles, so the second tells what they take
            del self._costs[0]
        ahead = step - (step if self._first is None else self._first)
        if ahead > 0 and self.share < 1:
            pace = max((began - self._begun - self._spent) / ahead, 1e-9)  # seconds of the training between two steps
            apart = max(self._costs[-_LATEST:]) * (1 - self.share) / (self.share * pace)
            self.every = self.base * max(1, math.ceil(min(apart, 1e15) / self.base))
        self.due = step + self.every
