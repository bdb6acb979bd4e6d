"""What the rounds of a comparison say: the choice, how sure it is, what is as good, what today's choice costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import PLAIN, Candidate
from .crossover import Crossover, crossover
from .errors_of_averages import joint_quantile, root
from .halving import LEVEL, Course, Round, bounds

ABOUT_ONE = 0.995  # an error: 1 % of the squared gradient is explained
Three = tuple[float, float, float]  # value, lower and upper end


@dataclass(frozen=True)
class Row:
    """One candidate: its error, and how much larger that is than the error of the choice."""

    candidate: Candidate
    error: Three
    excess: Three
    draws: int
    evaluations: int
    unbiased: bool

    @property
    def equivalent(self) -> bool:
        """Whether it is not told from the choice."""
        return self.excess[1] <= 0


@dataclass(frozen=True)
class Findings:
    """Everything that the answer says."""

    averaged: int
    rows: list[Row]  # the choice first, then by error
    present: Row | None
    reaches_present: float  # loss evaluations with which the choice is as good as today's choice
    crossover: Crossover | None
    margin: float  # no candidate is better than the choice by more; at most what the error may be
    unresolved: str  # why the choice cannot be relied on; "" if it can
    interrupted: bool
    over_examples: bool

    @property
    def best(self) -> Row:
        return self.rows[0]

    @property
    def plain(self) -> Row | None:
        """The plain estimator at its best tb: one that is as good as the choice, else that of the smallest error."""
        plain = [row for row in self.rows if row.candidate.estimator.name == PLAIN]
        return next((row for row in plain if row is self.best or row.equivalent), next(iter(plain), None))

    @property
    def equivalent(self) -> list[Row]:
        return [row for row in self.rows[1:] if row.equivalent]


def findings(course: Course, present: Candidate | None, blind: str, over_examples: bool) -> Findings:
    """`blind`: why sampling cannot see the gradient, or ""."""
    best, averaged = course.best, course.averaged
    rows: dict[Candidate, Row] = {}
    for of in reversed(course.rounds):
        rows = {row.candidate: row for row in _rows(of, best, averaged, len(course.rounds))} | rows
    first = rows.pop(best)
    others = sorted(rows.values(), key=lambda row: (math.isnan(row.error[0]), row.error[0]))
    known = [row for row in others if math.isfinite(row.excess[1])]
    at_present = next((row for row in [first, *others] if row.candidate == present), None)
    return Findings(
        int(averaged),
        [first, *others],
        at_present,
        _reaching(course.last, best, at_present, averaged),
        crossover(course.whole),
        float(np.fmin(max([0.0, *(-row.excess[1] for row in known)]), first.error[2])),
        blind or _unresolved(first),
        course.interrupted,
        over_examples,
    )


def _rows(of: Round, best: Candidate, averaged: float, rounds: int) -> list[Row]:
    every = list(of.observed)
    influences = np.stack([of.observed[c].of_error(averaged) for c in every])
    influences = np.where(np.isfinite(influences), influences, 0.0)
    quantile = joint_quantile(influences, LEVEL)
    halves = dict(zip(every, (quantile * np.linalg.norm(influences, axis=1)).tolist(), strict=True))
    off = bounds(of, best, averaged, 1 - (1 - LEVEL) / rounds)
    of_best = _three(np.clip(_around(of.observed[best].squared_error(averaged), halves[best]), 0.0, 1.0))
    found = []
    for candidate, observed in of.observed.items():
        value = observed.squared_error(averaged)
        error = _three(root(_around(value, halves[candidate])))
        low, high = off.get(candidate, (0.0, 0.0) if candidate == best else (math.nan, math.nan))
        excess = _excess(of_best, float(root(value)), low, high)
        if math.isnan(value):
            error = excess = (math.nan, math.nan, math.nan)
        found.append(Row(candidate, error, excess, of.draws, observed.evaluations, observed.unbiased))
    return found


def _around(squared: float, half: float) -> np.ndarray:
    """A squared error and the ends of its interval.

    Chance may take it beyond [0, 1]. Then the end inside is that of an error of 0 or 1, so that the interval keeps a
    width.
    """
    return np.array([squared, min(squared, 1.0) - half, max(squared, 0.0) + half])


def _excess(best: Three, error: float, low: float, high: float) -> Three:
    """How much an error is above that of the choice, whose square is known as `best`: value, lower and upper end.

    The squares differ by low .. high. With e the error of the choice, sqrt(e^2 + d) - e falls with e for d > 0. For
    d < 0 it falls down to e^2 = -d, where nothing is left of the other error, and then rises.
    """
    value, least, most = best
    at_low = most if low > 0 else min(max(-low, least), most)
    at_high = least if high > 0 else most
    ends = (root(at + d) - math.sqrt(at) for at, d in ((at_low, low), (at_high, high)))
    return _three([error - math.sqrt(value), *ends])


def _three(given: Sequence[float] | np.ndarray) -> Three:
    value, low, high = map(float, given)
    return value, low, high


def _reaching(of: Round, best: Candidate, present: Row | None, averaged: float) -> float:
    """Loss evaluations at which the choice has the error that today's choice has now; NaN if that is no worse."""
    if present is None or present.candidate not in of.observed:
        return math.nan
    wanted = of.observed[present.candidate].squared_error(averaged)
    for n in np.geomspace(of.observed[best].evaluations, averaged, 200):
        if of.observed[best].squared_error(float(n)) <= wanted:
            return float(n)
    return math.nan


def _unresolved(best: Row) -> str:
    value, _, high = best.error
    if math.isnan(value):
        return "on these draws and examples, the gradient cannot be distinguished from 0"
    if high >= ABOUT_ONE:
        return "an average of this size may be no better than the answer 0, whose error is 1; average more"
    return ""
