"""Metrics against an unbiased reference -> Dataset; dims and names are those of an enumerated reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import errors, likelihoods
from ..attributes import of_candidates
from ..estimators import Estimator
from ..exact import kl_gradient
from ..methods import MonteCarlo, Sampled
from ..metrics import NONE
from ..sampling import BATCHES
from ..schema import coordinate, effective_examples, temperatures
from ..setup import Setup
from ..statistics.u_statistics import UStatistics
from .encoder_analysis import GRID as ENCODER_GRID
from .encoder_analysis import NORM as ENCODER_NORM
from .encoder_analysis import Gradients
from .encoder_reference import EncoderStatistics
from .grid_accumulator import NORM
from .labels import attributes_of
from .metric_arrays import MetricArrays
from .rarity import Rarity, rarity, variables
from .reference import LogitStatistics, Point, Statistics, StoppingRule, choose, measured, rounded
from .reference_metrics import examples_that_carry, intervals, metrics, over_examples, values
from .request import Request, candidates_at, check_drawn, unbiased_reference

INTERVALS = (
    "95 %, by inverting tests, from the variance of U-statistics over batches of draws, Student's t; the sampling noise"
    " is subtracted from all"
)


def bias_by_reference(setup: Setup, request: Request) -> xr.Dataset:
    """The Dataset of `bias` with an unbiased estimator in place of the exact gradient."""
    assert isinstance(request.reference, Sampled)
    assert isinstance(request.moments, MonteCarlo)
    for e in request.estimators:
        check_drawn(e, "estimator")
    rule = stopping_rule(request.moments, request.reference)
    reference = unbiased_reference(request.reference, setup.kind)
    shift = kl_gradient(setup) if request.kl else torch.zeros_like(setup.wide_logits)
    rare = rarity(setup.kind, setup.wide_logits, request.law_tfs)
    about: dict[str, Any] = {}
    if isinstance(reference, str):
        reference, over = choose(setup, request.law_tfs, candidates_at(setup.kind, setup.logits, request.reference))
        about |= of_candidates(over)
    of = (EncoderStatistics if request.wrt == "encoder" else LogitStatistics)(setup, shift)
    wide = of.wide if isinstance(of, EncoderStatistics) else None
    unit = likelihoods.unit_of(setup.model.likelihood)
    ds = by_reference(request, of, reference, rule, rare, unit, wide)
    return ds.assign_attrs(attributes_of(setup, request, rule.draws) | about | ds.attrs)


def by_reference(
    request: Request,
    of: Statistics,
    reference: Estimator,
    rule: StoppingRule,
    rare: Rarity,
    unit: str,
    wide: Gradients | None,
) -> xr.Dataset:
    """The Dataset of all points, with what its attributes say of the reference; `wide` for metrics by parameter."""
    chosen, targets, tfs, tbs = request.estimators, request.targets, request.tfs, request.tbs
    laws = request.law_tfs
    points = [
        Point(e.at(tfs[i], tbs[j]), t, (k, t, i, j), laws[i])
        for i, j in request.pairs
        for k, e in enumerate(chosen)
        for t in range(len(targets))
    ]
    arrays = _Arrays(request, wide, len(of.setup.x) if isinstance(of, LogitStatistics) else 0)
    missing = []
    nothing_left = dict(zip(laws, rare.nothing_left.tolist(), strict=True))
    rules = {tf: dataclasses.replace(rule, precision=None) if nothing_left[tf] else rule for tf in laws}
    for point, found, taken in measured(points, reference, targets, rules, of):
        if not all(np.isfinite(one.value).all() and np.isfinite(one.without).all() for one in found):
            where = f"tf = {tfs[point.at[2]]:g}, tb = {tbs[point.at[3]]:g}"
            raise ValueError(
                f"tf, tb: expected finite estimates, got others at {where}; take larger temperatures, or finite losses"
            )
        arrays.fill(point.at, found, taken, nothing_left[point.tf])
        if (missed := rules[point.tf].missed_by(found[:1])) > 1:
            missing.append(missed)
    if missing:
        widest = (
            f"±{max(missing) * rule.precision:.2g}"
            if rule.precision and math.isfinite(max(missing))
            else "without ends"
        )
        errors.warn(
            f"precision: {len(missing)} of {len(points)} points have wider intervals than requested, the widest"
            f" {widest}; raise max_draws"
        )
    draws = arrays.draws
    about = {
        "reference": reference.label,
        "intervals": INTERVALS,
        "draws": int(np.nanmin(draws)),  # of each point: see the variable
        "draws_per_batch": int(np.nanmin(draws)) // BATCHES,
        "max_draws": rule.most if rule.precision else rounded(rule.draws),
        "precision": rule.precision or 0.0,
    }
    ds = arrays.dataset(unit, variables(rare, arrays.draws))
    return ds.isel(dict.fromkeys(request.dropped, 0), drop=True).assign_attrs(about)


def stopping_rule(moments: MonteCarlo, reference: Sampled) -> StoppingRule:
    if (draws := rounded(moments.draws)) != moments.draws:
        errors.warn(f"draws: expected whole batches beside a sampled reference, got {moments.draws}; {draws} are used")
    return StoppingRule(draws, reference.precision, reference.max_draws)


class _Arrays:
    """Arrays over (estimator, target, tf, tb), and parameter for wrt="encoder", filled point by point."""

    def __init__(self, request: Request, parameters: Gradients | None, examples: int):
        """`examples`: whose sums the metrics are, 0 where these are no sums over examples."""
        self.request, self.parameters = request, parameters
        grid = (len(request.estimators), len(request.targets), len(request.tfs), len(request.tbs))
        whole = (*grid, len(self.parameters.names)) if self.parameters else grid
        self.metrics = MetricArrays(metrics(), BATCHES, whole, examples)
        self.effective_examples = np.full(grid[1:3], np.nan)
        self.draws = np.full(grid, np.nan)

    def fill(self, at: tuple[int, ...], found: Sequence[UStatistics], taken: int, nothing_left: bool) -> None:
        """Fill the grid position `at` with the statistics `found` of each parameter.

        If `nothing_left`, the exact gradient is almost 0, and relative metrics are NaN.
        """
        self.draws[at] = taken
        for parameter, one in enumerate(found):
            here: Any = (*at, parameter) if self.parameters else at
            for name, over in over_examples(one, self.metrics.metrics):
                known = self.metrics.metrics[name].unit != NONE or not nothing_left
                self.metrics.fill_population(name, here, over, 1.0 if known else np.nan)
            self.effective_examples[at[1:3]] = examples_that_carry(one)
            without, ends = values(one.without, self.metrics.metrics), intervals(one, self.metrics.metrics)
            for name, metric in self.metrics.metrics.items():
                known = metric.unit != NONE or not nothing_left
                self.metrics.values[name][here] = ends[name] if known else np.nan
                self.metrics.without[name][:, *here] = without[name] if known else np.nan

    def dataset(self, unit: str, of_rarity: dict[str, Any]) -> xr.Dataset:
        grid = ("estimator", "target", "tf", "tb")
        dims, norm, per = (ENCODER_GRID, ENCODER_NORM, "parameter") if self.parameters else (grid, NORM, "logit")
        found = self.metrics.variables(dims, f"{unit} per {per}", norm)
        words = "1 where the interval of the squared bias excludes 0; 0: not resolved at this number of draws"
        of = self.metrics.values
        known = ~np.isnan(of["relative_bias_debiased"][..., 0])  # NaN: the reference does not separate |g| from 0
        draws = self.draws[..., None] if self.parameters else self.draws
        resolved = np.where(np.isnan(draws), np.nan, known & (of["squared_bias_debiased"][..., 1] > 0))
        found["resolved"] = (dims, resolved, {"long_name": words, "units": "1"})
        found["draws"] = (grid, self.draws, {"long_name": "draws of estimates and reference", "units": "1"})
        if self.metrics.examples:
            found |= effective_examples(self.effective_examples, ("target", "tf"), "exact gradient's norm")
        coordinates = {
            "estimator": coordinate("estimator", self.request.labels),
            "target": coordinate("target", list(self.request.targets)),
            **temperatures(self.request.tfs, self.request.tbs),
            **(self.parameters.coordinates() if self.parameters else {}),
            **self.metrics.coordinates(),
        }
        return xr.Dataset(found | of_rarity, coordinates)
