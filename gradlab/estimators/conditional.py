"""Noise given the code that it sampled, and the derivative of the perturbed logits at fixed noise and code.

With p = softmax(a), a standard Gumbel array G and a code D ~ p drawn independently of it, the array

    g_D = G_D - log p_D,    g_j = -log(exp(-G_j) + p_j exp(-G_D))    for j != D

is standard Gumbel noise given that argmax(a + g) = D (Maddison, Tarlow, Minka 2014). Binary, with logistic noise m:

    a + n = softplus(m + softplus(a)) given that it is positive,  -softplus(-m + softplus(-a)) given that it is not,

which is the difference of the two Gumbels of the pair (a, 0). No formula here subtracts nearly equal numbers or takes
the logarithm of a number that may underflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..latents import BINARY, LatentKind


def noise_given_code(kind: LatentKind, a: Tensor, code: Tensor, noise: Tensor) -> Tensor:
    """Standard noise given that hard(a + noise) = code, computed from standard noise independent of the code."""
    on = code > 0.5
    if kind is BINARY:
        return torch.where(on, softplus(noise + softplus(a)), -softplus(-noise + softplus(-a))) - a
    log_p = torch.log_softmax(a, -1)
    winner = (noise * code).sum(-1, keepdim=True)
    return torch.where(on, noise - log_p, -torch.logaddexp(-noise, log_p - winner))


def pullback_given_code(kind: LatentKind, a: Tensor, code: Tensor, noise: Tensor, r: Tensor) -> Tensor:
    """(dy/da)^T r for y = a + noise_given_code(a, code, noise) at fixed code and noise."""
    on = code > 0.5
    if kind is BINARY:
        up = torch.sigmoid(noise + softplus(a)) * torch.sigmoid(a)
        down = torch.sigmoid(-noise + softplus(-a)) * torch.sigmoid(-a)
        return torch.where(on, up, down) * r
    # y = log Z + (G_D; -log(exp(-G_j)/p_j + exp(-G_D))): d log Z/da = p, d log p_j/da = e_j - p
    log_p = torch.log_softmax(a, -1)
    winner = (noise * code).sum(-1, keepdim=True)
    h = torch.where(on, 0.0, torch.sigmoid(winner - noise - log_p)) * r
    return h + log_p.exp() * (r - h).sum(-1, keepdim=True)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), to full relative precision everywhere (torch's own turns linear at 20)."""
    return torch.logaddexp(x, torch.zeros_like(x))
