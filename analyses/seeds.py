"""Differences between trainings, with intervals over seeds.

Between pairs of temperatures that were named beforehand: seed by seed, since seeds share initial weights and the order
of the images, with Student's t.

Between pairs that are picked for their low loss, and so look better than they are: Tukey's simultaneous intervals,
which hold for all differences at once and so for the one picked. The loss is taken for a sum of what pair and seed give
and a remainder of one variance for all pairs, which pairs of uneven variance make too wide for the steadier ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from gradlab.fidelity.changes import Change
from gradlab.fidelity.metrics import LEVEL, students_t

from .verdicts import Verdict


def losses(ds: xr.Dataset) -> xr.DataArray:
    """Final validation loss (pair, seed) of the pairs of which every seed is done, with coordinates tf and tb."""
    return ds.final_validation_loss.stack(pair=("tf", "tb")).transpose("pair", "seed").dropna("pair")


def at(values: xr.DataArray, tf: Any, tb: Any) -> np.ndarray:
    """(seed,) of one pair."""
    return values.sel(tf=tf, tb=tb).to_numpy().reshape(-1)


def best(values: xr.DataArray, among: np.ndarray) -> np.ndarray:
    """Weights (pair,): 1 for the pair with the lowest mean of those `among`, else 0."""
    means = np.where(among, values.mean("seed").to_numpy(), np.inf)
    return (np.arange(len(means)) == means.argmin()).astype(float)


def named(values: xr.DataArray, tf: Any, tb: Any) -> np.ndarray:
    """Weights (pair,): 1 for this pair, else 0. KeyError if it is not there."""
    found = (values.tf.to_numpy() == tf) & (values.tb.to_numpy() == tb)
    if not found.any():
        raise KeyError(f"tf = {tf}, tb = {tb}: not trained at every seed")
    return found.astype(float)


def picked(values: xr.DataArray, weights: np.ndarray) -> Change:
    """Sum of weights (pair,), which sum to 0, times the mean losses, with Tukey's interval at 95 %.

    Half its width is q s/sqrt(seeds) times half the sum of |weights|: s^2 the mean square of the remainder, q the
    studentised range's quantile for that many pairs. No interval from one seed.
    """
    losses = values.to_numpy()
    count, number = losses.shape
    value = float(weights @ losses.mean(1))
    freedom = (count - 1) * (number - 1)
    if freedom == 0:
        return Change(value, -np.inf, np.inf)
    remainder = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
    s = float(np.sqrt(np.square(remainder).sum() / freedom))
    half = studentised_range(count, freedom) * s / np.sqrt(number) * np.abs(weights).sum() / 2
    return Change(value, value - half, value + half)


@cache
def studentised_range(count: int, freedom: int) -> float:
    """Quantile at 95 % of the range of `count` means; a double integral that takes a tenth of a second."""
    return float(stats.studentized_range.ppf(LEVEL, count, freedom))


def paired(differences: np.ndarray) -> Change:
    """Mean over seeds of differences (seed,) and its 95 % interval, Student's t; no interval from one seed."""
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Change(mean, -np.inf, np.inf)
    half = students_t(LEVEL, count - 1) * float(differences.std(ddof=1)) / np.sqrt(count)
    return Change(mean, mean - half, mean + half)


def lower(claim: str, which: dict[str, str], found: Change, unit: str, note: str = "") -> Verdict:
    """Of the claim that the first of two choices has the lower loss; `found` is first minus second."""
    verdict = {-1: "supported", 0: "undetermined", 1: "contradicted"}[found.sign]
    return Verdict(claim, which, "final_validation_loss", verdict, found, unit=unit, note=note)


def no_better(claim: str, which: dict[str, str], found: Change, margin: float, unit: str, note: str = "") -> Verdict:
    """Of the claim that the first choice's loss is not lower than the second's by more than `margin`."""
    verdict = "supported" if found.low > -margin else "contradicted" if found.high < -margin else "undetermined"
    return Verdict(claim, which, "final_validation_loss", verdict, found, unit=unit, note=note)


def words(values: xr.DataArray, weights: np.ndarray) -> str:
    """The pair that weights pick: "tf 1.6, tb 1.3"."""
    pair = int(weights.argmax())
    return f"tf {values.tf.to_numpy()[pair]:}, tb {values.tb.to_numpy()[pair]:}"
