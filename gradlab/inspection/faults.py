"""What is wrong with a layer, in sentences: its values, its law, its temperatures, its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..latents import BINARY, LatentKind
from .laws import CHANCE, Law
from .matching import LOOSE, Match, label, matches
from .setting import Runs, Setting

CLOSE = 1e-9  # of two runs that a temperature does not change
STEP = 1e-5  # of numerical derivatives
JUMP = 1e-3  # of a value, that no continuous function has


def of_values(setting: Setting, runs: Runs, values: str) -> tuple[str, list[str]]:
    """The values, "other" for relaxed ones that jump as the logits change, and what is wrong with them."""
    z = runs.z
    if sets := of_sets(setting.kind, runs):
        return values, [sets]
    if values == "other":
        between = f"values between {float(z.min()):.3g} and {float(z.max()):.3g}"
        if setting.kind is not BINARY:
            sums = z.sum(-1)
            ends = f"{float(sums.min()):.3g} and {float(sums.max()):.3g}"
            between += f", whose sums over the categories are between {ends}"
        return values, [f"Its codes are neither one-hot nor relaxed: {between}."]
    if values == "one-hot":
        return values, []
    different = len(torch.unique(z.flatten(0, 1).round(decimals=8), dim=0))
    if different <= (2 if setting.kind is BINARY else z.shape[-1]):
        return "other", [f"Its codes are not one-hot, and yet they take only {different} different values."]
    if (jump := _jump(setting, runs)) > JUMP:
        return "other", [
            f"Its codes are neither one-hot nor relaxed: they jump by {jump:.2g} where the logits change by nothing"
            " (a hard code times a soft one?)."
        ]
    return values, []


def of_sets(kind: LatentKind, runs: Runs) -> str:
    """A sentence on k-hot codes, k > 1; "" of others."""
    sums = runs.z.sum(-1)
    k = round(float(sums.flatten()[0]))
    of_zeros_and_ones = bool(((runs.z - runs.z.round()).abs() < CLOSE).all() and runs.z.amin() > -CLOSE)
    if kind is BINARY or k < 2 or not of_zeros_and_ones or not bool(((sums - k).abs() < CLOSE).all()):
        return ""
    return (
        f"Its codes are {k}-hot: each latent takes {k} categories, and what is measured here is of codes that take one;"
        f" gradlab has such codes as LatentModel(top_k={k}) and sample(logits, top_k={k})."
    )


def _jump(setting: Setting, runs: Runs) -> float:
    """The largest jump of the values along straight lines through the logits, at fixed noise."""
    rows, steps = 12, 200
    noise = setting.noise("rows", len(runs.z))[:, :rows]
    direction = setting.numbers("line", rows, *setting.shape)

    def values(at: Tensor) -> Tensor:
        logits = runs.logits[:rows] + at.reshape(-1, *[1] * len(setting.shape)) * direction
        return setting.plan.run(setting.layer, setting.kind, logits, noise, runs.tf, runs.tb)[0]

    grid = torch.linspace(-4, 4, steps + 1, dtype=torch.float64)
    found = torch.stack([values(at.expand(rows)) for at in grid])
    largest = (found[1:] - found[:-1]).abs().flatten(2).amax(-1).argmax(0)
    low, high = grid[largest], grid[largest + 1]
    of_low, of_high = values(low), values(high)
    for _ in range(40):  # the half with the larger change
        middle = (low + high) / 2
        of_middle = values(middle)
        below = (of_middle - of_low).abs().flatten(1).amax(1) > (of_high - of_middle).abs().flatten(1).amax(1)
        shaped = below.reshape(-1, *[1] * len(setting.shape))
        low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        of_low, of_high = torch.where(shaped, of_low, of_middle), torch.where(shaped, of_middle, of_high)
    return float((of_high - of_low).abs().max())


def of_law(here: Law, doubled: Mapping[str, Law], taken: Sequence[str], read: Sequence[str]) -> list[str]:
    """Codes that follow no softmax(l/t), or another one than the arguments say, or not each latent by itself.

    A tf that is taken and not `read` is no fault at tf = 1.
    """
    found = []
    if not here.follows:
        why = here.instead or f"no t fits the counts of its categories (p = {here.fit.p_value:.1g})"
        found.append(f"Its codes do not follow softmax(l/t): {why}.")
    elif "tf" in taken and not here.is_at(here.tf):
        found.append(_other(here, doubled))
    elif "tf" in read and (at := doubled["tf"]).follows and not at.is_at(at.tf):
        found.append(_other(at, doubled))
    elif here.follows and {"tf", "tb"} <= set(taken) and not doubled["tb"].is_at(here.tf):
        found.append(f"What its codes follow changes with tb: at tb = {doubled['tb'].tb:g} it is not softmax(l/tf).")
    if here.together < CHANCE:
        found.append("The codes of one latent depend on those of another: they share random numbers.")
    return found


def _other(of: Law, doubled: Mapping[str, Law]) -> str:
    whose = _whose(of, doubled)
    return f"Its codes follow softmax(l/{of.fit.temperature:.3g}) at tf = {of.tf:g}, not softmax(l/tf){whose}."


def _whose(of: Law, doubled: Mapping[str, Law]) -> str:
    if of.is_at(of.tb) and "tb" in doubled and doubled["tb"].is_at(doubled["tb"].tb):
        return ": it is tb that they follow"
    if of.is_at(1.0):
        return ": tf has no part in it (is the noise added before the division?)"
    return ""


def idle(setting: Setting, runs: Runs, name: str) -> bool:
    """Whether a temperature changes neither codes nor gradients."""
    for factor in (0.5, 2.0):
        tf, tb = (runs.tf * factor, runs.tb) if name == "tf" else (runs.tf, runs.tb * factor)
        other = setting.runs(tf, tb, len(runs.z))
        if not (_close(other.z, runs.z) and _close(other.estimate, runs.estimate)):
            return False
    return True


def is_read(setting: Setting, runs: Runs, name: str) -> bool:
    """Whether NaN in the place of a temperature does anything."""
    tf, tb = (math.nan, runs.tb) if name == "tf" else (runs.tf, math.nan)
    try:
        other = setting.runs(tf, tb, len(runs.z))
    except ValueError:
        return True
    return not (_close(other.z, runs.z) and _close(other.estimate, runs.estimate))


def of_gradient(
    setting: Setting,
    runs: Runs,
    values: str,
    found: Sequence[Match],
    doubled: Mapping[str, tuple[float, float]],
    active: Sequence[str],
) -> list[str]:
    """A gradient that is 0, that is another entry's but for a factor, or that is not the derivative of the values."""
    if float(runs.estimate.abs().max()) == 0:
        return ["Its gradient is 0."]
    if found and abs(found[0].scale - 1) > LOOSE:
        return [f"Its gradient is {found[0].scale:.4g} times that of {label(found[0].entry)}."]
    for name in active:
        if not found:
            break
        tf, tb = doubled[name]
        again = setting.runs(tf, tb, len(runs.z))
        if sentence := _elsewhere(setting, again, [m for m in found if abs(m.scale - 1) < LOOSE], runs):
            return [sentence]
    if values == "relaxed" and not found and (off := _not_a_derivative(setting, runs)) > 1e-3:
        return [f"Its gradient is not the derivative of its values: it is {100 * off:.0f} % off."]
    return []


