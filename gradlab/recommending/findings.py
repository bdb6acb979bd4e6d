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
    margin: float  # no candidate is better than the choice by more
    unresolved: str  # why the choice cannot be relied on; "" if it can
    interrupted: bool
    over_examples: bool

    @property
    def best(self) -> Row:
        return self.rows[0]

    @property
    def plain(self) -> Row | None:
        """The plain estimator at its best tb."""
        return next((row for row in self.rows if row.candidate.estimator.name == PLAIN), None)

    @property
    def equivalent(self) -> list[Row]:
        return [row for row in self.rows[1:] if row.equivalent]


def findings(course: Course, present: Candidate | None, blind: str, least_examples: int, examples: int) -> Findings:
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
        crossover(course.rounds[0]),
        max([0.0, *(-row.excess[1] for row in known)]),
        blind or _unresolved(first),
        course.interrupted,
        examples >= least_examples,
    )


def _rows(of: Round, best: Candidate, averaged: float, rounds: int) -> list[Row]:
    every = list(of.observed)
    influences = np.stack([of.observed[c].of_error(averaged) for c in every])
    influences = np.where(np.isfinite(influences), influences, 0.0)
    quantile = joint_quantile(influences, LEVEL)
    off = bounds(of, best, averaged, 1 - (1 - LEVEL) / rounds)
    squared = of.observed[best].squared_error(averaged)
    found = []
    for candidate, influence in zip(every, influences, strict=True):
        observed = of.observed[candidate]
        value, half = observed.squared_error(averaged), quantile * float(np.linalg.norm(influence))
        ends = off.get(candidate, (0.0, 0.0) if candidate == best else (math.nan, math.nan))
        excess = [float(root(squared + end) - root(squared)) for end in (value - squared, *ends)]
        error = [float(root(end)) for end in (value, value - half, value + half)]
        if math.isnan(value):
            error = excess = [math.nan] * 3
        found.append(Row(candidate, _three(error), _three(excess), of.draws, observed.evaluations, observed.unbiased))
    return found


def _three(given: Sequence[float]) -> Three:
    value, low, high = given
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
        return "the gradient is not told from 0 on these draws and examples"
    if high >= ABOUT_ONE:
        return "an average of this size is hardly better, if at all, than the answer 0, whose error is 1; average more"
    return ""
