"""The answer in sentences that a person would say aloud."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..rounding import plain, written
from .findings import Findings, Row
from .pasting import line, torch_line

MOST_NAMED = 6


def sentences(of: Findings, binary: bool, told: Sequence[str] = ()) -> list[str]:
    """The answer, the most important first; `told`: what is to be said at the end."""
    return [*_choice(of), *_others(of), *_present(of), *_crossing(of), *_paste(of, binary), *_how(of), *told]


def closing(of: Findings) -> list[str]:
    """The choice among the points of another comparison, and what is as good, in few sentences."""
    return [*_choice(of), *_others(of), *_crossing(of)]


def _choice(of: Findings) -> Iterator[str]:
    best, c = of.best, of.best.candidate
    at = f"At tf = {c.tf:g}, an average that costs {of.averaged:,} loss evaluations"
    off = f"{at} is off the exact gradient by {written(*best.error)} of its norm, at the best scale"
    if of.interrupted:
        yield "Interrupted: this is the best so far."
    if of.unresolved:
        yield f"Cannot tell which estimator is best: {of.unresolved}."
        yield f"The smallest error measured is that of {c.label}. {off}."
        return
    yield f"Use {c.label}."
    yield f"{off}."


def _others(of: Findings) -> Iterator[str]:
    if math.isnan(of.best.error[0]):
        return
    plain_one = of.plain
    if of.equivalent:
        yield f"Within noise of it: {_named(of.equivalent)}."
    elif not of.unresolved:
        yield "No other candidate is within noise of it."
    if plain_one is not None and plain_one is not of.best:
        if plain_one.equivalent:
            yield f"Plain {plain_one.candidate.label} is as good, as far as this measurement can tell."
        else:
            yield f"Plain {plain_one.candidate.label} is not as good: its error is {written(*plain_one.error)}."
    if of.equivalent:
        yield f"No candidate is better by more than {plain(of.margin, 2)}."


def _named(rows: Sequence[Row]) -> str:
    """Estimators, each with the range of its tb."""
    of_label: dict[str, list[float]] = {}
    for row in rows:
        tb = row.candidate.tb
        of_label.setdefault(row.candidate.estimator.label, []).extend([] if tb is None else [tb])
    parts = []
    for label, tbs in of_label.items():
        ends = f"{min(tbs):g}" if len(set(tbs)) == 1 else f"{min(tbs):g} to {max(tbs):g}" if tbs else ""
        parts.append(f"{label} at tb = {ends}" if ends else label)
    more = len(parts) - MOST_NAMED
    return "; ".join(parts[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _present(of: Findings) -> Iterator[str]:
    if of.present is None:
        return
    c = of.present.candidate
    if of.present is of.best:
        yield f"This is the present choice, {c.label}."
        return
    same = " (within noise of the recommended one)" if of.present.equivalent else ""
    sentence = f"The present choice, {c.label}, has an error of {written(*of.present.error)}{same}"
    if not of.present.equivalent and not math.isnan(of.reaches_present):
        evaluations = math.ceil(of.reaches_present)
        sentence += f"; the recommended one reaches this with {evaluations:,} instead of {of.averaged:,} evaluations"
    yield f"{sentence}."


def _crossing(of: Findings) -> Iterator[str]:
    found = of.crossover
    if found is None or math.isnan(of.best.error[0]):
        return
    if math.isinf(found.n):
        yield "A biased estimator is better up to a million loss evaluations, as far as this was computed."
        return
    if found.at_once:
        yield f"An unbiased estimator is best however few evaluations are averaged ({found.unbiased.label})."
        return
    ends = "" if math.isinf(found.high) else f" [{found.low:,.0f}, {found.high:,.0f}]"
    sentence = f"From {found.n:,.0f}{ends} loss evaluations on, an unbiased estimator is best ({found.unbiased.label})"
    yield f"{sentence}; below, a biased one ({found.biased.label})."


def _paste(of: Findings, binary: bool) -> Iterator[str]:
    e = of.best.candidate.estimator
    yield f"Paste: {line(e, binary)}"
    if other := torch_line(e, binary):
        yield f"In torch alone: {other}"


def _how(of: Findings) -> Iterator[str]:
    best = of.best
    averages = of.averaged / best.evaluations
    draws = f"{averages:.3g} draw{'s' * (averages != 1)}"
    cost = f"{best.evaluations} evaluation{'s' * (best.evaluations > 1)}"
    yield (
        f"What counts: loss evaluations, of which one draw of {best.candidate.estimator.label} takes {cost}, so that"
        f" {draws} are averaged; the backward pass to the codes is not counted."
    )
    what = "examples and draws" if of.over_examples else "draws; the examples are taken as given"
    yield f"Intervals: 95 %, together for all candidates of a round, over {what}."
