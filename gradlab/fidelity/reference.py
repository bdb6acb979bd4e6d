"""Bias where enumeration is impossible: estimates against an unbiased reference, drawn until the interval is tight.

For each tf, all tb and estimators share the draws of one or two references (for the laws softmax(l/tf) and softmax(l)).
Draws are added in rounds, and metrics are computed from the sums of 32 batches. The mean estimate of each batch is kept
for one tf at a time; if these means are large, for some of the estimators at a time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import progress
from ..estimators import Estimator
from ..latents import derived_seed
from ..methods import MAX_DRAWS
from ..sampling import BATCHES, PairedDraws, Sums
from ..setup import Setup
from ..statistics.u_statistics import UStatistics, u_statistics
from .reference_metrics import interval
from .request import candidates

PILOT = 64  # draws from which the candidate is chosen
LEAST_DRAWS = 2 * BATCHES  # two per batch, for its variance
_SUMS = 8  # memory for sums, in multiples of the working memory
_GROUPS = 64  # most groups of examples: more do not improve the variance
_GROWTH = (1.5, 4.0)  # smallest and largest growth of the number of draws from round to round


@dataclass(frozen=True)
class Point:
    """One estimator at one pair of temperatures against one law's reference."""

    estimator: Estimator
    target: int
    at: tuple[int, ...]  # its place in the Dataset
    tf: float  # of the law that its codes follow


