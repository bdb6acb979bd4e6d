"""Layers of other packages by their names there: `torch:gumbel-softmax(tau=0.5, hard=True)`.

A name is PACKAGE:LAYER with the layer's own arguments, and stands for an entry of the catalogue at the temperatures
that the layer has. Each was compared with the layer itself, draw by draw (`gradlab.check_layer`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .. import errors, specs

_NAME = re.compile(r"([a-z][a-z-]*):([A-Za-z][\w-]*?)(?:\((.*)\)|:(.*=.*))?", re.DOTALL)


@dataclass(frozen=True)
class Meaning:
    """A catalogue entry, in a text, and the temperatures that the layer has; None: those it is measured at."""

    entry: str
    tf: float | None = 1.0
    tb: float | None = None


@dataclass(frozen=True)
class Word:
    """A layer: its arguments with their defaults (None: has to be given, or is tb), and what it means."""

    arguments: dict[str, Any]
    meaning: Callable[..., Meaning]
    layer: str  # as it is written there
    latents: str = "categorical"


def _gumbel_softmax(tau: float | None, hard: bool) -> Meaning:
    return Meaning("st-gs:convention=jang" if hard else "gumbel-softmax", tb=tau)


def _relaxed(temperature: float | None) -> Meaning:
    return Meaning("gumbel-softmax", tb=temperature)


def _hard(temperature: float | None) -> Meaning:
    return Meaning("st-gs:convention=jang", tb=temperature)


def _sampled() -> Meaning:
    return Meaning("ste", tb=1.0)


def _gumbel_sample(temperature: float | None) -> Meaning:
    return Meaning("ste", tf=temperature, tb=temperature)


TEMPERATURE: dict[str, Any] = {"temperature": None}
WORDS = {
    "torch:gumbel-softmax": Word(
        {"tau": None, "hard": False}, _gumbel_softmax, "torch.nn.functional.gumbel_softmax", "both"
    ),
    "torch:one-hot-categorical-straight-through": Word(
        {}, _sampled, "torch.distributions.OneHotCategoricalStraightThrough"
    ),
    "torch:relaxed-one-hot-categorical": Word(TEMPERATURE, _relaxed, "torch.distributions.RelaxedOneHotCategorical"),
    "torch:relaxed-bernoulli": Word(TEMPERATURE, _relaxed, "torch.distributions.RelaxedBernoulli", "binary"),
    "pyro:one-hot-categorical-straight-through": Word(
        {}, _sampled, "pyro.distributions.OneHotCategoricalStraightThrough"
    ),
    "pyro:relaxed-one-hot-categorical": Word(TEMPERATURE, _relaxed, "pyro.distributions.RelaxedOneHotCategorical"),
    "pyro:relaxed-one-hot-categorical-straight-through": Word(
        TEMPERATURE, _hard, "pyro.distributions.RelaxedOneHotCategoricalStraightThrough"
    ),
    "pyro:relaxed-bernoulli": Word(TEMPERATURE, _relaxed, "pyro.distributions.RelaxedBernoulli", "binary"),
    "pyro:relaxed-bernoulli-straight-through": Word(
        TEMPERATURE, _hard, "pyro.distributions.RelaxedBernoulliStraightThrough", "binary"
    ),
    "reinmax:reinmax": Word({"tau": None}, lambda tau: Meaning("reinmax", tb=tau), "reinmax.reinmax"),
    "vector-quantize-pytorch:gumbel-sample": Word(
        TEMPERATURE, _gumbel_sample, "gumbel_sample(stochastic=True, straight_through=True)"
    ),
}


def is_word(text: Any) -> bool:
    """Whether a text is written as the layer of a package that is known here."""
    packages = {name.split(":")[0] for name in WORDS}
    found = _NAME.fullmatch(text) if isinstance(text, str) else None
    return found is not None and found[1] in packages


def meaning(text: str) -> Meaning:
    """What a name means.

    Raises UnknownName, a ValueError, for an unknown layer or argument, with the near matches; ValueError for a value
    out of range.
    """
    found = _NAME.fullmatch(text)
    name = f"{found[1]}:{_plain(found[2])}" if found else text
    if found is None or name not in WORDS:
        raise errors.unknown_name("estimator", text, WORDS)
    word = WORDS[name]
    given = specs.parts(f"{found[2]}({found[3] or found[4] or ''})")[1]
    for argument, value in given.items():
        if argument not in word.arguments:
            raise errors.unknown_name(f"estimator {name}", argument, word.arguments)
        if argument in ("tau", "temperature"):
            given[argument] = errors.temperature(f"estimator: {name}: {argument}", value)
        elif not isinstance(value, bool):
            raise ValueError(f"estimator: {name}: {argument}: expected True or False, got {value!r}")
    return word.meaning(**(word.arguments | given))


def translated(text: str) -> str:
    """The catalogue entry that a name stands for, without its temperatures; any other text as it is."""
    return meaning(text).entry if is_word(text) else text


def stated_tb(texts: Iterable[Any]) -> float | None:
    """The one backward temperature that names among `texts` state; None if there is none, or several."""
    found = {tb for text in texts if is_word(text) and (tb := meaning(text).tb) is not None}
    return found.pop() if len(found) == 1 else None


def check_temperatures(texts: Iterable[Any], tfs: Iterable[float | str], tbs: Iterable[float | str]) -> None:
    """Raises ValueError where a name is to be used at other temperatures, or schedules, than its layer has."""
    measured = {"tf": list(tfs), "tb": list(tbs)}
    for text in texts:
        if not is_word(text):
            continue
        of = meaning(text)
        for argument, own in (("tf", of.tf), ("tb", of.tb)):
            others = [t for t in measured[argument] if own is not None and t != own]
            if others:
                raise ValueError(
                    f"{argument}: expected {own:g}, the only one that {text} has, got {others[0]}; for other"
                    f" temperatures take {of.entry}"
                )


def _plain(name: str) -> str:
    """gumbel_softmax and GumbelSoftmax as gumbel-softmax."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).replace("_", "-").lower()
