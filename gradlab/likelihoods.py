"""Losses f(z, x) per example from the decoder's outputs o(z), the parameters of the likelihood.

A canonical likelihood is f(z, x) = A(o) - s o.x + c(x), so the losses of all configurations and all images are one
matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from . import errors


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
        # its derivative (1 - x) sigmoid(o) - x sigmoid(-o) keeps all digits where sigmoid(o) - x, of torch's function,
        # is 0 or one rounding: at x = 1 and o = 17 in float32
        o = parameters.flatten(1)
        target = x.flatten(1)
        return (target * _softplus(-o) + (1 - target) * _softplus(o)).sum(1)

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
