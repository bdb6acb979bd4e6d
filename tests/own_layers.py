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
from gradlab.latents import BINARY as BINARY_KIND
from gradlab.latents import CATEGORICAL as CATEGORICAL_KIND


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


# --- faulty ones ---


def noise_inside(logits, tf, tb):
    a = logits + gumbel(logits)
    return straight_through(one_hot(a / tf), torch.softmax(a / tb, -1))


def scaled_twice(logits, tb):
    a = logits + gumbel(logits)
    q = torch.softmax(a / tb, -1)
    return one_hot(a) + (q - q.detach()) / tb


def shared_by_latents(logits):
    g = gumbel(logits[:, :1])
    return straight_through(one_hot(logits + g), torch.softmax(logits, -1))


def shared_by_examples(logits):
    g = gumbel(logits[0])
    return straight_through(one_hot(logits + g), torch.softmax(logits, -1))


def swapped(logits, tf, tb):
    return decoupled(logits, tb, tf)


def normalised(logits):
    return F.gumbel_softmax((logits - logits.mean(0)) / (logits.std(0) + 1e-3), hard=True)


def clipped(logits):
    z = F.gumbel_softmax(logits, hard=True)
    z.register_hook(lambda v: v.clamp(-0.1, 0.1))
    return z


def inverse_temperature(logits, tf):
    return straight_through(one_hot(logits * tf + gumbel(logits)), torch.softmax(logits, -1))


def tempered_twice(logits, tf):
    return straight_through(one_hot(logits / tf**2 + gumbel(logits)), torch.softmax(logits, -1))


def wrong_way_round(logits):
    p = torch.sigmoid(logits)
    return straight_through((torch.rand_like(p) > p).to(p.dtype), p)


def one_gumbel(logits):
    a = logits + gumbel(logits)
    return straight_through((a > 0).to(a.dtype), torch.sigmoid(a))


def of_signs(logits):
    p = torch.sigmoid(logits)
    return 2 * straight_through(torch.bernoulli(p).detach(), p) - 1


def times_smooth(logits, tau):
    y = binary_concrete(logits, tau)
    return (y > 0.5).to(y.dtype) * y


def half_a_gradient(logits):
    p = torch.sigmoid(logits)
    return torch.bernoulli(p).detach() + 0.5 * (p - p.detach())


# name -> layer, and words of the problem that is to be found
FAULTY = {
    "noise inside the division": (noise_inside, "tf has no part in it"),
    "probabilities for logits": (lambda l: F.gumbel_softmax(l.softmax(-1), hard=True), "probabilities for logits"),
    "not one-hot": (lambda l: 0.9 * F.gumbel_softmax(l, hard=True), "neither one-hot nor relaxed"),
    "smoothed": (lambda l: 0.9 * F.gumbel_softmax(l, hard=True) + 0.1 / l.shape[-1], "only 5 different values"),
    "gradient scaled twice": (scaled_twice, "its gradient is 0.5 times that of st-gs(convention=jang)"),
    "argmax": (lambda l: straight_through(one_hot(l), l.softmax(-1)), "it does not sample"),
    "sign": (lambda l: 2 * one_hot(l + gumbel(l)) - F.gumbel_softmax(l), "neither one-hot nor relaxed"),
    "gradient with the wrong sign": (
        lambda l: (lambda g: straight_through(one_hot(l + g), -torch.softmax(l + g, -1)))(gumbel(l)),
        "Its gradient is -1 times",
    ),
    "noise shared by latents": (shared_by_latents, "share random numbers"),
    "noise shared by examples": (shared_by_examples, "share its numbers"),
    "normal noise": (
        lambda l: straight_through(one_hot(l + torch.randn_like(l)), l.softmax(-1)),
        "do not follow softmax(l/t)",
    ),
    "no gradient": (lambda l: one_hot(l + gumbel(l)), "without one"),
    "temperatures swapped": (swapped, "softmax(l/tf)"),
    "normalised over the batch": (normalised, "depend on the other rows"),
    "clipped": (clipped, "not linear"),
    "inverse temperature": (inverse_temperature, "at tf = 2, not softmax(l/tf)"),
    "tempered twice": (tempered_twice, "at tf = 2, not softmax(l/tf)"),
    "temperature read in vain": (
        lambda l, tf, tb: F.gumbel_softmax(l, tau=tb, hard=True) + 0 * tf,
        "tf has no part in it",
    ),
    "over the wrong dimension": (lambda l: F.gumbel_softmax(l, dim=1, hard=True), "dim=1"),
}
FAULTY_BINARY = {
    "wrong way round": (wrong_way_round, "the sign of the logits"),
    "one Gumbel": (one_gumbel, "do not follow softmax(l/t)"),
    "signs": (of_signs, "neither one-hot nor relaxed: values between -1 and 1"),
    "times smooth": (times_smooth, "they jump by"),
    "half a gradient": (half_a_gradient, "Its gradient is 0.5 times that of ste"),
}


def catalogue_layer(name: str, binary: bool) -> Callable[[Tensor, float, float], Tensor]:
    """A derivative-based entry of the catalogue as a layer: forward its point, backward v -> estimate(v)."""
    entry, kind = estimators.parse(name), BINARY_KIND if binary else CATEGORICAL_KIND

    def layer(logits, tf, tb):
        at = entry.at(tf, tb)
        noise = kind.noise((at.noise_arrays, *logits.shape), dtype=logits.dtype)

        class Own(torch.autograd.Function):
            @staticmethod
            def forward(ctx, l):
                return at.points(kind, l, noise)[0].clone()

            @staticmethod
            def backward(ctx, v):
                fixed = logits.detach()
                return at.estimate(kind, fixed, noise, at.points(kind, fixed, noise), None, v[None])

        return Own.apply(logits)

    return layer


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
