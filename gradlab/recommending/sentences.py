"""The answer in sentences that a person would say aloud."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..rounding import plain, written
from .findings import Findings, Row

MOST_NAMED = 6
LEAST = 0.001  # of an error that is told


def sentences(of: Findings, lines: tuple[str, str], told: Sequence[str] = ()) -> list[str]:
    """The answer, the most important first; `lines`: to paste, gradlab's and torch's; `told`: comes at the end."""
    if math.isnan(of.best.error[0]):
        return [*_choice(of), *told]
    pasted = [] if of.unresolved else _paste(*lines, of.best.evaluations)
    return [*_choice(of), *_others(of), *_present(of), *_crossing(of), *pasted, *_how(of), *told]


def closing(of: Findings) -> list[str]:
    """The choice among the points of another comparison, and what is as good, in few sentences."""
    return [*_choice(of), *_others(of), *_crossing(of)]


def _choice(of: Findings) -> Iterator[str]:
    best, c = of.best, of.best.candidate
    if of.interrupted:
        yield "Interrupted: this is the best so far."
    if of.unresolved:
        yield f"Cannot tell which estimator is best: {of.unresolved}."
        if math.isnan(best.error[0]):
            return
        yield f"The smallest error measured is that of {c.label}."
    else:
        yield f"Use {c.label}."
    yield (
        f"At tf = {c.tf:g}, its average over {_evaluations(of.averaged)} has an error of {written(*best.error)},"
        " relative to the norm of the exact gradient and at the best scale."
    )


def _others(of: Findings) -> Iterator[str]:
    if math.isnan(of.best.error[0]):
        return
    ste = of.plain
    if of.equivalent:
        yield f"As good, within noise: {_named(of.equivalent)}."
    elif not of.unresolved:
        yield "No other candidate is as good within noise."
    if ste is not None and ste is not of.best:
        if ste.equivalent:
            yield f"Plain {ste.candidate.label} is as good, as far as this measurement can tell."
        else:
            yield f"Plain {ste.candidate.label} is not as good: its error is larger by {written(*ste.excess)}."
    if of.equivalent and of.margin < of.best.error[0]:
        wide = "; more examples or draws will narrow this" * (of.margin > of.best.error[0] / 2)
        yield f"No other error is smaller by more than {plain(max(of.margin, LEAST), 2)}{wide}."
    elif of.equivalent:
        yield "How much smaller another error may be is not known; more examples or draws will tell."


def _named(rows: Sequence[Row]) -> str:
    """Estimators, each with the ranges of its temperatures."""
    of_label: dict[str, list[Row]] = {}
    for row in rows:
        of_label.setdefault(row.candidate.estimator.label, []).append(row)
    parts = []
    for label, members in of_label.items():
        every = [row.candidate for row in members]
        of_tf = _range("tf", [c.tf for c in every if c.names_tf])
        at = [*of_tf, *_range("tb", [c.tb for c in every if c.tb is not None])]
        parts.append(f"{label} at {', '.join(at)}" if at else label)
    more = len(parts) - MOST_NAMED
    return "; ".join(parts[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _range(name: str, values: Sequence[float]) -> list[str]:
    if not values:
        return []
    least, most = min(values), max(values)
    return [f"{name} = {least:g}" if least == most else f"{name} = {least:g} to {most:g}"]


def _present(of: Findings) -> Iterator[str]:
    if of.present is None or math.isnan(of.present.error[0]):
        return
    c = of.present.candidate
    if of.present is of.best:
        yield f"This is the present choice, {c.label}."
        return
    same = ", within noise of the recommended one" if of.present.equivalent else ""
    yield f"The present choice, {c.label}, has an error of {written(*of.present.error)}{same}."
    if not of.present.equivalent and not math.isnan(of.reaches_present):
        evaluations = math.ceil(of.reaches_present)
        yield f"The recommended one is as good as that with {evaluations:,} instead of {of.averaged:,} evaluations."


def _crossing(of: Findings) -> Iterator[str]:
    found = of.crossover
    if found is None or math.isnan(of.best.error[0]):
        return
    low, high = (f"{end:,.0f}" for end in (found.low, found.high))
    if math.isinf(found.n):
        unsure = "" if math.isinf(found.low) else f"; from {low} on, an unbiased one is as good within noise"
        yield f"A biased estimator is best up to a million loss evaluations, the most that was looked at{unsure}."
        return
    if math.isinf(found.high):
        high = "more than a million"
    if found.at_once:
        unsure = "" if found.high == found.n else f"; with fewer than {high}, a biased one is as good within noise"
        yield f"An unbiased estimator is best however few evaluations are averaged ({found.unbiased.label}){unsure}."
        return
    sentence = f"From {found.n:,.0f} [{low}, {high}] loss evaluations on, an unbiased estimator is best"
    yield f"{sentence} ({found.unbiased.label}); with fewer, a biased one ({found.biased.label})."


def _paste(line: str, torch_line: str, evaluations: int) -> Iterator[str]:
    yield f"Paste: {line}"
    if "logits, f" in line:  # surrogate_loss calls f
        x = "x" if evaluations == 1 else f"torch.cat([x] * {evaluations})"
        yield f"Here f = lambda z: model.losses(z, {x}), or any function from codes to one loss per code."
    if torch_line:
        yield f"In torch alone: {torch_line}"


def _how(of: Findings) -> Iterator[str]:
    best = of.best
    whole, rest = divmod(of.averaged, best.evaluations)
    draws = f"{whole:,} to {whole + 1:,} draws" if rest else f"{whole:,} draw{'s' * (whole != 1)}"
    yield (
        f"One draw of {best.candidate.estimator.label} takes {_evaluations(best.evaluations)}, so {of.averaged:,}"
        f" pay{'s' * (of.averaged == 1)} for {draws}; the backward pass to the codes is not counted."
    )
    what = "examples and draws" if of.over_examples else "draws; the examples are taken as given"
    yield f"Intervals hold at 95 % for all candidates of a round together, over {what}."


def _evaluations(number: int) -> str:
    return f"{number:,} loss evaluation{'s' * (number != 1)}"


def too_short(budget: float, took: float, candidates: int, draws: int) -> str:
    """That the budget did not pay for the least number of draws."""
    return (
        f"The budget of {budget:g} s is too short for {candidates} candidates: with the least number of draws,"
        f" {draws} in the last round, this took {took:,.{0 if took >= 10 else 1}f} s."
    )
