"""Models as strangers write them: each a case with encoder, decoder and likelihood, and a plain loss for the oracle.

Two latents of three categories, six features, four examples, single precision, unless a case says otherwise.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import distributions, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

LATENTS, CATEGORIES, FEATURES, EXAMPLES = 2, 3, 6, 4
CASES: dict[str, Callable[[], Case]] = {}


@dataclasses.dataclass
class Case:
    decoder: nn.Module
    likelihood: Any = "gaussian"
    encoder: nn.Module = dataclasses.field(default_factory=lambda: nn.Linear(FEATURES, LATENTS * CATEGORIES))
    x: torch.Tensor = dataclasses.field(default_factory=lambda: torch.rand(EXAMPLES, FEATURES))
    tolerance: float = 1e-5
    narrow: bool = False  # runs in its own precision only

    def losses(self, z):
        out = self.decoder(z)
        return self.likelihood(out, self.x) if callable(self.likelihood) else (out - self.x).square().mean(1)

    def logits(self):
        out = self.encoder(self.x)
        out = out[0] if isinstance(out, tuple) else out
        return out.detach().reshape(EXAMPLES, LATENTS, CATEGORIES)


def case(make):
    CASES[make.__name__] = make
    return make


def mlp(outputs=FEATURES):
    layers = nn.Linear(LATENTS * CATEGORIES, 8), nn.Tanh(), nn.Linear(8, outputs)
    return nn.Sequential(nn.Flatten(), *layers)


class Of(nn.Module):
    """A module from a function of (self, z) and its parts."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, z):
        return self.function(self, z)


