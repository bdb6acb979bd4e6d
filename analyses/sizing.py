"""The time of trainings, and the number of seeds that fits into a given time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradlab.datasets import Images
from gradlab.training import Settings, most_together, step_seconds

Cost = Callable[[int], float]  # number of trainings -> seconds of one step of all of them
MOST_SEEDS = 1000
MANY = 150  # trainings that are timed on a GPU, if they fit in its memory


@dataclass(frozen=True)
class Plan:
    """Trainings of `pairs` pairs with `seeds` seeds, which take `seconds`."""

    pairs: int
    seeds: int
    steps: int  # of each training
    seconds: float
    asked: int  # seeds
    seconds_asked: float
    limit: float | None  # seconds given

    def __str__(self) -> str:
        text = f"{counted(self.pairs, self.seeds)} of {self.steps:,} steps take about {duration(self.seconds)}"
        if self.limit is None:
            return text
        text += f", in the {duration(self.limit)} given" if self.seconds <= self.limit else ""
        if self.seconds > self.limit:
            text += f"; not even one seed fits into the {duration(self.limit)} given"
        if self.seeds < self.asked:
            text += f"; the {_seeds(self.asked)} asked for take about {duration(self.seconds_asked)}"
        return text


def plan(pairs: int, steps: int, cost: Cost, asked: int, limit: float | None) -> Plan:
    """A plan with the largest number of seeds that fits into `limit` seconds (at least one), or with `asked` seeds."""

    def seconds(seeds: int) -> float:
        return steps * cost(pairs * seeds)

    seeds = asked
    if limit is not None:
        seeds = 1
        while seeds < MOST_SEEDS and seconds(seeds + 1) <= limit:
            seeds += 1
    return Plan(pairs, seeds, steps, seconds(seeds), asked, seconds(asked), limit)


def measured(
    settings: Sequence[Settings], images: Images, validation: Images, device: str, workers: int, tf32: bool
) -> Cost:
    """The cost of these trainings, measured with some steps.

    On a CPU it is proportional to their number. On a GPU it is a + b times their number, from MANY and a third of MANY.
    """

    def seconds(count: int) -> float:
        repeated = [settings[i % len(settings)] for i in range(count)]
        return step_seconds(repeated, images, validation, device, tf32)

    if not device.startswith("cuda"):
        each = seconds(1)
        return lambda trainings: trainings * each / workers
    many = min(MANY, most_together(settings[0], images, validation, device))
    few = -(-many // 3)
    of_few, of_many = seconds(few), seconds(many)
    slope = max(of_many - of_few, 0.0) / (many - few) if many > few else of_few
    fixed = max(of_few - few * slope, 0.0)
    return lambda trainings: fixed + trainings * slope / workers


def duration(seconds: float) -> str:
    """A duration as text: 1:23:45 h, 12 min, 1:40 min or 34 s."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{round(seconds) // 60}:{round(seconds) % 60:02} min"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{datetime.timedelta(seconds=round(seconds))} h"


def counted(pairs: int, seeds: int) -> str:
    """The number of trainings as text: 147 trainings (49 pairs, 3 seeds)."""
    return f"{pairs * seeds:,} trainings ({pairs} pairs, {_seeds(seeds)})"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
