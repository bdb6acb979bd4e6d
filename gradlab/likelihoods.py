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
        o = parameters.flatten(1)
        return functional.binary_cross_entropy_with_logits(o, x.flatten(1).expand_as(o), reduction="none").sum(1)

    def log_partition(self, parameters):
        # above its threshold (default 20) softplus returns o, an error of 2e-9; here only where e^o may overflow
        threshold = 0.9 * math.log(torch.finfo(parameters.dtype).max)
        return functional.softplus(parameters, threshold=threshold).sum(1)

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
