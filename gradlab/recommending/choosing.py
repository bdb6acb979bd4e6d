"""`gradlab.recommend`: which estimator, and which backward temperature."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from .. import errors
from ..checkpoints import training_described
from ..choices import TARGETS
from ..estimators import Estimator
from ..exact import check_enumerable
from ..fidelity.rarity import rarity
from ..fidelity.reference import choose
from ..methods import MAX_CONFIGURATIONS, Compute
from ..model import LatentModel, check_is_model
from ..numerics import plain_arithmetic
from ..setup import Setup, prepare
from . import measuring
from .candidates import TEMPERATURES, Candidate, candidates, check_laws, present
from .findings import Findings, findings
from .halving import halve
from .measuring import Reference, exact_reference, measured
from .pasting import line, torch_line
from .sentences import sentences
from .table import table


@dataclass(frozen=True)
class Recommendation:
    """The choice, how sure it is, and everything that was compared. `str` gives the answer in sentences.

    Parameters
    ----------
    estimator : label of the chosen estimator, which `gradlab.estimators.parse` takes
    tf, tb : its temperatures; tb is None for an estimator without a relaxation
    error, error_low, error_high : its matched error (see `recommend`), with a 95 % interval
    equivalent : labels of the candidates that are not told from it
    margin : no candidate is better by more, 95 %
    resolved : False where the measurement cannot tell which candidate is best
    line, torch_line : code that trains with it; torch's own spelling is "" where it has none that is the same
    table : Dataset of all candidates
    """

    estimator: str
    tf: float
    tb: float | None
    error: float
    error_low: float
    error_high: float
    equivalent: list[str]
    margin: float
    resolved: bool
    line: str
    torch_line: str
    table: xr.Dataset = field(repr=False)
    said: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(self.said)

    def _repr_html_(self) -> str:
        first, *rest = (html.escape(sentence) for sentence in self.said)
        return f"<p><b>{first}</b></p><p>{'<br>'.join(rest)}</p>"


def recommend(
    model: LatentModel,
    x: Any,
    tf: float | None = None,
    tb: float | Sequence[float] | None = None,
    estimator: str | Estimator | Sequence[str | Estimator] | None = None,
    averaged: int = 100,
    budget: float = 60.0,
    seed: int = 0,
    *,
    target: str = "sampled",
    draws: int | None = None,
    compute: Compute | None = None,
) -> Recommendation:
    """The estimator and backward temperature whose averaged gradient is closest to the exact one, at equal cost.

    The figure compared is the matched error of an average: min over a of E|a average - g|^2 / |g|^2, and its root; a
    learning rate absorbs the scale a. All candidates cost `averaged` loss evaluations: an estimator that takes m of
    them for a draw averages `averaged`/m draws. An error of 1 is that of the answer 0.

    All candidates are measured on few draws and the better ones on more. What is said of the last few comes from a
    last round with noise of its own. Against the enumerated gradient, or on spaces too large to enumerate against an
    unbiased estimator. Ctrl-C gives the best so far.

    Parameters
    ----------
    model : LatentModel
    x : observations (example, ...); intervals are over examples and draws from 8 examples on
    tf : forward temperature. It changes the objective, so it is yours to choose; by default that of the model's
        training, else 1
    tb : your present backward temperature, a number; or a list to choose from, by default 12 from 0.1 to 6. Beside a
        list of estimators, a number is the only one to choose
    estimator : your present estimator, a name or an Estimator, by default that of the model's training, if it is known;
        or a list to choose from, by default the whole catalogue
    averaged : loss evaluations that an average costs: examples of a batch, times the steps that the optimizer averages
        over, times the evaluations of a step
    budget : seconds, about
    seed : the same seed gives the same noise; the number of draws follows the budget and the machine unless `draws` is
        given
    target : law whose expected loss is the objective: "sampled" softmax(l/tf), or "model" softmax(l)
    draws : of the last round, a multiple of 32
    compute : Compute: device, precision, memory, progress bar

    Returns
    -------
    Recommendation, with `table`, the Dataset of all candidates.

    Raises
    ------
    ValueError
        Invalid temperatures, numbers, names or shapes; a temperature without an estimator.

    Examples
    --------
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(10).floats()
    >>> found = gradlab.recommend(model, x, tf=1.6, tb=[0.5, 1.3], estimator=["ste", "rloo:n=4"], draws=64)
    >>> found.estimator, found.tb
    ('rloo(n=4)', None)
    """
    check_is_model(model)
    averaged = errors.whole_number("averaged", averaged, 1)
    target = errors.choice("target", target, TARGETS)
    budget = errors.positive("budget", budget)
    compute = compute or Compute()
    trained = training_described(model.provenance)
    tf = errors.temperature("tf", trained.get("trained_tf", 1.0) if tf is None else tf)
    several = None if estimator is None or isinstance(estimator, str | Estimator) else list(estimator)
    tbs = TEMPERATURES if tb is None or (several is None and np.ndim(tb) == 0) else errors.temperatures("tb", tb)
    with plain_arithmetic(compute.tf32):
        setup = prepare(model, x, compute, seed)
        every, told = candidates(setup.kind, tf, tbs, several, averaged, setup.logits)
        of_today = _today(setup, tf, *(None, None) if several else (estimator, tb), trained)
        if of_today is not None and of_today not in every:
            every.append(of_today)
        check_laws(every, target)
        reference = _reference(setup, tf, target)
        course = halve(
            every,
            lambda some, n, name, advance: measured(setup, some, reference, n, name, advance),
            averaged,
            budget,
            kept_anyway=[of_today] if of_today else [],
            draws=None if draws is None else errors.whole_number("draws", draws, measuring.LEAST_DRAWS) // 32 * 32,
            shown=compute.progress,
        )
        blind = _blind(setup, reference, course.last.draws)
        of = findings(course, of_today, blind, measuring.LEAST_EXAMPLES, len(setup.x))
        return _recommendation(of, setup, reference, told)


def _today(setup: Setup, tf: float, estimator: Any, tb: Any, trained: dict[str, Any]) -> Candidate | None:
    """The present choice, as given, or else as the training recorded it where that can be measured."""
    one_tb = tb if tb is not None and np.ndim(tb) == 0 else None
    if estimator is not None:
        return present(setup.kind, tf, estimator, getattr(estimator, "tb", None) if one_tb is None else one_tb)
    settings = setup.original.provenance.get("settings")
    recorded = settings.get("estimator") if isinstance(settings, dict) else None
    if recorded is None and one_tb is not None:
        raise ValueError(f"tb: expected the present estimator beside the present tb, got {tb!r} alone; pass estimator=")
    at = trained.get("trained_tb") if one_tb is None else errors.temperature("tb", one_tb)
    with contextlib.suppress(ValueError):
        return None if recorded is None else present(setup.kind, tf, recorded, at)
    return None


def _reference(setup: Setup, tf: float, target: str) -> Reference:
    if setup.model.configurations <= MAX_CONFIGURATIONS:
        check_enumerable(setup.model, MAX_CONFIGURATIONS)
        return exact_reference(setup, tf, target)
    return Reference(tf, target, None, choose(setup, [tf if target == "sampled" else 1.0])[0])


def _blind(setup: Setup, reference: Reference, draws: int) -> str:
    """Why draws cannot see the gradient, or ""."""
    known = reference.exact if reference.target == "sampled" else None
    found = rarity(setup.kind, setup.wide_logits, [reference.tf], None if known is None else known[None])
    if bool(found.nothing_left[0]):
        return "all codes are certain, so the exact gradient is almost 0"
    if bool(found.unseen(draws)[0]):
        return (
            "the latents are near-deterministic, and what carries the gradient is hardly ever drawn; take a larger tf"
            " or more examples"
        )
    return ""


def _recommendation(of: Findings, setup: Setup, reference: Reference, told: Sequence[str]) -> Recommendation:
    best: Candidate = of.best.candidate
    binary = setup.model.binary
    said = sentences(of, binary, told)
    about = {"reference": reference.label, "target": reference.target}
    return Recommendation(
        best.estimator.label,
        best.tf,
        best.tb,
        *of.best.error,
        [row.candidate.label for row in of.equivalent],
        of.margin,
        not of.unresolved,
        line(best.estimator, binary),
        torch_line(best.estimator, binary),
        table(of, setup, said, about),
        tuple(said),
    )