class Head(nn.Module):
    """A likelihood with weights: cross entropy of a label in the first column."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, 5)

    def forward(self, o, x):
        return functional.cross_entropy(self.layer(o), (5 * x[:, 0]).long().clamp(0, 4), reduction="none")

    def loss(self, o, x):
        return self.forward(o, x)


# --- likelihoods that own weights ---


@case
def closure():
    head = Head()
    return Case(mlp(), lambda o, x: head(o, x))


@case
def bound_method():
    return Case(mlp(), Head().loss)


@case
def bound_method_of_the_decoder():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = mlp(), Head()

        def forward(self, z):
            return self.body(z)

        def loss(self, o, x):
            return self.head(o, x)

    decoder = Decoder()
    return Case(decoder, decoder.loss)


@case
def module():
    return Case(mlp(), Head())


@case
def partial():
    return Case(mlp(), functools.partial(lambda head, o, x: head(o, x), Head()))


@case
def instance():
    class Loss:
        def __init__(self):
            self.head = Head()

        def __call__(self, o, x):
            return self.head(o, x)

    return Case(mlp(), Loss())


GLOBAL = None


@case
def global_module():
    global GLOBAL
    GLOBAL = Head()
    return Case(mlp(), lambda o, x: GLOBAL(o, x))


@case
def default_argument():
    def loss(o, x, head=Head()):  # noqa: B008
        return head(o, x)

    return Case(mlp(), loss)


@case
def nested_closure():
    head = Head()

    def projected(o):
        return head.layer(o)

    return Case(mlp(), lambda o, x: (projected(o) - x[:, :5]).square().sum(1))


@case
def list_of_modules():
    heads = [nn.Linear(FEATURES, FEATURES) for _ in range(2)]
    return Case(mlp(), lambda o, x: sum((head(o) - x).square().sum(1) for head in heads))


@case
def frozen_features():
    net = nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU()).requires_grad_(False).eval()
    return Case(mlp(), lambda o, x: (net(o) - net(x)).square().sum(1))


@case
def class_weights():
    weight = torch.rand(FEATURES) + 0.5
    label = lambda x: (5 * x[:, 0]).long()  # noqa: E731
    return Case(mlp(), lambda o, x: functional.cross_entropy(o, label(x), weight=weight, reduction="none"))


# --- what a decoder gives ---


def two():
    return {"mean": mlp(), "log_variance": mlp()}


def nll(mean, log_variance, x):
    return (0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance)).sum(1)


@case
def tuple_of_tensors():
    return Case(Of(lambda self, z: (self.mean(z), self.log_variance(z)), **two()), lambda o, x: nll(*o, x))


@case
def dict_of_tensors():
    decoder = Of(lambda self, z: {"m": self.mean(z), "v": self.log_variance(z)}, **two())
    return Case(decoder, lambda o, x: nll(o["m"], o["v"], x))


Pair = collections.namedtuple("Pair", "m v")


@case
def named_tuple():
    return Case(Of(lambda self, z: Pair(self.mean(z), self.log_variance(z)), **two()), lambda o, x: nll(o.m, o.v, x))


@case
def tuple_with_a_shared_scale():
    decoder = Of(lambda self, z: (self.mean(z), self.scale), mean=mlp(), scale=nn.Parameter(torch.rand(FEATURES)))
    return Case(decoder, lambda o, x: nll(*o, x))


@dataclasses.dataclass
class Out:
    m: torch.Tensor
    v: torch.Tensor


@case
def data_class():
    return Case(Of(lambda self, z: Out(self.mean(z), self.log_variance(z)), **two()), lambda o, x: nll(o.m, o.v, x))


@case
def normal():
    decoder = Of(lambda self, z: distributions.Normal(self.mean(z), self.log_variance(z).exp()), **two())
    return Case(decoder, lambda o, x: -o.log_prob(x).sum(1))


@case
def independent_bernoulli():
    decoder = Of(lambda self, z: distributions.Independent(distributions.Bernoulli(logits=self.mean(z)), 1), mean=mlp())
    return Case(decoder, lambda o, x: -o.log_prob(x), x=torch.rand(EXAMPLES, FEATURES).round())


@case
def mixture():
    def decode(self, z):
        parts = distributions.Normal(self.means(z).reshape(-1, 3, FEATURES), 1.0)
        weights = distributions.Categorical(logits=self.weights(z))
        return distributions.MixtureSameFamily(weights, distributions.Independent(parts, 1))

    return Case(Of(decode, means=mlp(3 * FEATURES), weights=mlp(3)), lambda o, x: -o.log_prob(x))


@case
def tokens():
    encoder = nn.Sequential(nn.Embedding(9, LATENTS * CATEGORIES // 2), nn.Flatten())
    decoder = Of(lambda self, z: self.body(z).view(-1, 9, 2), body=mlp(18))
    loss = lambda o, x: functional.cross_entropy(o, x, reduction="none").sum(1)  # noqa: E731
    return Case(decoder, loss, encoder, torch.randint(9, (EXAMPLES, 2)))


# --- encoders with a state ---


@case
def logits_and_state():
    encoder = Of(lambda self, x: (self.layer(x), {"hidden": x}), layer=nn.Linear(FEATURES, LATENTS * CATEGORIES))
    return Case(mlp(), encoder=encoder)


@case
def recurrent_encoder():
    encoder = Of(lambda self, x: self.rnn(x.reshape(len(x), 2, 3)), rnn=nn.LSTM(3, CATEGORIES, batch_first=True))
    return Case(mlp(), encoder=encoder)


# --- precision ---


def recurrent(self, z):
    h = torch.zeros(len(z), 8)
    for step in range(LATENTS):
        h = self.cell(z[:, step], h)
    return self.out(h)


@case
def zeros_in_single_precision():
    return Case(Of(recurrent, cell=nn.GRUCell(CATEGORIES, 8), out=nn.Linear(8, FEATURES)), narrow=True)


@case
def cast_of_the_codes():
    return Case(Of(lambda self, z: self.body(z.float()), body=mlp()), narrow=True)


@case
def cast_of_the_output():
    return Case(Of(lambda self, z: self.body(z).float(), body=mlp()), narrow=True)


@case
def constant_that_is_no_buffer():
    matrix = torch.randn(FEATURES, FEATURES)
    return Case(Of(lambda self, z: self.body(z) @ self.matrix, body=mlp(), matrix=matrix), narrow=True)


@case
def autocast_inside():
    def decode(self, z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.body(z).float()

    return Case(Of(decode, body=mlp()), tolerance=5e-2, narrow=True)


@case
def half_weights_beside_norms():
    def decode(self, z):
        h = self.norm(self.first(z.flatten(1).bfloat16()).float())
        return self.last(h.bfloat16()).float()

    half = {"first": nn.Linear(6, 8).bfloat16(), "last": nn.Linear(8, FEATURES).bfloat16()}
    return Case(Of(decode, norm=nn.LayerNorm(8), **half), tolerance=5e-2, narrow=True)


@case
def zeros_in_the_encoder():
    encoder = Of(
        lambda self, x: self.out(self.cell(x, torch.zeros(len(x), 8))),
        cell=nn.GRUCell(FEATURES, 8),
        out=nn.Linear(8, LATENTS * CATEGORIES),
    )
    return Case(mlp(), encoder=encoder)


@case
def narrow_decoder_with_a_closure():
    head = Head()
    decoder = Of(recurrent, cell=nn.GRUCell(CATEGORIES, 8), out=nn.Linear(8, FEATURES))
    return Case(decoder, lambda o, x: head(o, x) + head(x, x), narrow=True)


@case
def scripted():
    return Case(torch.jit.script(mlp()))


@case
def scripted_and_frozen():
    return Case(torch.jit.freeze(torch.jit.script(mlp().eval())), narrow=True)


# --- modules that are hard to copy ---


@case
def checkpointing():
    return Case(Of(lambda self, z: checkpoint(self.body, z, use_reentrant=False), body=mlp()))


@case
def old_weight_norm():
    body = mlp()
    nn.utils.weight_norm(body[1])
    body(torch.rand(2, LATENTS, CATEGORIES))
    return Case(body)


@case
def old_spectral_norm():
    body = mlp()
    nn.utils.spectral_norm(body[1])
    body(torch.rand(2, LATENTS, CATEGORIES))
    return Case(body.eval())


@case
def activations_kept():
    def decode(self, z):
        self.seen["last"].append(self.body(z))
        return self.seen["last"][-1]

    return Case(Of(decode, body=mlp(), seen={"last": []}))


@case
def a_lock():
    def decode(self, z):
        with self.lock:
            return self.body(z)

    return Case(Of(decode, body=mlp(), lock=threading.Lock()))


# --- ordinary ones ---


@case
def attention():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = torch.full((LATENTS, LATENTS), float("-inf")).triu(1)
    decode = lambda self, z: self.out(self.layer(self.embed(z), src_mask=self.mask).flatten(1))  # noqa: E731
    parts = {"embed": nn.Linear(CATEGORIES, 8), "out": nn.Linear(8 * LATENTS, FEATURES)}
    return Case(Of(decode, layer=layer, mask=mask, **parts))


@case
def code_book():
    book = nn.Parameter(torch.randn(LATENTS, CATEGORIES, 5))
    decode = lambda self, z: self.out(torch.einsum("nlk,lkd->nld", z, self.book).flatten(1))  # noqa: E731
    return Case(Of(decode, book=book, out=nn.Linear(5 * LATENTS, FEATURES)))


@case
def tied_weights():
    encoder = nn.Linear(FEATURES, LATENTS * CATEGORIES)
    return Case(Of(lambda self, z: z.flatten(1) @ self.weight, weight=encoder.weight), encoder=encoder)


@case
def convolution_with_group_norm():
    body = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.BatchNorm1d(4), nn.Dropout(), nn.ConvTranspose1d(4, 1, 3))
    decode = lambda self, z: self.body(self.spread(z.flatten(1)).view(-1, 4, 4)).flatten(1)  # noqa: E731
    return Case(Of(decode, body=body, spread=nn.Linear(6, 16)))


def made(name: str) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = CASES[name]()
        found.encoder.eval()
        found.decoder.eval()
        return found
