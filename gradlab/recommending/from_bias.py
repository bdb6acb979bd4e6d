"""The same comparison from a result of `gradlab.bias` at equal cost: which of its points averages best."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import xarray as xr

from .. import estimators
from ..attributes import numbers
from ..estimators import is_built_in
from ..schema import upgraded
from .candidates import Candidate
from .errors_of_averages import Array, Observed
from .findings import findings
from .halving import Course, Round
from .sentences import closing

AVERAGED = 100  # loss evaluations


def closing_sentences(ds: xr.Dataset, averaged: int = AVERAGED) -> list[str]:
    """What a comparison at equal cost says of averages, a list for each tf; empty for any other Dataset.

    Intervals are from batches of draws; the examples are taken as given.
    """
    ds = upgraded(ds)
    fits = ds.attrs.get("analysis") == "bias" and ds.attrs.get("equal_cost") and "replicates" in ds
    if not fits or not {"estimator", "tf", "tb"} <= set(ds.dims) or "checkpoint" in ds.dims or "target" in ds.dims:
        return []
    alone = 1.0
    if "parameter" in ds.dims:  # of the mean over examples, whose variance is that of one of them over their number
        ds, alone = ds.sel(parameter="all", drop=True), float(ds.attrs["examples"])
    found = []
    for tf in ds.tf.values.tolist():
        round_ = Round(int(ds.attrs["draws"]), dict(_observed(ds.sel(tf=tf), alone)))
        if len(round_.observed) > 1:
            course = Course(averaged, [round_])
            found += closing(findings(course, None, "", False))
    return found


def _observed(ds: xr.Dataset, alone: float = 1.0) -> Iterator[tuple[Candidate, Observed]]:
    """Of each point at one tf; those of estimators without tb once. `alone`: times the variance, of one example."""
    tf, most = float(ds.tf), int(max(numbers(ds.attrs["evaluations"])))
    for label in ds.estimator.values:
        e = estimators.parse(str(label))
        for tb in ds.tb.values.tolist():
            point = ds.sel(estimator=label, tb=tb)
            candidate = Candidate(e.at(tf, tb))
            if math.isfinite(float(point.relative_std)):
                yield candidate, _of_point(point, candidate, most, alone)


def _of_point(point: xr.Dataset, candidate: Candidate, evaluations: int, alone: float) -> Observed:
    """An estimate there is the mean of the draws that `evaluations` pay for.

    With the squared bias |m - g|^2 = |m|^2 - 2 <m, g> + |g|^2, all without noise, <m, g> follows.
    """
    g = float(point.exact_norm) ** 2
    names = ("mean_norm_debiased", "squared_bias_debiased", "std_norm")
    scale = np.array([1.0, 1.0, 1.0, alone])
    whole = scale * _quantities(g, *(np.array([float(point[name])]) for name in names))[0]
    left = scale * _quantities(g, *(point.replicates.sel(metric=name).values for name in names))
    batches = len(left)
    influence = np.sqrt((batches - 1) / batches) * (left - left.mean(0))
    e = candidate.estimator
    known = e.unbiased and is_built_in(e) and point.attrs.get("target") == "sampled"
    return Observed(whole, float(np.square(influence[:, 1]).sum()), influence, evaluations, known)


def _quantities(g: float, mean_norm: Array, squared_bias: Array, std_norm: Array) -> Array:
    """(batch, 4): |g|^2, <m, g>, |m|^2, V."""
    squared_mean = np.sign(mean_norm) * np.square(mean_norm)
    along = (squared_mean + g - squared_bias) / 2
    return np.stack([np.full_like(along, g), along, squared_mean, np.square(std_norm)], -1)
