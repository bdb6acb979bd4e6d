"""Layers as people write them, correct and faulty, and plain autograd through them with torch's own random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradlab import estimators
from gradlab.estimators import Estimator


@dataclass(frozen=True)
class Written:
    """A layer, and the catalogue entry that it is, at the temperatures that it is called with."""

    name: str
    layer: Callable[..., Tensor]
    entry: str | None = None
    at: Callable[[float, float], tuple[float, float]] = lambda tf, tb: (tf, tb)
    kinds: tuple[str, ...] = ("categorical",)
    discrete: bool = True
    law: str = "model"
    same_draws: bool = True  # whether its noise is the catalogue's

    def estimator(self) -> Estimator:
        return estimators.from_layer(self.layer, name=self.name, kinds=self.kinds, discrete=self.discrete, law=self.law)

    def twin(self, tf: float, tb: float) -> Estimator:
        assert self.entry is not None
        return estimators.parse(self.entry).at(*self.at(tf, tb))


def gumbel(like: Tensor) -> Tensor:
    return -torch.log(-torch.log(torch.rand_like(like)))


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    return hard + soft - soft.detach()


def one_hot(a: Tensor) -> Tensor:
    return F.one_hot(a.argmax(-1), a.shape[-1]).to(a.dtype)


def decoupled(logits, tf, tb):
    g = gumbel(logits)
    return straight_through(one_hot(logits / tf + g), torch.softmax(logits / tb + g, -1))


def ste_of_a_module(tf_=1.0):
    class Sampled(nn.Module):
        """Straight-through with a weight, a buffer that counts, and an attribute that is kept."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))
            self.last = None

        def forward(self, logits, temperature):
            self.calls += 1
            p = torch.softmax(self.scale * logits / temperature, -1)
            self.last = p
            return straight_through(one_hot(logits + gumbel(logits)), p)

    return Sampled()


class OwnFunction(torch.autograd.Function):
    """ReinMax as an autograd.Function: (1/1) [2 J(pi) - J(p)/2] v."""

    @staticmethod
    def forward(ctx, logits, tau):
        p = torch.softmax(logits, -1)
        index = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, True).reshape(p.shape[:-1])
        z = F.one_hot(index, p.shape[-1]).to(p.dtype)
        ctx.save_for_backward(z, p, torch.softmax(logits / tau, -1))
        return z

    @staticmethod
    def backward(ctx, v):
        z, p, q = ctx.saved_tensors

        def pulled(r):
            return r * (v - (r * v).sum(-1, keepdim=True))

        return 2 * pulled((z + q) / 2) - pulled(p) / 2, None


def two_dimensional(logits, tau):
    n, k = logits.view(-1, logits.shape[-1]).shape
    assert logits.ndim == 2
    return F.gumbel_softmax(logits, tau=tau, hard=True, dim=1).view(n, k)


def in_place(logits):
    p = torch.softmax(logits, -1)
    logits.add_(gumbel(logits))
    return straight_through(one_hot(logits), p)


def bernoulli_ste(logits):
    p = torch.sigmoid(logits)
    return straight_through(torch.bernoulli(p).detach(), p)


def uniform_ste(logits):
    p = torch.sigmoid(logits)
    return straight_through((torch.rand_like(p) < p).to(p.dtype), p)


def binary_concrete(logits, tau):
    u = torch.rand_like(logits)
    return torch.sigmoid((logits + torch.log(u) - torch.log1p(-u)) / tau)


def two_gumbels(logits, tau):
    a = logits + gumbel(logits) - gumbel(logits)
    return straight_through((a > 0).to(a.dtype), torch.sigmoid(a / tau))


def of_a_pair(logits, tau):
    pair = torch.stack([torch.zeros_like(logits), logits], -1)
    return F.gumbel_softmax(pair, tau=tau, hard=True)[..., 1]


AT_TB = {"at": lambda tf, tb: (1.0, tb)}
AT_ONE = {"at": lambda tf, tb: (1.0, 1.0)}
BINARY = {"kinds": ("binary",)}
CORRECT = [
    Written("torch-hard", lambda l, tau: F.gumbel_softmax(l, tau=tau, hard=True), "st-gs:convention=jang", **AT_TB),
    Written("torch-soft", lambda l, tau: F.gumbel_softmax(l, tau=tau), "gumbel-softmax", **AT_TB, discrete=False),
    Written("torch-hard-one", lambda l: F.gumbel_softmax(l, hard=True), "st-gs:convention=jang", **AT_ONE),
    Written(
        "one-hot-straight-through", lambda l: D.OneHotCategoricalStraightThrough(logits=l).rsample(), "ste", **AT_ONE
    ),
    Written(
        "relaxed-one-hot",
        lambda l, tb: D.RelaxedOneHotCategorical(torch.tensor(tb), logits=l).rsample(),
        "gumbel-softmax",
        **AT_TB,
        discrete=False,
    ),
    Written("decoupled", decoupled, "decoupled-st-gs", law="tf"),
    Written("module", ste_of_a_module(), "ste", **AT_TB),
    Written("function", OwnFunction, "reinmax", **AT_TB),
    Written("apply", OwnFunction.apply, "reinmax", **AT_TB),
    Written("two-dimensional", two_dimensional, "st-gs:convention=jang", **AT_TB),
    Written("in-place", in_place, "ste", **AT_ONE),
    Written("bernoulli", bernoulli_ste, "ste", **AT_ONE, **BINARY),
    Written("uniform", uniform_ste, "ste", **AT_ONE, **BINARY),
    Written("binary-concrete", binary_concrete, "gumbel-softmax", **AT_TB, **BINARY, discrete=False),
    Written(
        "relaxed-bernoulli",
        lambda l, tb: D.RelaxedBernoulli(torch.tensor(tb), logits=l).rsample(),
        "gumbel-softmax",
        **AT_TB,
        **BINARY,
        discrete=False,
    ),
    Written("two-gumbels", two_gumbels, "st-gs:convention=jang", **AT_TB, **BINARY),
    Written("pair", of_a_pair, "st-gs:convention=jang", **AT_TB, **BINARY),
]


class Overheard(TorchDispatchMode):
    """Keeps what torch's own random calls return."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.found.append((func._schema.name.removeprefix("aten::"), result.clone()))
        return result
