"""Tests whether an estimator is what it states: its mean against enumeration, and each rule of the protocol.

    report = check(MyEstimator(tf=1.4))
    report.conforms, report.verdicts, report.violations

The problems are losses given by formulas, on code spaces small enough to enumerate. They are asymmetric, neither linear
nor quadratic, smooth between the codes, and different for each example. `mean_test` has the statistical test, `rules`
the rules for every estimator, `promise_rules` the rules for promises, `routes` the comparison of all ways to sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ... import errors
from ...latents import LatentKind
from ...numerics import plain_arithmetic
from ..base import Estimator
from .mean_test import FAILURE_RATE, Advance, Verdict, bias, estimates_of, judge, moments, unseen
from .problems import KINDS, PROBLEMS, Problem
from .promise_rules import PROMISE_RULES
from .routes import difference
from .rules import RULES, Rule

__all__ = [
    "FAILURE_RATE",
    "KINDS",
    "PROBLEMS",
    "Problem",
    "Report",
    "Verdict",
    "bias",
    "check",
    "estimates_of",
    "judge",
    "moments",
    "problems_of",
    "rules",
    "violations",
]


def _routes(estimator: Estimator, problem: Problem) -> str:
    """Moments are those of its functions, draw by draw, on every route that samples, alone and beside others."""
    return difference(estimator, problem)


_PROTOCOL: dict[str, Rule] = {**RULES, **PROMISE_RULES, "sampling routes": _routes}


@dataclass(frozen=True)
class Report:
    """The result of `check`."""

    estimator: str
    unbiased: bool  # as declared
    verdicts: tuple[Verdict, ...]
    violations: tuple[str, ...]

    @property
    def conforms(self) -> bool:
        """No violation; no bias on any problem if declared unbiased, a bias on at least one if declared biased."""
        biased = [verdict.biased for verdict in self.verdicts]
        return not self.violations and (not any(biased) if self.unbiased else any(biased))


@plain_arithmetic()
def check(
    estimator: Estimator,
    *,
    draws: int = 200_000,
    seed: int = 0,
    failure_rate: float = FAILURE_RATE,
    advance: Advance = unseen,
) -> Report:
    """A Report on an estimator at its temperatures and parameters, on every problem of its kinds of latent.

    `advance(n)` is called after n more draws of a problem; each of `problems_of(estimator)` takes `draws`.

    Raises ValueError if it is no Estimator, has no name, has no known kind, or if `draws` is below 2.
    """
    problems = problems_of(estimator)
    kinds = list(dict.fromkeys(problem.kind for problem in problems))
    found = [f"{kind.name}: {text}" for kind in kinds for text in violations(estimator, kind)]
    verdicts = []
    if not found:
        options: dict[str, Any] = {"draws": draws, "seed": seed, "failure_rate": failure_rate, "advance": advance}
        verdicts = [bias(estimator, problem, **options) for problem in problems]
    return Report(estimator.label, estimator.unbiased, tuple(verdicts), tuple(found))


def problems_of(estimator: Estimator) -> list[Problem]:
    """The problems of an estimator's kinds of latent. Raises ValueError as `check` does."""
    if not isinstance(estimator, Estimator):
        raise ValueError(f"estimator: expected an instance of a gradlab.estimators.Estimator, got {estimator!r}")
    if not isinstance(getattr(estimator, "name", None), str):
        raise ValueError(
            f"estimator: expected a name, a text in the class body, got {type(estimator).__qualname__} without one"
        )
    suited = [problem for problem in PROBLEMS.values() if problem.kind.name in estimator.kinds]
    if not suited:
        raise ValueError(
            f"estimator: expected kinds among {sorted(KINDS)}, got {estimator.name} with kinds {estimator.kinds}"
        )
    return suited


def violations(estimator: Estimator, kind: LatentKind) -> list[str]:
    """In words, each rule of the protocol (see `base`) that the estimator breaks with latents of this kind."""
    problem = next(problem for problem in PROBLEMS.values() if problem.kind == kind)
    return [f"{words}: {found}" for words, test in _PROTOCOL.items() if (found := _run(test, estimator, problem))]


def rules() -> dict[str, str]:
    """The rules of the protocol: name -> what the rule requires, in words."""
    return {words: str(test.__doc__) for words, test in _PROTOCOL.items()}


def _run(test: Rule, estimator: Estimator, problem: Problem) -> str:
    try:
        return test(estimator, problem)
    except Exception as error:  # any error means that the estimator breaks the protocol
        errors.pass_on_memory(error)
        return f"{type(error).__name__}: {error}"
