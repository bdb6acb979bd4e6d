"""Figures against an unbiased reference -> Dataset, of the dims and names that those against enumeration have."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import likelihoods
from ..exact import kl_gradient
from ..methods import MonteCarlo, Sampled
from ..sampling import BATCHES
from ..setup import Setup
from .grid_accumulator import NORM
from .labels import attributes_of, coordinate, figure_variables, temperatures
from .metrics import NONE
from .rarity import rarity, variables
from .reference import Point, StoppingRule, choose, measured, rounded
from .reference_figures import FIGURES, intervals, values
from .request import Request, check_drawn, unbiased_reference

INTERVALS = (
    "95 %, by inverting tests, from the variance of U-statistics over batches of draws, Student's t; the sampling noise"
    " is subtracted from all"
)


def bias_by_reference(setup: Setup, request: Request) -> xr.Dataset:
    """The Dataset of `bias` against an unbiased estimator in place of the exact gradient."""
    assert isinstance(request.reference, Sampled)
    assert isinstance(request.moments, MonteCarlo)
    chosen, targets, tfs, tbs, labels = request.estimators, request.targets, request.tfs, request.tbs, request.labels
    for e in chosen:
        check_drawn(e, "estimator")
    rule = _stopping_rule(request.moments, request.reference)
    reference = unbiased_reference(request.reference, setup.kind)
    shift = kl_gradient(setup) if request.kl else torch.zeros_like(setup.wide_logits)
    rare = rarity(setup.kind, setup.wide_logits, tfs)
    about: dict[str, Any] = {}
    if isinstance(reference, str):
        reference, over = choose(setup, tfs)
        about["reference_candidates"] = json.dumps(over)
    points = [
        Point(e.at(tfs[i], tbs[j]), t, (k, t, i, j), tfs[i])
        for i, j in request.pairs
        for k, e in enumerate(chosen)
        for t in range(len(targets))
    ]
    grid = (len(chosen), len(targets), len(tfs), len(tbs))
    figures = {name: np.full((*grid, 3), np.nan) for name in FIGURES}
    replicates = np.full((len(FIGURES), BATCHES, *grid), np.nan)
    draws = np.full(grid, np.nan)
    wide = []
    nothing_left = dict(zip(tfs, rare.nothing_left.tolist(), strict=True))
    rules = {tf: dataclasses.replace(rule, precision=None) if nothing_left[tf] else rule for tf in tfs}
    for point, found, taken in measured(setup, points, reference, targets, shift, rules):
        if not (np.isfinite(found.value).all() and np.isfinite(found.without).all()):
            raise ValueError(
                f"tf, tb: estimates at tf = {point.tf:g}, tb = {tbs[point.at[3]]:g} are not finite; larger"
                " temperatures, or finite losses, would do"
            )
        k, t, i, j = point.at
        replicates[:, :, k, t, i, j] = np.stack(list(values(found.without).values()))
        for name, ends in intervals(found).items():
            figures[name][k, t, i, j] = ends
        if nothing_left[point.tf]:
            for position, (name, metric) in enumerate(FIGURES.items()):
                if metric.unit == NONE:
                    figures[name][k, t, i, j] = replicates[position, :, k, t, i, j] = np.nan
        draws[k, t, i, j] = taken
        if (missed := rules[point.tf].missed_by([found])) > 1:
            wide.append(missed)
    if wide:
        widest = f"±{max(wide) * rule.precision:.2g}" if rule.precision and math.isfinite(max(wide)) else "without ends"
        warnings.warn(
            f"precision: {len(wide)} of {len(points)} points have wider intervals than asked, the widest {widest};"
            " raise max_draws",
            stacklevel=4,
        )
    about |= {
        "reference": reference.label,
        "intervals": INTERVALS,
        "draws": int(np.nanmin(draws)),  # of each point: see the variable
        "draws_per_batch": int(np.nanmin(draws)) // BATCHES,
        "max_draws": rule.most if rule.precision else rounded(rule.draws),
        "precision": rule.precision or 0.0,
    }
    unit = f"{likelihoods.unit_of(setup.model.likelihood)} per logit"
    ds = _dataset(figures, replicates, draws, variables(rare, draws), labels, targets, tfs, tbs, unit)
    ds = ds.isel(dict.fromkeys(request.dropped, 0), drop=True)
    return ds.assign_attrs(attributes_of(setup, request, rule.draws) | about)


def _stopping_rule(moments: MonteCarlo, reference: Sampled) -> StoppingRule:
    if (draws := rounded(moments.draws)) != moments.draws:
        warnings.warn(
            f"draws: expected whole batches beside a sampled reference, got {moments.draws}; {draws} are taken",
            stacklevel=5,
        )
    return StoppingRule(draws, reference.precision, reference.max_draws)


def _dataset(
    figures: dict[str, np.ndarray],
    replicates: np.ndarray,
    draws: np.ndarray,
    of_rarity: dict[str, Any],
    labels: Sequence[str],
    targets: Sequence[str],
    tfs: list[float],
    tbs: list[float],
    unit: str,
) -> xr.Dataset:
    grid = ("estimator", "target", "tf", "tb")
    found = figure_variables(figures, grid, unit, NORM, FIGURES) | of_rarity
    words = "1 where the interval of the squared bias excludes 0; 0: not resolved at this number of draws"
    known = ~np.isnan(figures["relative_bias_debiased"][..., 0])  # else the reference does not tell |g| from 0
    resolved = np.where(np.isnan(draws), np.nan, known & (figures["squared_bias_debiased"][..., 1] > 0))
    found["resolved"] = (grid, resolved, {"long_name": words, "units": "1"})
    found["draws"] = (grid, draws, {"long_name": "draws of estimates and reference", "units": "1"})
    words = "each figure without each batch of draws in turn"
    found["replicates"] = (("figure", "batch", *grid), replicates, {"long_name": words, "units": "as the figure"})
    coordinates = {
        "estimator": coordinate("estimator", list(labels)),
        "target": coordinate("target", list(targets), "target law"),
        **temperatures(tfs, tbs),
        "figure": coordinate("figure", list(FIGURES)),
        "batch": coordinate("batch", np.arange(BATCHES)),
    }
    return xr.Dataset(found, coordinates)
