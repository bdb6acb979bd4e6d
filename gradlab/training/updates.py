"""The updates of torch.optim for several models at once, with one learning rate per model.

With step t, m and v the running means of gradients and of their squares, c = 1 - beta^t:

    Adam     w -= lr/c1  m / (sqrt(v / c2) + eps)
    RAdam    w -= lr/c1  m r sqrt(c2) / (sqrt(v) + eps), where rho > 5;  w -= lr/c1  m elsewhere

    rho_inf = 2/(1 - beta2) - 1,  rho = rho_inf - 2 t beta2^t/c2,
    r^2 = (rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho)

Both are w -= lr/c1 m (a / (s sqrt(v) + eps) + u), with numbers a, s, u that depend on t alone. So one pass over the
parameters does for both, and compiled it is one kernel a tensor.

References: Kingma, Ba 2015 (Adam); Liu et al. 2020 (RAdam).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults

Update = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Tensor, Tensor], None]


def numbers(optimizer: str, t: Tensor) -> Tensor:
    """(1/c1, a, s, u) as float64 at step t, a scalar tensor that counts from 1. Does not wait for the device."""
    c1, c2 = 1 - BETA1**t, 1 - BETA2**t
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    if optimizer == "adam":
        return torch.stack([1 / c1, one, c2.rsqrt(), zero])
    rho_inf = 2 / (1 - BETA2) - 1
    rho = rho_inf - 2 * t * BETA2**t / c2
    square = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    rectified = rho > 5
    a = torch.where(rectified, square.clamp(min=0).sqrt() * c2.sqrt(), zero)
    return torch.stack([1 / c1, a, one, torch.where(rectified, zero, one)])


def update(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    lr: Tensor,
    of_step: Tensor,
) -> None:
    """Makes one step in place. Tensors are (model, ...), `lr` is (model,), `of_step` is the result of `numbers`."""
    for w, g, m, v in zip(weights, gradients, means, squares, strict=True):
        inverse_c1, a, s, u = of_step.to(w.dtype)
        m.lerp_(g, 1 - BETA1)
        v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        rate = (lr * inverse_c1).reshape(-1, *[1] * (w.ndim - 1))
        w.sub_(rate * m * (a / (s * v.sqrt() + EPS) + u))
