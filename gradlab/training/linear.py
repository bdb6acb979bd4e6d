"""The linear layers of several models as one batched product.

vmap of torch's linear layer returns transposed gradients of the weights. Transposing them takes a third of a step on a
GPU. Here they have the layout of the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LinearLayers(torch.autograd.Function):
    """x W^T + b of one model: x (row, in), W (out, in), b (out,). vmap over models adds a leading dimension."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return slope @ weight, slope.mT @ x, slope.sum(0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        x, weight, bias = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip((x, weight, bias), in_dims, strict=True)
        )
        return _Batched.apply(x, weight, bias), 0


class _Batched(torch.autograd.Function):
    """The same with x (model, row, in), W (model, out, in), b (model, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(slope, weight) if ctx.needs_input_grad[0] else None
        return of_x, torch.bmm(slope.mT, x), slope.sum(1)
