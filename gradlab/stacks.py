"""Derivatives of losses for a stack of affine layers and elementwise functions that ends in an affine layer.

With a canonical likelihood f = A(o) - s o.x + c(x) and o = W h(z) + b,

    v(z, x) = J^T (W^T dA/do - s W^T x),   J = dh/dz:

the last layer needs one product per configuration and one per image, and none per pair. J is a product of the earlier
layers W_i and of diagonals, which are the same for all images. Either J is computed, with one row per input, or the
bracket of each pair is propagated back: a product with a diagonal, then with W_i.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import likelihoods, model_checks
from .model import LatentModel, check_pixels

_BLOCK = 2**23  # bytes of the Jacobians of a block, on a CPU
_IN_CACHE = 2**22  # bytes of the brackets of pairs that are propagated together, on a CPU
_SPARSE = 32  # time of a number in a product of single rows, relative to a matrix product


class Passed(NamedTuple):
    """The result of a forward pass of configurations through a stack."""

    outputs: Tensor  # o (configuration, ...)
    shapes: list[torch.Size]  # of the inputs of each layer, configurations first
    diagonals: list[Tensor | None]  # derivatives (configuration, ...) of each elementwise layer before the last
    log_partition: Tensor  # A (configuration,)
    bracket: Tensor  # W^T dA/do (configuration, hidden)


class Stack:
    """The decoder of a model as a stack, and all images. `of` creates one."""

    def __init__(self, model: LatentModel, x: Tensor, layers: list[nn.Module]):
        self.model, self.x = model, x.flatten(1)
        self.likelihood = cast(likelihoods.Canonical, model.likelihood)
        place = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
        self.body, self.last = layers[:place], cast(nn.Linear, layers[place])
        passed = self.passed(self.last.weight.new_zeros(1, *model.code_shape))
        check_pixels(passed.outputs, x)
        scaled = self.likelihood.scale(self.x.shape[1]) * self.x.to(passed.bracket.dtype)
        self.bracket = self._back(scaled.reshape(-1, *passed.outputs.shape[1:]))  # s W^T x (example, hidden)
        sizes = [math.prod(shape) for shape in passed.shapes]
        self.inputs, self.hidden = math.prod(model.code_shape), sizes[-1]
        self.numbers = 3 * sum(sizes) + 4 * passed.outputs.numel()  # numbers of memory per configuration
        # multiplications and additions of a pair and of a Jacobian
        of_each = [_operations(layer, size) for layer, size in zip(layers, sizes, strict=False)]
        first = next((i for i, diagonal in enumerate(passed.diagonals) if diagonal is not None), place)
        self.of_pair, self.of_jacobian = sum(of_each[:place]), self.inputs * sum(of_each[first:place])

    @staticmethod
    def of(model: LatentModel, x: Tensor) -> Stack | None:
        """The stack of a model, or None if the decoder is not a stack or the likelihood is not canonical."""
        canonical = isinstance(model.likelihood, likelihoods.Canonical)
        plain = type(model) is LatentModel and model.groups is None and canonical and not model.conditional
        if not (plain and model_checks.by_row(model.decoder)):
            return None
        layers = list(_in_order(model.decoder))
        affine = [isinstance(layer, nn.Linear) for layer in layers if not _only_shapes(layer)]
        return Stack(model, x, layers) if affine and affine[-1] else None

    def jacobian_pays(self, pairs_each: float) -> bool:
        """True if Jacobians and their products with all images cost less than `pairs_each` pairs per configuration."""
        return self.of_jacobian + 2 * self.inputs * self.hidden * len(self.x) < self.of_pair * pairs_each

    def step(self, memory: int, more: int = 0) -> int:
        """The number of configurations per block; the caller needs `more` further numbers for each."""
        numbers = self.numbers + self.inputs * (2 * self.hidden + 4 * len(self.x)) + more
        step = memory // (numbers * self.bracket.element_size())
        if self.x.device.type == "cpu":
            step = min(step, _BLOCK // (self.inputs * self.hidden * self.bracket.element_size()))
        return max(1, step)

    def passed(self, codes: Tensor) -> Passed:
        h = self.model.decoder_input(codes)
        shapes: list[torch.Size] = []
        diagonals: list[Tensor | None] = []
        for layer in self.body:
            shapes.append(h.shape)
            if isinstance(layer, nn.Linear) or _only_shapes(layer):
                diagonals.append(None)
                with torch.no_grad():
                    h = layer(h)
            else:
                with torch.enable_grad():
                    leaf = h.detach().requires_grad_()
                    out = layer(leaf.clone())  # a copy, because layers may work in place
                    diagonals.append(torch.autograd.grad(out.sum(), leaf)[0])
                h = out.detach()
        with torch.no_grad():
            outputs = self.last(h)
        o, _ = self.model.in_one_precision(outputs.flatten(1), self.x)
        with torch.enable_grad():
            leaf = o.detach().requires_grad_()
            a = self.likelihood.log_partition(leaf)
            slope = torch.autograd.grad(a.sum(), leaf)[0]
        bracket = self._back(slope.reshape(outputs.shape))
        return Passed(outputs, [*shapes, h.shape], diagonals, a.detach(), bracket)

    @torch.no_grad()
    def _back(self, rows: Tensor) -> Tensor:
        """W^T of rows (n, ...) with the shape of the outputs: (n, hidden)."""
        return (rows @ self.last.weight.to(rows.dtype)).flatten(1)

    @torch.no_grad()
    def losses(self, passed: Passed, of: Tensor, image: Tensor, memory: int) -> Tensor:
        """f (pair,) for pairs of passed configurations `of` and images."""
        o, x = self.model.in_one_precision(passed.outputs.flatten(1), self.x)
        if _SPARSE * len(of) > len(o) * len(x):
            products = (o @ x.T)[of, image]
        else:
            products = torch.cat([(o[of[some]] * x[image[some]]).sum(1) for some in _pieces(of, o, memory)])
        f = passed.log_partition[of] - self.likelihood.scale(x.shape[1]) * products + self.likelihood.offset(x)[image]
        return f.to(passed.outputs.dtype)

    @torch.no_grad()
    def at_pairs(self, passed: Passed, of: Tensor, image: Tensor, memory: int) -> Tensor:
        """v (pair, input) for pairs of passed configurations `of` and images, pair by pair."""
        pieces = _pieces(of, passed.bracket, memory)
        return torch.cat([self._back_through(passed, of[some], image[some]) for some in pieces])

    def _back_through(self, passed: Passed, of: Tensor, image: Tensor) -> Tensor:
        r = passed.bracket.index_select(0, of).sub_(self.bracket.index_select(0, image)).to(passed.outputs.dtype)
        for i in reversed(range(len(self.body))):
            layer, diagonal = self.body[i], passed.diagonals[i]
            r = r.reshape(len(of), *passed.shapes[i + 1][1:])
            if isinstance(layer, nn.Linear):
                r = r @ layer.weight
            elif diagonal is not None:
                r = r.mul_(diagonal.index_select(0, of))
        return r.flatten(1)

    def at_all_images(self, passed: Passed, memory: int) -> Tensor:
        """v (example, configuration, input), computed in the cheaper way."""
        configurations, images = len(passed.outputs), len(self.x)
        if self.jacobian_pays(images):
            return self.by_jacobians(passed)
        image, of = (torch.arange(n, device=self.x.device) for n in (images, configurations))
        pairs = self.at_pairs(passed, of.repeat(images), image.repeat_interleave(configurations), memory)
        return pairs.unflatten(0, (images, configurations))

    @torch.no_grad()
    def by_jacobians(self, passed: Passed) -> Tensor:
        """v (example, configuration, input), computed with Jacobians."""
        eye = torch.eye(self.inputs, dtype=passed.outputs.dtype, device=passed.outputs.device)
        # (input, configuration or 1, ...): equal for all configurations before the first elementwise layer
        columns = eye.reshape(self.inputs, 1, *passed.shapes[0][1:])
        for layer, diagonal, shape in zip(self.body, passed.diagonals, passed.shapes[1:], strict=True):
            if isinstance(layer, nn.Linear):
                columns = functional.linear(columns, layer.weight)
            elif diagonal is not None:
                columns = columns.mul_(diagonal) if columns.shape[1] == len(diagonal) else columns * diagonal
            columns = columns.reshape(*columns.shape[:2], *shape[1:])
        columns = columns.flatten(2).to(self.bracket.dtype)
        v = (columns * passed.bracket).sum(-1)[:, None] - self.bracket @ columns.mT  # (input, example, configuration)
        return v.permute(1, 2, 0).to(passed.outputs.dtype)


def _pieces(of: Tensor, rows: Tensor, memory: int) -> tuple[Tensor, ...]:
    """Positions in `of`, split so that the arrays of `rows` fit in the memory and, on a CPU, one fits in the cache."""
    row = rows.shape[1] * rows.element_size()
    step = memory // (4 * row)
    if of.device.type == "cpu":
        step = min(step, _IN_CACHE // row)
    return torch.arange(len(of), device=of.device).split(max(1, step))


def _in_order(layer: nn.Module) -> Iterator[nn.Module]:
    """The layers that a Sequential calls, including those of nested Sequentials."""
    if type(layer) is not nn.Sequential:
        yield layer
        return
    for each in layer:
        yield from _in_order(each)


def _operations(layer: nn.Module, size: int) -> int:
    """The number of multiplications and additions for `size` inputs of the layer."""
    return 2 * size * layer.out_features if isinstance(layer, nn.Linear) else 0


def _only_shapes(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Identity | nn.Flatten | nn.Unflatten)
