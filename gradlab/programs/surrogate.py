"""Losses of a program whose backward pass is an estimate, for a training loop: on the user's own parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..estimators import Estimator
from ..latents import LatentKind, bounded
from .layers import Layer, arrays_of, check_serves, is_layer, paths_of
from .sites import LogProbability, Sampler, Site


def surrogate_loss(
    loss: Callable[..., Tensor], x: Any, estimator: Estimator, generator: torch.Generator | None
) -> Tensor:
    """Losses (example,); see `Program.surrogate_loss`. With scores s of the paths, whose value is 0,

        mean over paths of f  +  sum over paths of stop(weight) s,

    weights f for one path, and (f - mean f)/(n - 1) for n paths.
    """
    rows = next((len(leaf) for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor) and leaf.ndim), 0)
    runs = [_Live(rows, estimator, generator) for _ in range(paths_of(estimator))]
    losses = torch.stack([_checked(loss(x, run), run) for run in runs])
    if not runs[0].scores:
        return losses[0]
    scores = torch.stack([torch.stack(run.scores).sum(0) for run in runs])
    fixed = losses.detach()
    weights = (fixed - fixed.mean(0)) / (len(fixed) - 1) if len(fixed) > 1 else fixed
    return losses.mean(0) + (weights * (scores - scores.detach())).sum(0)


class _Live(Sampler):
    """Codes of one run, with noise drawn when a site is met."""

    def __init__(self, rows: int, estimator: Estimator, generator: torch.Generator | None):
        self.rows, self.estimator, self.generator = rows, estimator, generator
        self.sites: list[Site] = []
        self.scores: list[Tensor] = []

    def code(self, kind: LatentKind, logits: Tensor) -> Tensor:
        e, site = self.estimator, self.sites[-1:]
        check_serves(e, site)
        layer = is_layer(e, site)
        shape = (arrays_of(e) if layer else 1, *logits.shape)
        noise = kind.noise(shape, dtype=logits.dtype, device=logits.device, generator=self.generator)
        if layer:
            return Layer.apply(logits, noise, e, kind)
        code = kind.hard(bounded(kind, logits.detach()) / e.tf + noise[0])
        self.scores.append(LogProbability.apply(logits, code, e.tf, kind))
        return code


def _checked(losses: Any, run: _Live) -> Tensor:
    if not run.sites:
        raise ValueError("loss: expected at least one call of sample(logits), got none")
    if not isinstance(losses, Tensor) or tuple(losses.shape) != (run.rows,):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ValueError(f"loss: expected one loss per example, shape ({run.rows},), got {got}")
    return losses
