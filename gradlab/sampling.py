"""Monte Carlo moments of estimators: draws in chunks, one forward pass for all that share its points.

Noise array a of draw i is generated from (seed, i, a) alone, so that the figures depend neither on the chunk size nor
on what else is measured, and all temperatures and estimators share their noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import errors, progress
from .estimators import Estimator, RunningMean
from .exact import MEMORY, activations_per_code
from .latents import LatentKind, category_indices, codes_at, derived_seed
from .model import LatentModel

BATCHES = 32  # of draws, for the intervals


@dataclass
class BatchMoments:
    """Count, mean, sum of squared deviations per batch of draws, float64: `(batch, example, latent[, category])`."""

    count: Tensor  # (batch,)
    mean: Tensor
    squares: Tensor

    def add(self, batch: int, estimates: Tensor) -> None:
        """Merge estimates (draw, ...) into a batch, centred (Chan, Golub, LeVeque 1979)."""
        estimates = estimates.double()
        before, more = int(self.count[batch]), len(estimates)
        mean = estimates.mean(0)
        squares = (estimates - mean).square_().sum(0)
        delta = mean - self.mean[batch]
        self.count[batch] += more
        self.mean[batch] += delta * (more / (before + more))
        self.squares[batch] += squares + delta.square() * (before * more / (before + more))

    def fill(self, bounds: list[int], estimate: Tensor) -> None:
        """All draws alike."""
        self.count[:] = torch.tensor(bounds).diff()
        self.mean[:] = estimate.double()


def batch_bounds(draws: int) -> list[int]:
    """Edges of the batches of draws, as even as can be."""
    batches = min(BATCHES, draws)
    return [draws * b // batches for b in range(batches + 1)]


class Noise:
    """Standard noise of all draws, for logits like `like`: kept if it fits a quarter of `memory`, else made anew."""

    def __init__(self, kind: LatentKind, like: Tensor, arrays: int, draws: int, seed: int, memory: int = MEMORY):
        self.kind, self.like, self.seed, self.draws = kind, like, seed, draws
        self.generator = torch.Generator(like.device)
        fits = arrays * draws * like.numel() * like.element_size() <= memory // 4
        self.kept = self._make(arrays, 0, draws) if fits else None

    def of(self, arrays: int, start: int, stop: int) -> Tensor:
        """Noise (array, draw, *like.shape) of the draws start .. stop-1."""
        return self.kept[:arrays, start:stop] if self.kept is not None else self._make(arrays, start, stop)

    def _make(self, arrays: int, start: int, stop: int) -> Tensor:
        e = self.like.new_empty(self.kind.exponentials, arrays, stop - start, *self.like.shape)
        for draw in range(start, stop):
            for array in range(arrays):
                self.generator.manual_seed(derived_seed(self.seed, "draw", draw, array))
                e[:, array, draw - start] = torch.empty_like(e[:, 0, 0]).exponential_(generator=self.generator)
        return self.kind.noise_from(e)


def sample_moments(
    model: LatentModel,
    x: Tensor,
    logits: Tensor,
    estimators: Sequence[Estimator],
    noise: Noise,
    *,
    memory: int = MEMORY,
    advance: progress.Advance = lambda *a, **k: None,
) -> list[BatchMoments]:
    """Moments of the estimates of each estimator over all draws of `noise`.

    `model`, `x` and `logits` share dtype and device, in which draws are computed; moments are float64. Estimators with
    equal `forward` share the decoder passes. `advance` is called with the number of draws done, per group of these.
    """
    moments = [_empty(logits, noise.draws) for _ in estimators]
    for group in groups(estimators):
        some, into = [estimators[i] for i in group], [moments[i] for i in group]
        _sample_group(model, x, logits, some, into, noise, memory, advance)
    return moments


def groups(estimators: Sequence[Estimator]) -> list[list[int]]:
    """Positions of the estimators that share their points."""
    by_forward: dict[Hashable, list[int]] = {}
    for position, estimator in enumerate(estimators):
        by_forward.setdefault(estimator.forward, []).append(position)
    return list(by_forward.values())


def _empty(logits: Tensor, draws: int) -> BatchMoments:
    batches = len(batch_bounds(draws)) - 1
    zeros = torch.zeros(batches, *logits.shape, dtype=torch.float64, device=logits.device)
    return BatchMoments(torch.zeros(batches, dtype=torch.long), zeros, zeros.clone())


def _sample_group(
    model: LatentModel,
    x: Tensor,
    logits: Tensor,
    estimators: list[Estimator],
    moments: list[BatchMoments],
    noise: Noise,
    memory: int,
    advance: progress.Advance,
) -> None:
    first, draws = estimators[0], noise.draws
    arrays = max(e.noise_arrays for e in estimators)
    wanted = any(e.uses_derivative for e in estimators)
    baselines = [RunningMean(e.baseline_decay) if e.baseline_decay is not None else None for e in estimators]
    bounds = batch_bounds(draws)
    evaluations = first.evaluations_at(model.kind, logits)
    numbers = logits.numel() * (2 * arrays + 8 * evaluations)
    chunk = max(1, memory // (numbers * logits.element_size()))

    def evaluated(start: int, stop: int) -> list[Tensor]:
        """Each estimator's estimates of the draws start .. stop-1."""
        g = noise.of(arrays, start, stop)
        points = first.points(model.kind, logits, g)
        loss, derivative = table.look_up(points) if table else evaluate_points(model, x, points, memory, wanted)
        losses = [loss if mean is None else mean.centre(loss) for mean in baselines]
        return [
            e.estimate(model.kind, logits, g, points, f, derivative) for e, f in zip(estimators, losses, strict=True)
        ]

    table = None
    if all(e.noise_free for e in estimators):
        for into, estimates in zip(moments, evaluated(0, 1), strict=True):
            into.fill(bounds, estimates[0])
        advance(draws)
        return
    # every distinct pair of image and code is evaluated once, if all draws' codes and derivatives fit
    fits = _table_bytes(model, logits, evaluations, draws) <= memory and _indexable(model, logits)
    if first.discrete_points and fits:
        table = _Table(model, x, memory, wanted)
        for start in range(0, draws, chunk):
            stop = min(draws, start + chunk)
            table.collect(first.points(model.kind, logits, noise.of(first.noise_arrays, start, stop)))
        table.evaluate()
    for batch, (begin, end) in enumerate(itertools.pairwise(bounds)):
        for start in range(begin, end, chunk):
            stop = min(end, start + chunk)
            for into, estimates in zip(moments, evaluated(start, stop), strict=True):
                into.add(batch, estimates)
            advance(stop - start)


