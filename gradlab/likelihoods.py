"""Losses f(z, x) per example from the decoder's outputs o(z), the parameters of the likelihood.

A canonical likelihood is f(z, x) = A(o) - s o.x + c(x), so the losses of all configurations and all images are one
matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from . import checks, errors


class Canonical:
    """f(o, x) = A(o) - scale o.x + offset(x) over flattened pixels; o and x are `(n, pixel)`."""

    name: ClassVar[str]
    unit: ClassVar[str]

    def __call__(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def log_partition(self, parameters: Tensor) -> Tensor:
        raise NotImplementedError

    def scale(self, pixels: int) -> float:
        raise NotImplementedError

    def offset(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def mean(self, parameters: Tensor) -> Tensor:
        """Expected pixels."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raises ValueError if x is not a possible observation."""


class Bernoulli(Canonical):
    """Negative log-likelihood in nats, summed over pixels. Parameters are logits, targets are in [0, 1]."""

    name = "bernoulli"
    unit = "nats"

    def __call__(self, parameters, x):
        o = parameters.flatten(1)
        target = x.flatten(1).expand_as(o)
        dtype = torch.promote_types(o.dtype, target.dtype)
        return _CrossEntropy.apply(o.to(dtype), target.to(dtype)).sum(1)

    def log_partition(self, parameters):
        return _softplus(parameters).sum(1)

    def scale(self, pixels):
        return 1.0

    def offset(self, x):
        return x.new_zeros(len(x))

    def mean(self, parameters):
        return torch.sigmoid(parameters)

    def check(self, x):
        outside = (x < 0) | (x > 1)
        if bool(outside.any()):
            index = tuple(int(i) for i in torch.nonzero(outside)[0])
            raise ValueError(
                f"x: expected targets in [0, 1] for the Bernoulli likelihood, got {x[index].item():g} at index {index};"
                " divide grey values by 255 or use likelihood='gaussian'"
            )


class Gaussian(Canonical):
    """Squared error, averaged over pixels."""

    name = "gaussian"
    unit = "squared error"

    def __call__(self, parameters, x):
        o = parameters.flatten(1)
        return (o - x.flatten(1)).square().mean(1)

    def log_partition(self, parameters):
        return parameters.square().mean(1)

    def scale(self, pixels):
        return 2.0 / pixels

    def offset(self, x):
        return x.square().mean(1)

    def mean(self, parameters):
        return parameters


class _CrossEntropy(torch.autograd.Function):
    """(1 - x) log(1 + e^o) + x log(1 + e^-o) of each pixel; only o and x are kept for the backward pass.

    Its derivative (1 - x) sigmoid(o) - x sigmoid(-o) keeps all digits where sigmoid(o) - x, of torch's function, is 0
    or one rounding: at x = 1 and o = 17 in float32.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(o: Tensor, x: Tensor) -> Tensor:
        linear = torch.lerp(o.relu(), (-o).relu_(), x)  # log(1 + e^o) = max(o, 0) + log(1 + e^-|o|)
        return linear.add_(o.abs().neg_().exp_().log1p_())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> Any:
        o, x = ctx.saved_tensors
        of_o, of_x = ctx.needs_input_grad
        return of_output[0] * _slope(o, x) if of_o else None, of_output[0] * -o if of_x else None

    @staticmethod
    def jvp(ctx: Any, *of_inputs: Tensor | None) -> Any:
        checks.one_forward_mode("Bernoulli likelihood")
        o, x = ctx.saved_tensors
        along_o, along_x = of_inputs
        change = torch.zeros_like(o) if along_o is None else along_o * _slope(o, x)
        return change if along_x is None else change - along_x * o


def _slope(o: Tensor, x: Tensor) -> Tensor:
    off = -(-o).sigmoid_()
    return torch.lerp(torch.sigmoid(o), off, x)


def _softplus(o: Tensor) -> Tensor:
    """log(1 + e^o). Above its threshold torch returns o: at 20 an error of 2e-9, here only where e^o overflows."""
    return functional.softplus(o, threshold=0.9 * math.log(torch.finfo(o.dtype).max))


Likelihood = Callable[[Tensor, Tensor], Tensor]
_NAMED = {"bernoulli": Bernoulli, "gaussian": Gaussian}


def resolve(likelihood: str | Likelihood) -> Likelihood:
    """A likelihood by name, or the callable itself. Raises ValueError for an unknown name.

    Examples
    --------
    >>> f = gradlab.likelihoods.resolve("gaussian")
    >>> f(torch.zeros(2, 3), torch.ones(2, 3))
    tensor([1., 1.])
    """
    if callable(likelihood):
        return likelihood
    if likelihood not in _NAMED:
        raise errors.unknown_name("likelihood", likelihood, _NAMED)
    return _NAMED[likelihood]()


def unit_of(likelihood: Likelihood) -> str:
    """Unit of a likelihood's loss: "nats", "squared error", or "loss" of one that states none.

    Examples
    --------
    >>> gradlab.likelihoods.unit_of(gradlab.likelihoods.resolve("bernoulli"))
    'nats'
    """
    return getattr(likelihood, "unit", "loss")


def name_of(likelihood: Likelihood) -> str:
    """Name of a likelihood, as results store it.

    Examples
    --------
    >>> gradlab.likelihoods.name_of(gradlab.likelihoods.resolve("bernoulli"))
    'bernoulli'
    """
    named = getattr(likelihood, "name", None) or getattr(likelihood, "__name__", None)
    return str(named or type(likelihood).__name__)
