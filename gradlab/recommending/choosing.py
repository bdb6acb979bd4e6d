"""`gradlab.recommend`: which estimator, and which backward temperature."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from .. import errors
from ..checkpoints import training_described
from ..choices import TARGETS
from ..estimators import Estimator
from ..methods import Compute
from ..model import LatentModel
from ..programs.program import Program
from . import measuring
from .answers import Recommendation, Schedule
from .candidates import FORWARD, TEMPERATURES, Candidate, candidates, check_laws, present
from .findings import Findings, findings
from .halving import halve
from .pasting import spelled
from .schedule import everywhere, joined, schedule
from .sentences import sentences, too_short
from .subjects import Subject, subject_of
from .table import table

Model = LatentModel | Program


@overload
def recommend(model: Model, x: Any, *arguments: Any, **named: Any) -> Recommendation: ...


@overload
def recommend(model: Sequence[Model] | Mapping[Any, Model], x: Any, *arguments: Any, **named: Any) -> Schedule: ...


def recommend(
    model: Model | Sequence[Model] | Mapping[Any, Model],
    x: Any,
    tf: float | Sequence[float] | None = None,
    tb: float | Sequence[float] | None = None,
    estimator: str | Estimator | Sequence[str | Estimator] | None = None,
    averaged: int = 100,
    budget: float = 60.0,
    seed: int = 0,
    *,
    target: str = "sampled",
    draws: int | None = None,
    compute: Compute | None = None,
) -> Recommendation | Schedule:
    """The estimator and backward temperature whose averaged gradient is closest to the exact one, at equal cost.

    Candidates are compared by the matched error of an average, the root of min over a of E|a average - g|^2 / |g|^2,
    because a learning rate can correct the scale a. All candidates cost `averaged` loss evaluations: an estimator that
    takes m of them for a draw averages `averaged`/m draws. An error of 1 is no better than a gradient of 0.

    All candidates are measured on few draws and the better ones on more. The last few are measured again with new
    noise, which the answer rests on. The reference is the enumerated gradient, or an unbiased estimator if the code
    space is too large to enumerate. Ctrl-C returns the best so far.

    Parameters
    ----------
    model : LatentModel, or Program, whose gradients are those of its parameters; or several of one training, in a
        list, or in a dict by step
    x : observations (example, ...), of a Program its x. With 8 examples or more, intervals of a LatentModel are over
        examples and draws, else over draws
    tf : forward temperature. It changes the objective, so gradlab does not choose it; by default that of the model's
        training, else 1. With target="model" the objective is fixed: a list to choose from, by default 5 from 0.5 to 2
    tb : your present backward temperature, a number; or a list to choose from, by default 12 from 0.1 to 6. With a
        list of estimators, a number is the only tb that is compared
    estimator : your present estimator, a name or an Estimator, by default that of the model's training, if it is known;
        or a list to choose from, by default the whole catalogue. A temperature that a name states, as "ste:tb=0.5", is
        kept
    averaged : loss evaluations in one average: examples of a batch, times the steps that the optimizer averages, times
        the evaluations of an example in a step
    budget : approximate number of seconds for each model
    seed : the same seed gives the same noise; the number of draws follows the budget and the machine unless `draws` is
        given
    target : law whose expected loss is the objective: "sampled" softmax(l/tf), or "model" softmax(l)
    draws : of the last round, a multiple of 32
    compute : Compute: device, precision, memory, progress bar

    Returns
    -------
    Recommendation, with `table`, the Dataset of all candidates. Of several models a Schedule, which holds one for each
    and says whether one choice serves throughout.

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

    Along a training, here with its first and its last model:

    >>> first = gradlab.networks.build("categorical-vae", {"latents": 4, "categories": 8}, seed=0)
    >>> along = {"epoch 0": first, "epoch 160": model}
    >>> schedule = gradlab.recommend(along, x, tf=1.6, tb=[0.5, 1.3], estimator=["ste", "rloo:n=4"], draws=64)
    >>> [(step, found.estimator) for step, found in schedule]
    [('epoch 0', 'ste'), ('epoch 160', 'rloo(n=4)')]
    """
    given = _Asked(tf, tb, estimator, averaged, budget, seed, target, draws, compute)
    if isinstance(model, Mapping | Sequence) and not isinstance(model, str):
        return _along(model, x, given)
    return _one(model, x, given)


class _Asked:
    """The arguments of `recommend`, checked."""

    def __init__(
        self,
        tf: Any,
        tb: Any,
        estimator: Any,
        averaged: Any,
        budget: Any,
        seed: Any,
        target: Any,
        draws: Any,
        compute: Compute | None,
    ):
        self.target = errors.choice("target", target, TARGETS)
        self.averaged = errors.whole_number("averaged", averaged, 1)
        self.budget = errors.positive("budget", budget)
        self.seed, self.compute = seed, compute or Compute()
        self.draws = None if draws is None else errors.whole_number("draws", draws, measuring.LEAST_DRAWS) // 32 * 32
        self.tf = None if tf is None else errors.temperatures("tf", tf)
        if self.tf and len(self.tf) > 1 and self.target == "sampled":
            raise ValueError(
                f"tf: expected one, since it changes the objective, got {len(self.tf)}; to choose among several, take"
                " target='model', which fixes the objective"
            )
        alone = estimator is None or isinstance(estimator, str | Estimator)
        self.estimator = estimator if alone else None  # that of today
        if not (alone or isinstance(estimator, Iterable)) or isinstance(estimator, type):
            raise ValueError(f"estimator: expected a name, an Estimator, or a list of these, got {estimator!r}")
        self.among = None if alone else list(estimator)
        one_tb = tb is not None and np.ndim(tb) == 0
        self.tb = errors.temperature("tb", tb) if one_tb and self.among is None else None  # that of today
        self.tbs = TEMPERATURES if tb is None or self.tb else tuple(errors.temperatures("tb", tb))

    def tfs(self, trained: Mapping[str, Any]) -> list[float]:
        """The forward temperatures to choose from."""
        if self.tf is not None:
            return self.tf
        return [*FORWARD] if self.target == "model" else [errors.temperature("tf", trained.get("trained_tf", 1.0))]


def _one(model: Model, x: Any, asked: _Asked) -> Recommendation:
    began = time.monotonic()
    with subject_of(model, x, asked.compute, asked.seed) as subject:
        trained = training_described(dict(subject.provenance))
        tfs = asked.tfs(trained)
        every, told = candidates(subject, tfs, asked.tbs, asked.among, asked.averaged)
        today = _today(subject, tfs, asked, trained)
        if today is not None and (cost := subject.evaluations(today.estimator)) > asked.averaged:
            told.append(
                f"The present choice, {today.label}, is not compared: one draw costs {cost:,} loss evaluations, more"
                f" than the {asked.averaged:,} of the average."
            )
            today = None
        elif today is not None and today not in every:
            every.append(today)
        check_laws(every, asked.target)
        reference = subject.refer(tfs[0], asked.target)
        course = halve(
            every,
            subject.measured,
            asked.averaged,
            asked.budget,
            kept_anyway=[today] if today else [],
            draws=asked.draws,
            shown=asked.compute.progress,
        )
        blind = _blind(subject, course.best.tf, course.last.draws)
        of = findings(course, today, blind, subject.over_examples)
        took = time.monotonic() - began
        if asked.draws is None and took > 2 * asked.budget and not of.interrupted:
            told.append(too_short(asked.budget, took, len(every), course.last.draws))
        return _recommendation(of, subject, told, {"reference": reference, "target": asked.target})


def _today(subject: Subject, tfs: Sequence[float], asked: _Asked, trained: Mapping[str, Any]) -> Candidate | None:
    """The present choice, as given, or else as the training recorded it where that can be measured."""
    tf, several = tfs[0] if len(tfs) == 1 else trained.get("trained_tf", 1.0), len(tfs) > 1
    if asked.estimator is not None:
        return present(subject, tf, asked.estimator, asked.tb, several)
    settings = subject.provenance.get("settings")
    recorded = settings.get("estimator") if isinstance(settings, dict) else None
    if recorded is None and asked.tb is not None:
        raise ValueError(
            f"tb: expected the present estimator beside the present tb, got {asked.tb:g} alone; name the estimator too"
        )
    with contextlib.suppress(ValueError):
        return present(subject, tf, recorded, trained.get("trained_tb") if asked.tb is None else asked.tb, several)
    return None


def _blind(subject: Subject, tf: float, draws: int) -> str:
    """Why draws cannot see the gradient, or ""."""
    found = subject.rare(tf)
    if bool(found.nothing_left[0]):
        return "all codes are certain, so the exact gradient is almost 0"
    if bool(found.unseen(draws)[0]):
        return (
            "the latents are near-deterministic, and what carries the gradient is hardly ever drawn; take a larger tf"
            " or more examples"
        )
    return ""


def _recommendation(of: Findings, subject: Subject, told: Sequence[str], about: dict[str, Any]) -> Recommendation:
    best: Candidate = of.best.candidate
    lines = subject.lines(best.estimator)
    said = sentences(of, lines, told)
    return Recommendation(
        best.estimator.label,
        best.tf,
        best.tb,
        *of.best.error,
        [row.candidate.label for row in of.equivalent],
        of.margin,
        not of.unresolved,
        spelled(best.estimator),
        *lines,
        table(of, subject, said, about),
        tuple(said),
    )


def _along(models: Any, x: Any, asked: _Asked) -> Schedule:
    """A recommendation for each model; on Ctrl-C, of those so far."""
    every = list(models.values()) if isinstance(models, Mapping) else list(models)
    if not every:
        raise ValueError("model: expected at least one, got none")
    found: list[Recommendation] = []
    for one in every:
        try:
            found.append(_one(one, x, asked))
        except KeyboardInterrupt:  # before a first round of this one
            if not found:
                raise
            found[-1].table.attrs["interrupted"] = 1
        if found[-1].table.attrs["interrupted"]:
            break
    steps, tables = _steps(models, every)[: len(found)], [of.table for of in found]
    return Schedule(steps, found, everywhere(tables), joined(tables, steps), tuple(schedule(steps, tables)))


def _steps(models: Any, every: Sequence[Any]) -> list[str]:
    """What the models are called: the keys of a dict, or their epochs, or their positions."""
    if isinstance(models, Mapping):
        return [f"step {key}" if isinstance(key, int) else str(key) for key in models]
    epochs = [training_described(dict(getattr(one, "provenance", {}))).get("trained_epochs") for one in every]
    if None not in epochs and len(set(epochs)) == len(epochs):
        return [f"epoch {epoch}" for epoch in epochs]
    return [f"model {k + 1}" for k in range(len(every))]
