"""Temperature schedules: the temperature of a training as a function of its progress p in [0, 1].

    constant     a
    linear       (1 - p) a + p b
    exponential  a^(1-p) b^p                         equal factors over equal steps
    cosine       w a + (1 - w) b, w = (1 + cos pi p)/2   slow at both ends

Source: table 1 of the Decoupled ST-GS paper, which anneals both temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import errors

SHAPES = ("constant", "linear", "exponential", "cosine")
EXAMPLES = "a number such as 1.6, or a schedule START:END[:SHAPE] such as 1:0.3 or 1:0.3:cosine"


@dataclass(frozen=True)
class Schedule:
    """A temperature that goes from `start` to `end` and reaches both exactly. `parse` reads what `str` returns.

    Raises ValueError for temperatures that are not finite and above 0, an unknown shape, or shape "constant" with two
    different temperatures. If start = end, the shape becomes "constant".

    Examples
    --------
    >>> schedule = gradlab.schedules.Schedule(1.0, 0.3, "exponential")
    >>> str(schedule)
    '1:0.3:exponential'
    """

    start: float
    end: float
    shape: str = "linear"

    def __post_init__(self):
        start, end = errors.temperature("start", self.start), errors.temperature("end", self.end)
        shape = errors.choice("shape", self.shape, SHAPES)
        if shape == "constant" and start != end:
            raise ValueError(f"shape: expected linear, exponential or cosine from {start:g} to {end:g}, got constant")
        for name, value in {"start": start, "end": end, "shape": "constant" if start == end else shape}.items():
            object.__setattr__(self, name, value)

    def at(self, progress: float) -> float:
        """The temperature at `progress`, 0 at the start and 1 at the end. Raises ValueError for others."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress: expected a number from 0 to 1, got {progress!r}")
        if self.shape == "constant":
            return self.start
        if self.shape == "exponential":
            return self.start ** (1 - progress) * self.end**progress
        left = 1 - progress if self.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return left * self.start + (1 - left) * self.end

    def __str__(self) -> str:
        if self.shape == "constant":
            return _number(self.start)
        ends = f"{_number(self.start)}:{_number(self.end)}"
        return ends if self.shape == "linear" else f"{ends}:{self.shape}"


def parse(spec: object, argument: str = "schedule") -> Schedule:
    """A schedule from a number, "1.6", "1:0.3" (linear) or "1:0.3:exponential".

    Raises ValueError for anything else (UnknownName, a ValueError, for an unknown shape).

    Examples
    --------
    >>> gradlab.schedules.parse("1:0.3:exponential").end
    0.3
    """
    if isinstance(spec, Schedule):
        return spec
    if not isinstance(spec, str):
        value = errors.temperature(argument, spec)
        return Schedule(value, value)
    parts = [part.strip() for part in spec.split(":")]
    if len(parts) == 3 and parts[2].isdecimal():
        raise ValueError(f"{argument}: expected {EXAMPLES}, got {spec!r}, a grid of temperatures (start:stop:count)")
    try:
        ends = [errors.temperature(argument, float(part)) for part in parts[:2]]
    except ValueError:
        ends = []
    if not ends or len(parts) > 3:
        raise ValueError(f"{argument}: expected {EXAMPLES}, with finite temperatures above 0, got {spec!r}")
    shape = errors.choice(f"{argument}: shape", parts[2], SHAPES) if len(parts) == 3 else "linear"
    return Schedule(ends[0], ends[-1], shape)


def setting(argument: str, spec: object) -> float | str:
    """A schedule as stored in settings: a number for a constant temperature, a string for any other.

    Raises ValueError like `parse`.

    Examples
    --------
    >>> gradlab.schedules.setting("tf", "1.60"), gradlab.schedules.setting("tf", "1:0.30")
    (1.6, '1:0.3')
    """
    schedule = parse(spec, argument)
    return schedule.start if schedule.shape == "constant" else str(schedule)


def _number(value: float) -> str:
    """The shortest text that reads as the same float."""
    return repr(value).removesuffix(".0")
