"""How long trainings take, and how many seeds fit into the time given."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass

from gradlab.datasets import Images
from gradlab.training import Run, Settings, evaluate

Cost = Callable[[int], float]  # seconds of a step of so many trainings, all of them
MOST_SEEDS = 1000
STEPS, WARM = 5, 2  # timed, and made before
TIMED_IMAGES = 1000  # of the validation


@dataclass(frozen=True)
class Plan:
    """Trainings of `pairs` pairs at `seeds` seeds, which take `seconds`."""

    pairs: int
    seeds: int
    steps: int  # of each training
    seconds: float
    asked: int  # seeds
    seconds_asked: float
    limit: float | None  # seconds given

    def __str__(self) -> str:
        trainings = f"{self.pairs * self.seeds:,} trainings ({self.pairs} pairs, {_seeds(self.seeds)})"
        text = f"{trainings} of {self.steps:,} steps take about {duration(self.seconds)}"
        if self.limit is None:
            return text
        text += f", in the {duration(self.limit)} given" if self.seconds <= self.limit else ""
        if self.seconds > self.limit:
            text += f"; not even one seed fits into the {duration(self.limit)} given"
        if self.seeds < self.asked:
            text += f"; the {_seeds(self.asked)} asked for take about {duration(self.seconds_asked)}"
        return text


def plan(pairs: int, steps: int, cost: Cost, asked: int, limit: float | None) -> Plan:
    """As many seeds as fit into `limit` seconds, at least one; without a limit as many as asked."""

    def seconds(seeds: int) -> float:
        return steps * cost(pairs * seeds)

    seeds = asked
    if limit is not None:
        seeds = 1
        while seeds < MOST_SEEDS and seconds(seeds + 1) <= limit:
            seeds += 1
    return Plan(pairs, seeds, steps, seconds(seeds), asked, seconds(asked), limit)


def measured(settings: Settings, images: Images, validation: Images, device: str, workers: int) -> Cost:
    """The cost of trainings one after the other, each as long as one that is timed for a few steps here."""
    run = Run(settings, images, validation, device)
    batches = run.batches_left()
    warm, timed = batches[:WARM], batches[WARM : WARM + STEPS] or batches[-1:]
    for batch in warm:
        run.one_step(batch)
    run.sums.tolist()  # waits for a GPU
    started = time.perf_counter()
    for batch in timed:
        run.one_step(batch)
    run.sums.tolist()
    step = (time.perf_counter() - started) / len(timed)
    some = validation.first(min(TIMED_IMAGES, len(validation)))
    started = time.perf_counter()
    evaluate(run.model, some, run.in_force[0], settings.seed)
    of_validation = (time.perf_counter() - started) * len(validation) / len(some) / run.steps
    return lambda trainings: trainings * (step + of_validation) / workers


def duration(seconds: float) -> str:
    """1:23:45 h, 12 min, 1:40 min, 34 s"""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{round(seconds) // 60}:{round(seconds) % 60:02} min"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{datetime.timedelta(seconds=round(seconds))} h"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
