"""Successive halving: all candidates on few draws, the better ones on more, the last few again with fresh noise.

In a round all candidates share their noise and their examples, so that differences are sharper than either end. Who
leaves is either told from the best (at a level corrected for the number of candidates), or one of too many; then what
was measured of its difference still counts. Every round has new draws: what is said of the last ones comes from the
last round alone, and has no winner's curse of the rounds before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import progress
from ..estimators import Estimator
from ..statistics.jackknife import students_t
from .candidates import PLAIN, Candidate
from .errors_of_averages import Array, Observed, joint_quantile
from .measuring import LEAST_DRAWS

KEPT = (24, 8)  # candidates after the first round and after the second, at most; KEPT + 1 rounds
GROWTH = 4  # of the number of draws, from round to round
FIRST_DRAWS = 64
MOST_DRAWS = 1024  # of the last round
LEVEL = 0.95
FIRST_SHARE = 0.35  # of the budget that the first round may take: the pilot tells how many draws that is

Measure = Callable[[Sequence[Estimator], int, str, progress.Advance], list[Observed]]


@dataclass
class Round:
    """What was measured together."""

    draws: int
    observed: dict[Candidate, Observed] = field(default_factory=dict)


@dataclass
class Course:
    """All rounds, as far as they came."""

    averaged: float
    rounds: list[Round] = field(default_factory=list)
    interrupted: bool = False

    @property
    def last(self) -> Round:
        return self.rounds[-1]

    def latest(self, candidate: Candidate) -> Round:
        """The last round in which a candidate was measured."""
        return next(round_ for round_ in reversed(self.rounds) if candidate in round_.observed)

    @property
    def whole(self) -> Round:
        """All candidates, each as in its `latest` round.

        Rounds have noise of their own, so the difference of two candidates from different ones is less sharp than on
        common noise, but its influences give its variance all the same.
        """
        observed = {c: o for round_ in self.rounds for c, o in round_.observed.items()}
        return Round(self.last.draws, observed)

    @property
    def best(self) -> Candidate:
        """Of those that are not told from the smallest error of the last round, the one with the lowest upper end.

        A smallest error is small by luck the more often the noisier its estimate is. Without a known error, the first.
        """
        of, averaged = self.last, self.averaged
        first = ranked(of, averaged)[0]
        among = [first, *(c for c, (low, _) in bounds(of, first, averaged, LEVEL).items() if low <= 0)]

        def upper_end(candidate: Candidate) -> float:
            observed = of.observed[candidate]
            spread = float(np.linalg.norm(observed.of_error(averaged)))
            return observed.squared_error(averaged) + students_t(LEVEL, observed.degrees) * spread

        return min(among, key=upper_end) if len(among) > 1 else first


def ranked(of: Round, averaged: float) -> list[Candidate]:
    """Candidates of a round, the smallest error first; those whose error is not known last."""

    def key(candidate: Candidate) -> float:
        squared = of.observed[candidate].squared_error(averaged)
        return math.inf if math.isnan(squared) else squared

    return sorted(of.observed, key=key)


def differences(of: Round, best: Candidate, averaged: float) -> dict[Candidate, tuple[float, Array]]:
    """Squared error less that of `best`, and its influences (unit,), of the other candidates whose error is known."""
    at_best = of.observed[best]
    value, influence = at_best.squared_error(averaged), at_best.of_error(averaged)
    found = {}
    for candidate, observed in of.observed.items():
        other = observed.squared_error(averaged)
        if candidate != best and math.isfinite(other) and math.isfinite(value):
            found[candidate] = other - value, observed.of_error(averaged) - influence
    return found


def bounds(of: Round, best: Candidate, averaged: float, level: float) -> dict[Candidate, tuple[float, float]]:
    """Ends, together right with probability `level`, of what each squared error is above that of `best`."""
    off = differences(of, best, averaged)
    if not off:
        return {}
    influences = np.stack([influence for _, influence in off.values()])
    widths = joint_quantile(influences, level) * np.sqrt(np.square(influences).sum(1))
    return {c: (value - w, value + w) for (c, (value, _)), w in zip(off.items(), widths.tolist(), strict=True)}


def halve(
    every: Sequence[Candidate],
    measure: Measure,
    averaged: float,
    budget: float,
    *,
    kept_anyway: Sequence[Candidate] = (),
    draws: int | None = None,
    shown: bool = False,
) -> Course:
    """The course of all rounds within `budget` seconds, about; on Ctrl-C, as far as it came, at least one round.

    `draws`: of the last round, whatever time that takes; None: a power of two that the budget pays for.
    """
    course, left = Course(averaged), list(every)
    with _Clock(budget, measure, shown) as clock:
        try:
            of_round = FIRST_DRAWS if draws else _power_of_two(min(FIRST_DRAWS, clock.pays(left, FIRST_SHARE)))
            for number, most in enumerate(KEPT):
                if number and (len(left) <= most or (not draws and clock.pays(left, 0.5) < of_round)):
                    break
                course.rounds.append(clock.round(left, of_round, f"round {number + 1}"))
                left = _survivors(course, most, kept_anyway)
                of_round *= GROWTH
            last = draws or _power_of_two(min(MOST_DRAWS, max(clock.pays(left, 1.0), course.last.draws)))
            course.rounds.append(clock.round(left, last, "last"))
        except KeyboardInterrupt:
            if not course.rounds:
                raise
            course.interrupted = True
    return course


class _Clock:
    """Measures within a budget of seconds, and draws a bar of the time that is left of it."""

    def __init__(self, budget: float, measure: Measure, shown: bool):
        self.budget, self.measure = budget, measure
        self.began = self.told = time.monotonic()
        self.bar = progress.bar("comparing", round(1000 * budget), shown)

    def __enter__(self) -> _Clock:
        self.advance = self.bar.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.bar.__exit__(*reason)

    def pays(self, left: Sequence[Candidate], share: float) -> float:
        """The number of draws of all candidates for which this share of the time left is enough, from a short trial."""
        began = time.monotonic()
        self.measure([c.estimator for c in left], LEAST_DRAWS, "trial", lambda *a, **k: None)
        each = (time.monotonic() - began) / LEAST_DRAWS
        return share * (self.budget - (time.monotonic() - self.began)) / each

    def round(self, left: Sequence[Candidate], draws: int, name: str) -> Round:
        def tick(*steps: int, **figures: object) -> None:
            now = time.monotonic()
            self.advance(round(1000 * (now - self.told)), candidates=len(left), draws=draws)
            self.told = now

        tick()
        observed = self.measure([c.estimator for c in left], draws, name, tick)
        return Round(draws, dict(zip(left, observed, strict=True)))


def _power_of_two(draws: float) -> int:
    return int(2 ** math.floor(math.log2(max(draws, LEAST_DRAWS))))


def _survivors(course: Course, most: int, anyway: Sequence[Candidate]) -> list[Candidate]:
    """Those that are not told from the best, `most` at most, and those that the answer speaks of."""
    of, averaged = course.last, course.averaged
    order = ranked(of, averaged)
    level = 1 - (1 - LEVEL) / (2 * len(KEPT))
    beaten = {c for c, (low, _) in bounds(of, order[0], averaged, level).items() if low > 0}
    kept = [c for c in order if c not in beaten][:most]
    for wanted in (
        [c for c in order if of.observed[c].unbiased],
        [c for c in order if not of.observed[c].unbiased],
        [c for c in order if c.estimator.name == PLAIN],
        [c for c in anyway if c in of.observed],
    ):
        kept += [c for c in wanted[:1] if c not in kept]
    return kept
