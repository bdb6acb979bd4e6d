"""From which number of loss evaluations on an unbiased estimator is better than every biased one."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .candidates import Candidate
from .errors_of_averages import joint_quantile
from .halving import LEVEL, Round

MOST = 10**6  # loss evaluations
STEPS = 20  # per factor of ten


class Crossover(NamedTuple):
    """`n` with its interval, and the best of either kind there. `n` is infinite where that is never an unbiased one.

    `at_once`: whether it is the smallest number that pays for a draw.
    """

    n: float
    low: float
    high: float
    biased: Candidate
    unbiased: Candidate
    at_once: bool


def crossover(of: Round) -> Crossover | None:
    """Where the error of the best unbiased falls below that of the best biased; None without one of each.

    At every n the best of each kind is taken. The interval holds each n at which the difference of the two squared
    errors is not told from 0.
    """
    kinds = {unbiased: [c for c, o in of.observed.items() if o.unbiased == unbiased] for unbiased in (False, True)}
    if not all(kinds.values()):
        return None
    numbers = np.unique(np.round(np.geomspace(1, MOST, STEPS * int(math.log10(MOST)) + 1)))
    cheapest = min(observed.evaluations for observed in of.observed.values())
    numbers = numbers[numbers >= cheapest]
    signs, ends = [], []
    for n in numbers:
        unbiased, biased = _best(of, kinds[True], n), _best(of, kinds[False], n)
        if unbiased is None or biased is None:
            signs.append(-1.0 if biased is None else 1.0)
            ends.append(signs[-1])
            continue
        u, b = of.observed[unbiased], of.observed[biased]
        influence = u.of_error(n) - b.of_error(n)
        width = joint_quantile(influence[None], LEVEL) * float(np.linalg.norm(influence))
        off = u.squared_error(n) - b.squared_error(n)
        signs.append(math.copysign(1.0, off))
        ends.append(0.0 if abs(off) <= width else signs[-1])
    n, low, high = _first(numbers, signs, 0), _first(numbers, ends, 0.5), _first(numbers, ends, -0.5)
    at = min(n, float(MOST))
    biased, unbiased = _best(of, kinds[False], at), _best(of, kinds[True], at)
    return Crossover(n, low, high, biased, unbiased, n == numbers[0]) if biased and unbiased else None


def _first(numbers: np.ndarray, signs: list[float], limit: float) -> float:
    """The first number whose sign is below the limit.

    The first, since at large n, where nothing is left but bias, chance decides between the errors of nearly unbiased.
    """
    below = np.nonzero(np.asarray(signs) < limit)[0]
    return float(numbers[below[0]]) if len(below) else math.inf


def _best(of: Round, members: list[Candidate], n: float) -> Candidate | None:
    """The smallest error among those of which n evaluations pay for a draw."""
    known = {c: of.observed[c].squared_error(n) for c in members if of.observed[c].evaluations <= n}
    known = {c: value for c, value in known.items() if math.isfinite(value)}
    return min(known, key=lambda c: known[c]) if known else None