def evaluate_points(
    model: LatentModel, x: Tensor, points: Tensor, memory: int, wanted: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Loss (evaluation, draw, example) and, if wanted, derivative of points' shape, the decoder seeing every point."""
    shape = points.shape[:3]
    image = torch.arange(len(x), device=x.device).repeat(math.prod(shape[:2]))
    loss, derivative = _losses_and_derivatives(model, x, points.flatten(0, 2), image, memory, wanted)
    return loss.reshape(shape), None if derivative is None else derivative.reshape(points.shape)


def _losses_and_derivatives(
    model: LatentModel, x: Tensor, codes: Tensor, image: Tensor, memory: int, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """f(z, x[image]) and, if wanted, df/dz of codes (n, latent[, category]), in blocks of bounded memory."""
    per_row = (2 * activations_per_code(model, x) + 4 * math.prod(x.shape[1:])) * x.element_size()
    step = max(1, memory // per_row)
    losses, derivatives = [], []
    for rows in torch.arange(len(codes), device=x.device).split(step):
        if wanted:
            loss, derivative = model.losses_and_derivatives(codes[rows], x[image[rows]])
            derivatives.append(derivative)
        else:
            with torch.no_grad():
                loss = model.losses(codes[rows], x[image[rows]])
        losses.append(loss)
    loss = torch.cat(losses)
    if not bool(torch.isfinite(loss).all()):
        row = int(torch.nonzero(~torch.isfinite(loss))[0, 0])
        raise ValueError(
            f"losses: {loss[row].item()} at example {int(image[row])}; decoder and likelihood must give finite losses"
        )
    if not wanted:
        return loss, None
    derivative = torch.cat(derivatives)
    errors.finite("derivative", derivative, "df/dz must be finite at every code that is drawn")
    return loss, derivative


class _Table:
    """Loss and derivative at the distinct pairs (image, code) that are drawn."""

    def __init__(self, model: LatentModel, x: Tensor, memory: int, wanted: bool):
        self.model, self.x, self.memory, self.wanted = model, x, memory, wanted
        strides = [model.categories ** (model.latents - 1 - i) for i in range(model.latents)]
        self.strides = torch.tensor(strides, device=x.device)
        self.found: list[Tensor] = []

    def keys(self, points: Tensor) -> Tensor:
        """image * configurations + configuration, for points (..., example, latent[, category])."""
        configuration = (category_indices(self.model.kind, points) * self.strides).sum(-1)
        return configuration + torch.arange(len(self.x), device=self.x.device) * self.model.configurations

    def collect(self, points: Tensor) -> None:
        self.found.append(self.keys(points).unique())

    def evaluate(self) -> None:
        self.found = [torch.cat(self.found).unique()]
        image = self.found[0] // self.model.configurations
        configuration = self.found[0] % self.model.configurations
        indices = (configuration[:, None] // self.strides) % self.model.categories
        codes = codes_at(indices, self.model.categories, self.model.binary, self.x.dtype)
        self.loss, self.derivative = _losses_and_derivatives(
            self.model, self.x, codes, image, self.memory, self.wanted
        )

    def look_up(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        at = torch.searchsorted(self.found[0], self.keys(points))
        return self.loss[at], None if self.derivative is None else self.derivative[at]


def _indexable(model: LatentModel, logits: Tensor) -> bool:
    return model.configurations * len(logits) < 2**62


def _table_bytes(model: LatentModel, logits: Tensor, evaluations: int, draws: int) -> int:
    """An upper bound: as many pairs as draws, or as there are."""
    pairs = len(logits) * min(draws * evaluations, model.configurations)
    return pairs * (2 * math.prod(model.code_shape) * logits.element_size() + 32)