@dataclass(frozen=True)
class StoppingRule:
    """When to stop drawing, by the interval of relative_bias_debiased (relative to its value if that is above 1)."""

    draws: int  # at least
    precision: float | None = None  # wanted half width of the interval; None: accept that of `draws`
    most: int = MAX_DRAWS

    def missed_by(self, found: Sequence[UStatistics]) -> float:
        """The largest half width over the requested one: at most 1 if the goal is reached, inf without an interval."""
        if self.precision is None:
            return 0.0
        worst = 0.0
        for one in found:
            value, low, high = interval("relative_bias_debiased", one)
            half = (high - low) / 2 / max(1.0, abs(value)) if math.isfinite(high - low) else math.inf
            worst = max(worst, half / self.precision)
        return worst

    def next(self, draws: int, missed_by: float) -> int:
        """The total number of draws after the next round; `draws` itself if no round is needed."""
        if missed_by <= 1 or draws >= self.most:
            return draws
        growth = min(max(missed_by**1.5 if math.isfinite(missed_by) else math.inf, _GROWTH[0]), _GROWTH[1])
        return min(rounded(math.ceil(draws * growth)), max(draws, self.most // BATCHES * BATCHES))


def rounded(draws: int) -> int:
    """The number of draws, rounded up to equal batches."""
    return max(LEAST_DRAWS, math.ceil(draws / BATCHES) * BATCHES)


def choose(
    setup: Setup, tfs: Sequence[float], among: Sequence[Estimator] | None = None
) -> tuple[Estimator, dict[str, float]]:
    """The candidate with the smallest variance at equal loss evaluations, and all variances relative to its variance.

    Measured on PILOT draws, which do not enter the metrics. For several tf, the geometric mean of the variances counts.
    """
    among = candidates(setup.kind) if among is None else among
    if len(among) == 1:
        return among[0], {among[0].label: 1.0}
    logs = np.zeros(len(among))
    with progress.bar("choosing a reference", PILOT * len(tfs), setup.progress) as advance:
        for tf in tfs:
            here = [e.at(tf, tf) for e in among]
            pilot = dataclasses.replace(setup, seed=derived_seed(setup.seed, "pilot"))
            drawn = PairedDraws(pilot, here, 1)
            drawn.add(PILOT, advance)
            for i, (e, sums) in enumerate(zip(here, drawn.sums, strict=True)):
                variance = float(sums.squares.sum()) / (PILOT - 1)
                cost = e.evaluations_at(setup.kind, setup.logits)
                logs[i] += math.log(max(variance, torch.finfo(torch.float64).tiny) * cost)
    over = np.exp((logs - logs.min()) / len(tfs))
    return among[int(logs.argmin())], {e.label: float(v) for e, v in zip(among, over, strict=True)}


class Drawn(Protocol):
    """Sums of several estimators, references among them, over the same draws (see `sampling.PairedDraws`)."""

    draws: int
    sums: Sequence[Any]

    def add(self, draws: int, advance: progress.Advance) -> None:
        """`draws` more for each batch."""


class Statistics(Protocol):
    """What is measured: which gradients are drawn and summed, and the statistics of the sums."""

    numbers: int  # of a gradient
    memory: int
    progress: bool

    def drawn(self, every: Sequence[Estimator], own: Sequence[Estimator]) -> Drawn:
        """No draws yet; of those that are not `own`, references, the mean is enough."""

    def statistics(self, estimate: Any, reference: Any, draws: int) -> list[UStatistics]:
        """Those that `reference_metrics` names: of each parameter tensor, or one."""


def measured(
    points: Sequence[Point],
    reference: Estimator,
    targets: Sequence[str],
    rules: Mapping[float, StoppingRule],
    of: Statistics,
) -> Iterator[tuple[Point, list[UStatistics], int]]:
    """Statistics and number of draws of each point. `rules` maps a forward temperature to its StoppingRule."""
    for here in _together(points, 8 * BATCHES * of.numbers, _SUMS * of.memory):
        tf = here[0].tf
        rule = rules[tf]
        own = list(dict.fromkeys(point.estimator for point in here))
        laws = [reference.at(t, t) for t in (tf if name == "sampled" else 1.0 for name in targets)]
        # the code of ("sample", tf) comes first, so that references need not decode it again
        every = list(dict.fromkeys([*own, *laws]))
        drawn = of.drawn(every, own)
        place = {e: i for i, e in enumerate(every)}
        until, words = rule.draws, f"tf {tf:g}, reference {reference.name}: {len(here)} point{'s' * (len(here) > 1)}"
        found: list[list[UStatistics]] = []
        missed = math.inf
        while drawn.draws < until:
            more = (until - drawn.draws) // BATCHES
            with progress.bar(words, until, of.progress, done=drawn.draws) as advance:
                if rule.precision and math.isfinite(missed):
                    advance(0, interval=f"±{missed * rule.precision:.2g}, asked ±{rule.precision:g}")
                drawn.add(more, advance)
            found = [
                of.statistics(drawn.sums[place[p.estimator]], drawn.sums[place[laws[p.target]]], drawn.draws)
                for p in here
            ]
            missed = rule.missed_by([statistics[0] for statistics in found])  # of all tensors together
            until = rule.next(drawn.draws, missed)
        for point, one in zip(here, found, strict=True):
            yield point, one, drawn.draws


def _together(points: Sequence[Point], bytes_each: int, most: int) -> Iterator[list[Point]]:
    """Yields points of one tf in groups whose sums take at most `most` bytes, at least one point each."""
    at_once = max(1, most // bytes_each)
    for tf in dict.fromkeys(point.tf for point in points):
        here = [point for point in points if point.tf == tf]
        own = list(dict.fromkeys(point.estimator for point in here))
        for start in range(0, len(own), at_once):
            some = own[start : start + at_once]
            yield [point for point in here if point.estimator in some]


class LogitStatistics:
    """Statistics of gradients with respect to the logits, over all coordinates together.

    `shift` is added to every gradient.
    """

    def __init__(self, setup: Setup, shift: Tensor):
        self.setup, self.shift = setup, shift
        self.numbers, self.memory, self.progress = setup.logits.numel(), setup.memory, setup.progress

    def drawn(self, every: Sequence[Estimator], own: Sequence[Estimator]) -> PairedDraws:
        return PairedDraws(self.setup, every, BATCHES)  # whose sums several threads may fill

    def statistics(self, estimate: Sums, reference: Sums, draws: int) -> list[UStatistics]:
        return [statistics(estimate, reference, self.shift, draws)]


def statistics(estimate: Sums, reference: Sums, shift: Tensor, draws: int) -> UStatistics:
    """The statistics that `reference_metrics` names, from `draws` in equal batches."""
    batches, examples = estimate.squares.shape
    e, r = ((sums.mean + shift).reshape(batches, examples, -1).transpose(0, 1) for sums in (estimate, reference))
    variance = (estimate.squares / (draws // batches - 1)).T
    products = [_symmetric(e @ e.mT)]
    if estimate is reference:  # its bias is exactly 0, without rounding errors
        products *= 3
    else:
        products += [_symmetric(e @ r.mT), _symmetric(r @ r.mT)]
    kernels = torch.stack([*products, (variance[:, :, None] + variance[:, None, :]) / 2])
    # (statistic, example, batch, batch)
    groups = min(examples, _GROUPS)
    of_groups = kernels.new_zeros(len(kernels), groups, batches, batches)
    of_groups.index_add_(1, torch.arange(examples, device=kernels.device) * groups // examples, kernels)
    found = u_statistics(of_groups.cpu().numpy())
    first, second = (_off_diagonal(kernels[2][:, half, half]) for half in _halves(batches))
    return dataclasses.replace(
        found,
        of_examples=_off_diagonal(kernels).cpu().numpy(),
        squares_of_examples=(first * second).cpu().numpy(),  # unbiased: the halves are independent
    )


def _off_diagonal(kernels: Tensor) -> Tensor:
    """U-statistics: the mean of (..., batch, batch) over pairs of different batches."""
    batches = kernels.shape[-1]
    diagonal = kernels.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (kernels.sum((-2, -1)) - diagonal) / (batches * (batches - 1))


def _halves(batches: int) -> tuple[slice, slice]:
    return slice(0, batches // 2), slice(batches // 2, batches)


def _symmetric(a: Tensor) -> Tensor:
    return (a + a.mT) / 2
