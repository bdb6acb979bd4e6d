"""`check_layer`: run a layer, name what it is, list what is wrong with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..estimators import Estimator, LayerWarning, conformance
from ..estimators.foreign.calling import Arguments, modes, name_of
from ..estimators.foreign.estimator import LayerEstimator, estimator_class
from ..estimators.foreign.habits import LayerNote, changes_its_logits
from ..estimators.foreign.probe import rounding, some_logits, tried
from ..estimators.foreign.running import Layer, Recorder, forms, values_of
from ..latents import BINARY, CATEGORICAL, LatentKind, derived_seed
from ..numerics import plain_arithmetic
from . import faults
from .laws import Law, law
from .matching import LOOSE, at_other_noise, matches
from .report import LayerReport
from .setting import Runs, Setting

ROWS = 400  # at which gradients are compared
BIAS_DRAWS = 20_000
NEAR = 0.02  # relative difference of gradients up to which an entry is worth a note


@plain_arithmetic()
def check_layer(
    layer: Callable[..., Tensor] | Estimator,
    *,
    categories: int = 5,
    latents: int = 3,
    binary: bool = False,
    tf: float = 1.0,
    tb: float = 1.0,
    seed: int = 0,
) -> LayerReport:
    """What a layer samples, what its gradient is, which entry of the catalogue it is, and what is wrong with it.

    The layer runs in float64 on random logits, its random calls answered from gradlab's noise. Its codes are counted,
    and its vector-Jacobian products are compared row by row with those of every catalogue entry on the same noise, at
    (tf, tb) and at twice each temperature. torch's random state is left alone.

    Parameters
    ----------
    layer : a function as for `gradlab.estimators.from_layer`, or an estimator which that made
    categories, latents : shape of the codes, (latent, category)
    binary : logits and codes are (latent,), one for each unit
    tf, tb : temperatures that the layer is given, if it takes them
    seed : of logits and noise. A correct layer is reported to have a problem in fewer than 1 of 100,000 seeds

    Returns
    -------
    LayerReport; print it to read it.

    Raises
    ------
    ValueError
        Arguments that are out of range; a layer that cannot be run.

    Examples
    --------
    >>> hard = lambda logits, tau: torch.nn.functional.gumbel_softmax(logits, tau, hard=True)
    >>> report = gradlab.check_layer(hard, tb=2)
    >>> report.values, report.same_as
    ('one-hot', ['st-gs(convention=jang) at tf=1, tb=2'])
    >>> report.without_effect, report.problems
    (['tf'], [])
    """
    shape: tuple[int, ...] = (errors.whole_number("latents", latents, 1),)
    shape += () if binary else (errors.whole_number("categories", categories, 2),)
    tf, tb = errors.temperature("tf", tf), errors.temperature("tb", tb)
    seed = errors.whole_number("seed", seed, 0)
    kind = BINARY if binary else CATEGORICAL
    written = _written(layer)
    like = torch.zeros(shape, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LayerWarning)
        try:
            plan = tried(written, kind, like).plan
        except ValueError as error:
            return _unmeasurable(written, kind, like, tf, tb, error)
    setting = Setting(written, plan, kind, shape, seed)
    said: dict[bool, list[str]] = {True: [], False: []}  # notes, problems
    for one in caught:
        if issubclass(one.category, LayerWarning):
            said[issubclass(one.category, LayerNote)].append(_sentence(str(one.message)))
    return _inspected(setting, tf, tb, said[False], said[True])


def _written(layer: Any) -> Layer:
    if isinstance(layer, LayerEstimator):
        return Layer(layer.name, layer.layer.arguments, discrete=False, law="tf")
    if not callable(layer):
        raise ValueError(f"layer: expected a function of logits, got a {type(layer).__name__}")
    return Layer(name_of(layer), Arguments(layer), discrete=False, law="tf")


def _unmeasurable(layer: Layer, kind: LatentKind, like: Tensor, tf: float, tb: float, why: ValueError) -> LayerReport:
    """The report on a layer that runs, and that no measurement can use. Raises `why` for one that does not run."""
    for form in forms(kind):
        try:
            z, _ = layer.run(form, some_logits(64, like), tf, tb, Recorder())
        except ValueError:
            continue
        return LayerReport(
            layer.name,
            tf,
            tb,
            values_of(kind, z),
            problems=[_sentence(str(why))],
            notes=modes(layer.arguments.function),
        )
    raise why


def _inspected(setting: Setting, tf: float, tb: float, problems: list[str], notes: list[str]) -> LayerReport:
    taken = setting.layer.arguments.taken
    runs = setting.runs(tf, tb, ROWS)
    values = values_of(setting.kind, runs.z)
    here = law(setting, tf, tb)
    doubled = {"tf": (2 * tf, tb), "tb": (tf, 2 * tb)}
    at_doubled = {name: law(setting, *doubled[name]) for name in taken}
    idle = [name for name in ("tf", "tb") if name not in taken or faults.idle(setting, runs, name)]
    read = [name for name in taken if name not in idle or faults.is_read(setting, runs, name)]
    t = _temperature(here, tf, tb)
    tfs = list(dict.fromkeys([t, 1.0, tf, tb, float(f"{t:.6g}")]))
    found = matches(runs, setting.kind, tfs, here.follows)
    same = [match for match in found if abs(match.scale - 1) < LOOSE]
    values, wrong = faults.of_values(setting, runs, values)
    problems += wrong
    sets = faults.of_sets(setting.kind, runs)
    of_law = [] if sets else faults.of_law(here, at_doubled, taken, read)
    problems += of_law
    problems += [
        f"{name} is used and changes neither codes nor gradient."
        for name in read
        if name in idle and not any(name in sentence for sentence in of_law)
    ]
    problems += faults.of_gradient(setting, runs, values, found, doubled, [n for n in taken if n not in idle])
    if not found and (of_other := at_other_noise(runs, setting.kind, t)) is not None:
        problems.append(
            f"Its gradient is that of {of_other.label} at other random numbers than those of its codes: it draws its"
            " noise twice."
        )
    elif not found:
        notes += _near(runs, setting.kind, tfs, here.follows)
    greedy = here.greedy
    return LayerReport(
        name=setting.layer.name,
        tf=tf,
        tb=tb,
        values=values,
        temperature=0.0 if greedy else here.fit.temperature,
        temperature_low=0.0 if greedy else here.fit.low,
        temperature_high=0.0 if greedy else here.fit.high,
        follows=here.follows,
        same_as=[match.label for match in same],
        without_effect=idle,
        problems=problems,
        notes=notes + _notes(setting, runs, same),
        bias={} if sets else _bias(setting, here, values, tf, tb),
    )


def _temperature(of: Law, tf: float, tb: float) -> float:
    """The t that the codes follow: one of the likely numbers if it fits, else the most likely; tf if none does."""
    if not of.follows:
        return tf
    for t in (tf, 1.0, tb, tf * tb, tb / tf, tf / tb, float(f"{of.fit.temperature:.2g}")):
        if t > 0 and of.is_at(t):
            return t
    return min(max(of.fit.temperature, 0.01), 100.0)


def _near(runs: Runs, kind: LatentKind, tfs: list[float], lawful: bool) -> list[str]:
    """What it is but for a small difference, as half precision or a number added inside a logarithm makes."""
    found = matches(runs, kind, tfs, lawful, limit=NEAR)
    if not found:
        return []
    nearest = min(found, key=lambda match: (match.off, abs(match.scale - 1)))
    eps = rounding(runs.estimate)
    narrow = next((str(t)[6:] for t in (torch.bfloat16, torch.float16, torch.float32) if torch.finfo(t).eps == eps), "")
    why = f"; it computes in {narrow}" if narrow else ""
    scale = "" if abs(nearest.scale - 1) < NEAR else f"{nearest.scale:.3g} times "
    return [f"Its gradient is {scale}that of {nearest.label} within {100 * nearest.off:.2g} %{why}."]


def _notes(setting: Setting, runs: Runs, same: list) -> list[str]:
    given = setting.layer.arguments
    notes = modes(given.function)
    if "tau" in given.by_name or "temperature" in given.by_name:
        name = next(name for name in ("tau", "temperature") if name in given.by_name)
        notes.append(f"Its argument {name} is given tb.")
    if any(not match.draws for match in same):
        notes.append("It samples with other random numbers than the catalogue; its gradient is that at the same code.")
    few = slice(0, 8)
    if changes_its_logits(setting.layer, runs.logits[few], setting.plan, setting.kind, setting.noise("rows", 8)):
        notes.append("It changes its logits in place: what is made of them after it, such as a KL, is of others.")
    if setting.plan.form != "rows":
        notes.append("It is called with one row for each latent, since it does not take (row, latent, category).")
    if calls := [of.name for of in setting.plan.layouts]:
        notes.append(f"Random calls: {', '.join(calls)}.")
    return notes


def _bias(setting: Setting, here: Law, values: str, tf: float, tb: float) -> dict[str, conformance.Verdict]:
    """On the named problems, against the exact gradient of the law that it samples, or else of softmax(l/tf)."""
    stated = "tf" if here.is_at(tf) or not here.is_at(1.0) else "model"
    cls = estimator_class(setting.layer, (setting.kind.name,), values == "one-hot", stated, trusted=True)
    found = {}
    for problem in conformance.problems_of(cls()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LayerWarning)
                found[problem.name] = conformance.bias(
                    cls(tf=tf, tb=tb), problem, draws=BIAS_DRAWS, seed=derived_seed(setting.seed, "bias") >> 31
                )
        except ValueError:  # a layer for one number of categories
            continue
    return found


def _sentence(text: str) -> str:
    """The message of an error as a sentence."""
    text = text.split(": ", 2)[2] if text.startswith("layer: ") and text.count(": ") > 1 else text
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"
