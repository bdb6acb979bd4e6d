"""From points to loss to estimate: the function that sampling, enumeration, training, layers and tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..latents import LatentKind
from .base import Estimator
from .running_mean import RunningMean

LossAt = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]


class Baseline(Protocol):
    """A RunningMean, or its form for several models."""

    def centre(self, loss: Tensor) -> Tensor:
        """The losses minus their baselines, not in place; updates the running mean."""


def evaluate(
    estimators: Sequence[Estimator],
    kind: LatentKind,
    logits: Tensor,
    noise: Tensor,
    loss_at: LossAt,
    baselines: Sequence[Baseline | None] | None = None,
) -> Iterator[Tensor]:
    """The estimate of each estimator in turn; shapes are those of `base`.

    Parameters
    ----------
    estimators : estimators with equal `points_key`; their points are evaluated once
    logits : tensor that requires no gradient
    noise : at least the largest `noise_arrays` of the estimators
    loss_at : `loss_at(points, derivative wanted)` returns loss (evaluation, ..., example) and, if wanted, derivative
        (evaluation, ..., example, latent[, category]). It is called once
    baselines : for each estimator the running mean that its `baseline_decay` requires, or None (see `baselines_of`)

    Raises
    ------
    ValueError
        Points or an estimate of a wrong shape; an estimator without the baseline that it requires.
    """
    means = [None] * len(estimators) if baselines is None else baselines
    points = points_of(estimators[0], kind, logits, noise)
    loss, derivative = loss_at(points, any(e.uses_derivative for e in estimators))
    for estimator, mean in zip(estimators, means, strict=True):
        yield centred_estimate_of(estimator, kind, logits, noise, points, loss, derivative, mean)


def baselines_of(estimators: Sequence[Estimator]) -> list[RunningMean | None]:
    """For each estimator a new running mean if it requires one, else None."""
    return [None if e.baseline_decay is None else RunningMean(e.baseline_decay) for e in estimators]


def points_of(estimator: Estimator, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
    """The estimator's points, from the noise arrays that it reads. Raises ValueError for a wrong shape."""
    with torch.no_grad():
        points = estimator.points(kind, logits, noise[: estimator.noise_arrays])
    wanted = (estimator.evaluations_at(kind, logits), *noise.shape[1:])
    if tuple(points.shape) != wanted:
        raise ValueError(f"estimator: {estimator.label}: expected points of shape {wanted}, got {tuple(points.shape)}")
    return points


def centred_estimate_of(
    estimator: Estimator,
    kind: LatentKind,
    logits: Tensor,
    noise: Tensor,
    points: Tensor,
    loss: Tensor,
    derivative: Tensor | None,
    baseline: Baseline | None,
) -> Tensor:
    """`estimate_of` at the loss minus its baseline. Raises ValueError if the required baseline is missing."""
    if baseline is None and estimator.baseline_decay is not None:
        raise ValueError(f"estimator: {estimator.label}: expected the running mean of its baseline, got none")
    centred = loss if baseline is None else baseline.centre(loss)
    return estimate_of(estimator, kind, logits, noise, points, centred, derivative)


def estimate_of(
    estimator: Estimator,
    kind: LatentKind,
    logits: Tensor,
    noise: Tensor,
    points: Tensor,
    loss: Tensor | None,
    derivative: Tensor | None,
) -> Tensor:
    """The estimate, detached, from the loss or derivative that it uses. Raises ValueError for a wrong shape."""
    arrays = noise[: estimator.noise_arrays]
    loss = loss if estimator.uses_loss else None
    derivative = derivative if estimator.uses_derivative else None
    with torch.enable_grad():  # an estimate may use autograd, in any mode of the caller
        estimate = estimator.estimate(kind, logits, arrays, points, loss, derivative).detach()
    if estimate.shape != noise.shape[1:]:
        raise ValueError(
            f"estimator: {estimator.label}: expected an estimate of shape {tuple(noise.shape[1:])}, got"
            f" {tuple(estimate.shape)}"
        )
    return estimate


def weighted(loss: Tensor, weights: Tensor | None) -> Tensor:
    """The loss (..., example) that the decoder is trained on: the mean over evaluations, weighted by their shares."""
    return loss.mean(-2) if weights is None else (weights * loss).sum(-2).to(loss.dtype)
