"""Gapped straight-through: the logits are moved by constants that make the sampled code win by a gap.

    D ~ softmax(l/tf),  m1 = (max l - l_D) D,  m2 = relu(l - max l + gap) (1 - D),
    estimate = (1/tb) J(softmax((l + m1 - m2)/tb)) v(D)

So the sampled logit becomes the largest, and all others are below it by at least `gap`. mode="probability" uses the
mean gap of Gumbel noise given that D wins: a logistic number with location log(p_D/(1 - p_D)), given that it is
positive, has the mean -log(1 - p_D)/p_D. Here p = softmax(l/tf), and the gap is in units of l, like the fixed gap.
The estimator is biased. Binary latents have the pair of logits (l, 0), of which only the difference matters.

Reference: Fan, Chi, Rudnicky, Ramadge 2022 (there GST-1.0 and GST-p, at tf = 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..latents import BINARY, LatentKind
from . import parameters
from .base import Relaxation
from .conditional import softplus
from .promises import FunctionOfCode
from .registry import register


@register
@dataclass(frozen=True, kw_only=True)
class GST(Relaxation):
    """Gapped straight-through. mode="fixed": the gap is `gap`; mode="probability": it is -log(1 - p_D)/p_D."""

    mode: str = parameters.choice("fixed", ("fixed", "probability"))
    gap: float = parameters.real(1.0, at_least=0)

    name = "gst"
    formula = (
        "(1/tb) J(softmax((l + m1 - m2)/tb)) v(D), D ~ softmax(l/tf), m1 = (max l - l_D) D,"
        " m2 = relu(l - max l + gap) (1 - D)"
    )
    reference = "Fan, Chi, Rudnicky, Ramadge 2022"
    kinds = ("categorical", "binary")
    uses = ("derivative",)
    exact_moments = FunctionOfCode()

    def estimate(self, kind, logits, noise, points, loss, derivative):
        on = points[0] > 0.5
        gap = self.gap if self.mode == "fixed" else expected_gap(kind, logits / self.tf, on)
        if kind is BINARY:  # the difference of the moved pair of logits
            moved = torch.where(on, logits.clamp(min=gap), logits.clamp(max=-gap))
        else:
            most = logits.amax(-1, keepdim=True)
            moved = torch.where(on, most, torch.minimum(logits, most - gap))
        return kind.pullback_at(moved / self.tb, derivative[0]) / self.tb


def expected_gap(kind: LatentKind, a: Tensor, on: Tensor) -> Tensor:
    """-log(1 - p_D)/p_D at p = softmax(a), from mu = log(p_D/(1 - p_D)): softplus(mu)/sigmoid(mu), 1 as mu -> -inf."""
    if kind is BINARY:
        mu = torch.where(on, a, -a)
    else:
        winner = a.expand_as(on).masked_fill(~on, 0.0).sum(-1, keepdim=True)
        mu = winner - a.expand_as(on).masked_fill(on, -torch.inf).logsumexp(-1, keepdim=True)
    mu = mu.clamp(min=-30.0)  # the ratio is 1 to 14 digits there, and nothing underflows
    return softplus(mu) / torch.sigmoid(mu)
