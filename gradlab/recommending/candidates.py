"""Which estimators at which backward temperatures are compared, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import errors, estimators
from ..estimators import Estimator
from ..latents import LatentKind

# from where nothing flows back to where all categories are alike
TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 3.0, 4.0, 6.0)
VARIANTS = ("st-gs:convention=jang", "rloo:n=4", "arms:n=4")
# `st-gs` in the paper's convention is `decoupled-st-gs`; `exact` is what the others are compared with
LEFT_OUT = ("exact", "st-gs")
PLAIN = "ste"  # the estimator that needs no explanation


@dataclass(frozen=True)
class Candidate:
    """An estimator at its temperatures."""

    estimator: Estimator

    @property
    def tf(self) -> float:
        return self.estimator.tf

    @property
    def tb(self) -> float | None:
        """None for an estimator without a relaxation."""
        return getattr(self.estimator, "tb", None)

    @property
    def label(self) -> str:
        """`ste at tb = 1.3`."""
        return self.estimator.label if self.tb is None else f"{self.estimator.label} at tb = {self.tb:g}"


def candidates(
    kind: LatentKind, tf: float, tb: Sequence[float], of: Iterable[Any] | None, averaged: int, shape: Any
) -> tuple[list[Candidate], list[str]]:
    """Every estimator at every tb, and sentences about those that are left out.

    `of`: names or Estimators, None for the catalogue; `shape`: logits, for the number of evaluations.
    Raises ValueError for an unknown name, one of other latents, or where none is left.
    """
    chosen = _catalogue(kind) if of is None else [_estimator(one, kind) for one in of]
    if not chosen:
        raise ValueError("estimator: expected at least one to choose from, got none")
    found: dict[Candidate, None] = {}
    dear: list[str] = []
    for e in chosen:
        if (cost := e.evaluations_at(kind, shape)) > averaged:
            dear.append(f"{e.label} ({cost:,})")
            continue
        found |= dict.fromkeys(Candidate(e.at(tf, t)) for t in tb)
    told = [f"Left out, since one draw costs more than {averaged:,} loss evaluations: {', '.join(dear)}."] * bool(dear)
    if not found:
        raise ValueError(
            f"averaged: expected the loss evaluations of at least one draw, got {averaged}; cost: {', '.join(dear)}"
        )
    return list(found), told


def present(kind: LatentKind, tf: float, estimator: Any, tb: float | None) -> Candidate | None:
    """The user's choice today; tb defaults to tf."""
    if estimator is None:
        return None
    e = _estimator(estimator, kind)
    return Candidate(e.at(tf, tf if tb is None else errors.temperature("tb", tb)))


def check_laws(every: Sequence[Candidate], target: str) -> None:
    """Raises ValueError for a candidate that samples softmax(l), held against the gradient of softmax(l/tf)."""
    for one in every:
        if target == "sampled" and one.estimator.law_tf != one.tf:
            raise ValueError(
                f"tf: expected 1 for {one.estimator.label}, which samples softmax(l) for any tf, got {one.tf:g}; take"
                " tf=1 or target='model'"
            )


def _catalogue(kind: LatentKind) -> list[Estimator]:
    names = [name for name in estimators.names() if name not in LEFT_OUT]
    every = [estimators.parse(text) for text in (*names, *VARIANTS)]
    return [e for e in every if kind.name in e.kinds and e.baseline_decay is None and not e.all_configurations]


def _estimator(given: Any, kind: LatentKind) -> Estimator:
    e = estimators.parse(given) if isinstance(given, str) else given
    if not isinstance(e, Estimator):
        raise ValueError(f"estimator: expected a name of gradlab.estimators.names(), or an Estimator, got {given!r}")
    if kind.name not in e.kinds:
        raise ValueError(
            f"estimator: expected one for {kind.name} latents, got {e.name}, which is for {' and '.join(e.kinds)}"
        )
    if e.baseline_decay is not None:
        raise ValueError(
            f"estimator: expected one whose draws are independent, got {e.label}, whose baseline depends on earlier"
            " draws; compare it by gradlab.bias"
        )
    if e.all_configurations:
        raise ValueError(
            f"estimator: expected one that is sampled, got {e.name}, which is what others are compared with"
        )
    return e
