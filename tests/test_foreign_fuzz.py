"""A fuzz over decoders, outputs, likelihoods, precisions and kinds of latents, against plain autograd in float64."""

import copy
import random
import warnings

import pytest
import torch
from torch import distributions, nn
from torch.nn import functional

import gradlab

from . import oracles

WIDTH = 8
BODIES = ("mlp", "attention", "book", "group norm", "layer norm", "batch norm", "dropout", "gru", "view", "convolution")
OUTPUTS = ("tensor", "tuple", "dict", "shared scale", "distribution")


class Decoder(nn.Module):
    """All parts; which are used is drawn."""

    def __init__(self, body, output, latents, categories, features):
        super().__init__()
        self.body, self.output, self.latents = body, output, latents
        self.first, self.of_x = nn.Linear(latents * categories, WIDTH), nn.Linear(features, WIDTH)
        self.out, self.second = nn.Linear(WIDTH, features), nn.Linear(WIDTH, features)
        self.scale, self.embed = nn.Parameter(torch.rand(features)), nn.Linear(categories, WIDTH)
        self.attention = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.book = nn.Parameter(torch.randn(latents, categories, WIDTH))
        self.cell, self.conv = nn.GRUCell(categories, WIDTH), nn.Conv1d(1, 1, 3, padding=1)
        norm = nn.BatchNorm1d(WIDTH)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norms = {"group norm": nn.GroupNorm(2, WIDTH), "layer norm": nn.LayerNorm(WIDTH), "batch norm": norm}
        self.layer = {**norms, "dropout": nn.Dropout()}.get(body, nn.Identity())

    def hidden(self, z):  # (n, latent, category), binary: one column
        if self.body == "attention":
            return self.attention(self.embed(z)).mean(1)
        if self.body == "book":
            return torch.einsum("nlk,lkw->nw", z, self.book)
        if self.body == "gru":
            h = z.new_zeros(len(z), WIDTH)
            for step in range(self.latents):
                h = self.cell(z[:, step], h)
            return h
        h = self.layer(self.first(z.flatten(1)))
        h = h.view(-1, 2, WIDTH // 2).transpose(1, 2).reshape(len(z), WIDTH) if self.body == "view" else h
        return self.conv(h[:, None])[:, 0] if self.body == "convolution" else torch.tanh(2 * h)

    def forward(self, z, x=None):
        h = self.hidden(z[..., None] if z.ndim == 2 else z)
        h = h if x is None else h * torch.tanh(self.of_x(x))
        mean, other = self.out(h), self.second(h)
        if self.output == "distribution":
            return distributions.Normal(mean, other.exp() + 0.1)
        two = {"tuple": (mean, other), "dict": {"m": mean, "v": other}, "shared scale": (mean, self.scale)}
        return two.get(self.output, mean)


def nll(out, x):
    if isinstance(out, distributions.Normal):
        return -out.log_prob(x).sum(1)
    mean, log_variance = out.values() if isinstance(out, dict) else out
    return (0.5 * ((x - mean).square() * torch.exp(-log_variance) + log_variance)).sum(1)


def drawn(seed):
    """Model, x, tf, the plain loss of (z, decoder, x), and a description."""
    choose = random.Random(seed)
    binary, conditional = choose.random() < 0.3, choose.random() < 0.5
    latents, categories = choose.choice([1, 2, 3]), 2 if binary else choose.choice([2, 3, 4])
    features, examples = choose.choice([4, 6, 9]), choose.choice([1, 2, 5])
    dtype = choose.choice([torch.float32, torch.float64, torch.bfloat16])
    body, output = choose.choice(BODIES), choose.choice(OUTPUTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Linear(features, latents * (1 if binary else categories))
        decoder = Decoder(body, output, latents, 1 if binary else categories, features)
        head, x = nn.Linear(features, 3).to(dtype), torch.rand(examples, features)
    plain = {
        "bernoulli": lambda o, x: functional.binary_cross_entropy_with_logits(o, x, reduction="none").sum(1),
        "gaussian": lambda o, x: (o - x).square().mean(1),
        "own": lambda o, x: torch.log1p((o - x).square()).sum(1),
        "closure": lambda o, x: (head(o) - 1).square().sum(1),
    }
    name = choose.choice(list(plain))
    loss = plain[name] if output == "tensor" else nll
    model = gradlab.LatentModel(
        encoder,
        decoder,
        latents=latents,
        categories=categories,
        binary=binary,
        conditional=conditional,
        likelihood=name if loss is not nll and name in ("bernoulli", "gaussian") else loss,
    )
    model.to(dtype).eval()
    described = body, output, name, dtype, f"{latents}x{categories}", f"binary {binary}", f"conditional {conditional}"
    return model, x if dtype == torch.bfloat16 else x.to(dtype), choose.choice([0.5, 1.0, 1.7]), (loss, head), described


def compare(seed):
    model, x, tf, (loss, head), described = drawn(seed)
    with torch.no_grad():
        logits = model.encoder(x.to(model.encoder.weight.dtype)).reshape(len(x), *model.code_shape).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gradlab.exact_gradient(model, x, tf=tf)
        ways = [
            gradlab.bias(model, x, tf=tf, tb=0.8, moments=gradlab.MonteCarlo(draws=8, decoder=way)).mean_gradient
            for way in ("draws", "pairs")
        ]
    decoder, wide = copy.deepcopy(model.decoder).double(), x.double()
    head.double()
    wanted = oracles.gradient_of_plain_code(
        logits,
        lambda z: loss(decoder(z, wide) if model.conditional else decoder(z), wide),
        model.categories,
        tf,
        model.binary,
    )
    assert oracles.relative_error(found, wanted) < 1e-9, described
    off = float(abs(ways[0] - ways[1]).max() / abs(ways[0]).max())
    eps = torch.finfo(model.encoder.weight.dtype).eps
    assert off < 1000 * eps if eps < 1e-3 else off < 10 * eps, described


@pytest.mark.parametrize("seed", range(10))
def test_random_models_are_those_of_plain_autograd(seed):
    compare(seed)


@pytest.mark.deep
def test_many_random_models_are_those_of_plain_autograd():
    for seed in range(10, 400):
        compare(seed)