def _elsewhere(setting: Setting, again: Runs, same: Sequence[Match], runs: Runs) -> str:
    """What is wrong at doubled temperatures with a layer that is an entry at the others; "" if nothing is."""
    entry = same[0].entry
    tf = entry.tf * (again.tf / runs.tf if math.isclose(entry.tf, runs.tf) else 1)
    tfs = list(dict.fromkeys([tf, entry.tf, again.tf, 1.0]))
    found = matches(again, setting.kind, tfs, same[0].draws, {type(match.entry) for match in same})
    if not found:
        return ""
    at = f"At tf = {again.tf:g}, tb = {again.tb:g}"
    if all(abs(m.scale - 1) > LOOSE for m in found):
        return f"{at} its gradient is {found[0].scale:.4g} times that of {label(found[0].entry)}."
    allowed = {runs.tb, again.tb, runs.tf, again.tf, 1.0, entry.tb if hasattr(entry, "tb") else 1.0}
    for m in found:
        tb = getattr(m.entry, "tb", None)
        if tb is None or any(math.isclose(tb, one, rel_tol=1e-4) for one in allowed):
            return ""
    return f"{at} it is {label(found[0].entry)}: its temperature is not used as it stands."


def _not_a_derivative(setting: Setting, runs: Runs) -> float:
    """How far (d/dl) <z, v> is from central differences in one random direction a row, relative."""
    few = 100
    direction = torch.sign(setting.numbers("direction", few, *setting.shape))
    noise = setting.noise("rows", len(runs.z))[:, :few]

    def values(step: float) -> Tensor:
        logits = runs.logits[:few] + step * direction
        z, _ = setting.plan.run(setting.layer, setting.kind, logits, noise, runs.tf, runs.tb)
        return (z * runs.v[:few]).flatten(1).sum(1)

    numerical = (values(STEP) - values(-STEP)) / (2 * STEP)
    given = (runs.estimate[:few] * direction).flatten(1).sum(1)
    return float((numerical - given).abs().median() / (numerical.abs().median() + 1e-300))


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * float(other.abs().max()))
