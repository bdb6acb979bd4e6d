"""Which estimators at which temperatures are compared, and what they are called."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import errors, estimators, specs
from ..estimators import Estimator, dictionary
from .subjects import Subject

# from where nothing flows back to where all categories are alike
TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 3.0, 4.0, 6.0)
FORWARD = (0.5, 0.7, 1.0, 1.4, 2.0)  # where the law of the objective is fixed
VARIANTS = ("st-gs:convention=jang", "rloo:n=4", "arms:n=4")
# `st-gs` in the paper's convention is `decoupled-st-gs`; `exact` is what the others are compared with
LEFT_OUT = ("exact", "st-gs")
PLAIN = "ste"  # the estimator that needs no explanation


@dataclass(frozen=True)
class Candidate:
    """An estimator at its temperatures; `names_tf` where candidates differ in tf."""

    estimator: Estimator
    names_tf: bool = False

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
        at = [f"tf = {self.tf:g}"] * self.names_tf + ([] if self.tb is None else [f"tb = {self.tb:g}"])
        return f"{self.estimator.label} at {', '.join(at)}" if at else self.estimator.label


def candidates(
    subject: Subject, tf: Sequence[float], tb: Sequence[float], of: Iterable[Any] | None, averaged: int
) -> tuple[list[Candidate], list[str]]:
    """Every estimator at every tf and tb, and sentences about those that are left out.

    `of`: names or Estimators, None for the catalogue. Raises ValueError for an unknown name, one that does not serve
    the subject, or where none is left.
    """
    chosen = [(e, e) for e in _catalogue(subject)] if of is None else [(one, _estimator(one, subject)) for one in of]
    if not chosen:
        raise ValueError("estimator: expected at least one to choose from, got none")
    found: dict[Candidate, None] = {}
    dear: list[str] = []
    for given, e in chosen:
        if (cost := subject.evaluations(e)) > averaged:
            dear.append(f"{e.label} ({cost:,})")
            continue
        own_tf, own_tb = stated(given)
        tfs = tf[:1] if e.law == "model" else [_agreed(given, own_tf, tf)] if own_tf else tf  # "model": at any tf alike
        found |= dict.fromkeys(Candidate(e.at(f, t), len(tf) > 1) for f in tfs for t in ([own_tb] if own_tb else tb))
    more = f"{averaged:,} loss evaluation{'s' * (averaged != 1)}"
    told = [f"Left out, since one draw costs more than {more}: {', '.join(dear)}."] * bool(dear)
    if not found:
        raise ValueError(
            f"averaged: expected the loss evaluations of at least one draw, got {averaged}; cost: {', '.join(dear)}"
        )
    return list(found), told


def present(subject: Subject, tf: float, estimator: Any, tb: float | None, names_tf: bool = False) -> Candidate | None:
    """The user's choice today; tb defaults to tf."""
    if estimator is None:
        return None
    e = _estimator(estimator, subject)
    own_tf, own_tb = stated(estimator)
    if own_tf:
        _agreed(estimator, own_tf, [tf])
    if tb is None:
        tb = own_tb or (tf if isinstance(estimator, str) else getattr(e, "tb", tf))
    return Candidate(e.at(tf, errors.temperature("tb", tb)), names_tf)


def stated(given: Any) -> tuple[float | None, float | None]:
    """tf and tb that a text states, as `ste:tb=0.5` or the layer of a package; None where it does not.

    An Estimator has temperatures anyway, so it states none.
    """
    if not isinstance(given, str):
        return None, None
    if dictionary.is_word(given):
        of = dictionary.meaning(given)
        return of.tf, of.tb
    own = estimators.parse(given).parameters
    written = specs.parts(given)[1]
    return tuple(own[name] if name in written else None for name in ("tf", "tb"))  # type: ignore[return-value]


def _agreed(given: Any, own: float, tf: Sequence[float]) -> float:
    if own not in tf:
        raise ValueError(f"tf: expected {own:g}, which {given!r} states, got {', '.join(f'{t:g}' for t in tf)}")
    return own


def check_laws(every: Sequence[Candidate], target: str) -> None:
    """Raises ValueError for a candidate that samples softmax(l), held against the gradient of softmax(l/tf)."""
    for one in every:
        if target == "sampled" and one.estimator.law_tf != one.tf:
            raise ValueError(
                f"tf: expected 1 for {one.estimator.label}, which samples softmax(l) for any tf, got {one.tf:g}; take"
                " tf=1 or target='model'"
            )


def _catalogue(subject: Subject) -> list[Estimator]:
    names = [name for name in estimators.names() if name not in LEFT_OUT]
    found = []
    for e in (estimators.parse(text) for text in (*names, *VARIANTS)):
        with contextlib.suppress(ValueError):
            found.append(_estimator(e, subject))
    return found


def _estimator(given: Any, subject: Subject) -> Estimator:
    e = estimators.parse(given) if isinstance(given, str) else given
    if not isinstance(e, Estimator):
        raise ValueError(f"estimator: expected a name of gradlab.estimators.names(), or an Estimator, got {given!r}")
    if e.all_configurations:
        raise ValueError(
            f"estimator: expected one that is sampled, got {e.name}, which is what others are compared with"
        )
    if e.baseline_decay is not None:
        raise ValueError(
            f"estimator: expected one whose draws are independent, got {e.label}, whose baseline depends on earlier"
            " draws; compare it by gradlab.bias"
        )
    subject.check_serves(e)
    return e
