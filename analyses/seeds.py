"""Differences between trainings, with intervals over seeds.

Between pairs of temperatures that were named beforehand: seed by seed, since seeds share initial weights and the order
of the images, with Student's t.

Between pairs that are picked for their low loss, and so look better than they are: Games and Howell's intervals, which
allow for the choice among all pairs, and take the variance of each pair from its own seeds. One variance for all pairs
(Tukey) is wrong here: a pair that collapses at some seeds has a hundred times the variance of one that never does.

A pair with failed seeds is never picked while others have more seeds done, and every verdict names it.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from gradlab.fidelity.differences import Change
from gradlab.statistics.jackknife import LEVEL, students_t
from gradlab.sweeps import collapsed

from .verdicts import Verdict

LOSS = "final_validation_loss"
NODES = 1.25  # ratio of the degrees of freedom between which quantiles are interpolated


def losses(ds: xr.Dataset, name: str = LOSS) -> xr.DataArray:
    """Final loss (pair, seed) with coordinates tf and tb; NaN where a training failed; pairs with no loss left out."""
    values = ds[name].assign_coords(collapsed=collapsed(ds).sum("seed"))
    return values.stack(pair=("tf", "tb")).transpose("pair", "seed").dropna("pair", how="all")


def at(values: xr.DataArray, tf: Any, tb: Any) -> np.ndarray:
    """(seed,) of one pair. KeyError if it is not there."""
    return values[named(values, tf, tb)].to_numpy()


def best(values: xr.DataArray, among: np.ndarray) -> int:
    """The pair with the lowest mean of those `among` (pair,) with the most seeds done. KeyError if there is none."""
    done = np.where(among, values.notnull().sum("seed").to_numpy(), 0)
    if not done.any():
        raise KeyError("no pair of these is trained")
    means = np.where(done == done.max(), values.mean("seed").to_numpy(), np.inf)
    return int(means.argmin())


def named(values: xr.DataArray, tf: Any, tb: Any) -> int:
    """This pair. KeyError if it is not there."""
    found = np.flatnonzero((values.tf.to_numpy() == tf) & (values.tb.to_numpy() == tb))
    if not len(found):
        raise KeyError(f"tf = {tf}, tb = {tb}: not trained")
    return int(found[0])


def picked(values: xr.DataArray, *differences: tuple[int, int]) -> Change:
    """Sum over `differences` (a, b) of pair a's mean loss minus pair b's, with Games and Howell's interval at 95 %.

    Half the width of one: q(k, nu) sqrt((s_a^2/n_a + s_b^2/n_b)/2), with q the studentised range's quantile for all k
    pairs of `values`, s^2 the variance over the n seeds of a pair and nu Welch's degrees of freedom; of a sum, the sum.
    Infinite from one seed, and where all losses of both pairs are the same.
    """
    value, half = 0.0, 0.0
    for a, b in differences:
        of_a, of_b = (values.variable[pair] for pair in (a, b))
        value += float(of_a.mean() - of_b.mean())
        if a != b:
            done = [of.values[~np.isnan(of.values)] for of in (of_a, of_b)]
            half += _games_howell(done[0], done[1], len(values))
    return Change(value, value - half, value + half)


def _games_howell(a: np.ndarray, b: np.ndarray, count: int) -> float:
    """Half the width of the interval of one difference of means."""
    if min(len(a), len(b)) < 2:
        return math.inf
    squared = np.array([np.var(one, ddof=1) / len(one) for one in (a, b)])
    if not squared.sum():
        return math.inf
    freedom = squared.sum() ** 2 / (squared**2 / [len(a) - 1, len(b) - 1]).sum()
    return studentised_range(count, freedom) * math.sqrt(squared.sum() / 2)


def studentised_range(count: int, freedom: float) -> float:
    """Quantile at 95 % of the range of `count` means, from 2 degrees of freedom on within 0.1 %, at 1 within 0.3 %.

    Its logarithm is interpolated along 1/freedom, for two double integrals would take half a second.
    """
    step = math.floor(math.log(freedom, NODES))
    few, many = NODES**step, NODES ** (step + 1)
    share = (1 / freedom - 1 / many) / (1 / few - 1 / many)
    return _quantile(count, few) ** share * _quantile(count, many) ** (1 - share)


@cache
def _quantile(count: int, freedom: float) -> float:
    return float(stats.studentized_range.ppf(LEVEL, count, freedom))


def paired(differences: np.ndarray) -> Change:
    """Mean over seeds of differences (seed,) and its 95 % interval, Student's t; NaN, failed seeds, are left out.

    No interval from one seed.
    """
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    if not count:
        return Change(math.nan, -math.inf, math.inf)
    mean = float(differences.mean())
    if count < 2:
        return Change(mean, -math.inf, math.inf)
    half = students_t(LEVEL, count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Change(mean, mean - half, mean + half)


def lower(claim: str, which: dict[str, str], found: Change, unit: str, note: str = "", name: str = LOSS) -> Verdict:
    """On the claim that the first of two choices has the lower loss; `found` is first minus second."""
    verdict = {-1: "supported", 0: "undetermined", 1: "contradicted"}[found.sign]
    return Verdict(claim, which, name, verdict, found, unit=unit, note=note)


def no_better(claim: str, which: dict[str, str], found: Change, margin: float, unit: str, note: str = "") -> Verdict:
    """On the claim that the first choice's loss is not lower than the second's by more than `margin`."""
    verdict = "supported" if found.low > -margin else "contradicted" if found.high < -margin else "undetermined"
    return Verdict(claim, which, LOSS, verdict, found, unit=unit, note=note)


def words(values: xr.DataArray, pair: int) -> str:
    """A pair with mean and median, and how many of its seeds collapsed or failed, if any."""
    of_pair = values[pair].to_numpy()
    done = of_pair[np.isfinite(of_pair)]
    tf, tb = values.tf.to_numpy()[pair], values.tb.to_numpy()[pair]
    ends = {"collapsed": int(values.collapsed[pair]), "failed": len(of_pair) - len(done)}
    lost = "".join(f", {count} of {len(of_pair)} seeds {end}" for end, count in ends.items() if count)
    return f"tf {tf}, tb {tb} (mean {done.mean():.4g}, median {np.median(done):.4g}{lost})"


def with_failures(found: list[Verdict], ds: xr.Dataset) -> list[Verdict]:
    """The verdicts with a note on the pairs that have failed seeds, whose losses are missing from the means."""
    lost = ds.status == "failed" if "status" in ds else ds[LOSS].isnull()
    count = lost.sum("seed").stack(pair=("tf", "tb"))
    pairs = [f"({tf}, {tb}) {int(n)}" for (tf, tb), n in zip(count.pair.values, count.values, strict=True) if n]
    if not pairs:
        return found
    note = f"failed seeds: {', '.join(pairs)}"
    return [dataclasses.replace(v, note="; ".join(filter(None, (v.note, note)))) for v in found]
