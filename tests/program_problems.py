"""Programs to measure, tiny and asymmetric, and plain enumeration and plain autograd to hold them against."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional


class Model(nn.Module):
    """Base: `loss` is the program's, and all parameters are measured."""

    def program(self):
        import gradlab

        return gradlab.Program(self.loss, self)


class RSSM(Model):
    """A state-space model: learned prior, posterior that sees x, KL between the two, reconstruction."""

    def __init__(self, steps=2, latents=2, categories=3, width=4, features=3):
        super().__init__()
        self.steps, self.shape = steps, (latents, categories)
        size = latents * categories
        self.cell = nn.GRUCell(size, width)
        self.prior, self.posterior = nn.Linear(width, size), nn.Linear(width + features, size)
        self.decoder = nn.Linear(width + size, features)
        self.width = width

    def loss(self, x, sample):
        h, total = torch.zeros(len(x), self.width), 0
        for t in range(self.steps):
            prior = self.prior(h).unflatten(1, self.shape).log_softmax(-1)
            logits = 2 * self.posterior(torch.cat([h, x[:, t]], 1)).unflatten(1, self.shape)
            z = sample(logits)
            q = logits.log_softmax(-1)
            h = self.cell(z.flatten(1), h)
            off = (self.decoder(torch.cat([h, z.flatten(1)], 1)) - x[:, t]).square().sum(1)
            total = total + off + 0.7 * (q.exp() * (q - prior)).sum((1, 2))
        return total

    def observed(self, examples, generator):
        return torch.randn(examples, self.steps, self.decoder.out_features, generator=generator)


class Recurrent(Model):
    """A GRU with latents that depend on those before; x is a dict with a mask and token ids."""

    def __init__(self, sites=3, categories=3, width=5, tokens=7):
        super().__init__()
        self.sites, self.categories = sites, categories
        self.embedding = nn.Embedding(tokens, width)
        self.cell, self.head = nn.GRUCell(categories, width), nn.Linear(width, categories)
        self.out = nn.Linear(width, tokens)

    def loss(self, x, sample):
        h, total = torch.tanh(self.embedding(x["tokens"][:, 0])), 0
        for t in range(self.sites):
            z = sample(3 * self.head(h)[:, None])[:, 0]
            h = self.cell(z, h)
            off = functional.cross_entropy(self.out(h), x["tokens"][:, t + 1], reduction="none")
            total = total + x["mask"][:, t] * off
        return total

    def observed(self, examples, generator):
        tokens = torch.randint(self.out.out_features, (examples, self.sites + 1), generator=generator)
        return {"tokens": tokens, "mask": (torch.rand(examples, self.sites, generator=generator) < 0.8).float()}


class Experts(Model):
    """A mixture of experts: a gate draws which expert answers, and binary units switch its features on."""

    def __init__(self, experts=4, units=2, width=5):
        super().__init__()
        self.gate, self.switch = nn.Linear(width, experts), nn.Linear(width + experts, units)
        self.experts = nn.ModuleList(nn.Linear(width, units) for _ in range(experts))

    def loss(self, x, sample):
        inputs, wanted = x
        gate = sample(2 * self.gate(inputs)[:, None])[:, 0]
        units = sample(self.switch(torch.cat([inputs, gate], 1)), binary=True)
        answers = torch.stack([expert(inputs).tanh() for expert in self.experts], 1)
        load = self.gate(inputs).softmax(-1).square().sum(-1)  # a term in the logits
        return ((gate[:, :, None] * answers).sum(1) * units - wanted).square().sum(1) + 0.3 * load

    def observed(self, examples, generator):
        inputs = torch.randn(examples, self.gate.in_features, generator=generator)
        return inputs, torch.randn(examples, self.switch.out_features, generator=generator)


PROGRAMS = {"rssm": RSSM, "recurrent": Recurrent, "experts": Experts}


def problem(name, examples=4, seed=0, **sizes):
    """A model in float32 with numbers of its own, and its observations."""
    generator = torch.Generator().manual_seed(seed)
    model = PROGRAMS[name](**sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return model, model.observed(examples, generator)


def wide(model, x):
    """Model and observations in float64."""
    x = torch.utils._pytree.tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, x)
    return copy.deepcopy(model).double(), x


class in_float64:
    """torch's default dtype within, for losses that make tensors."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)


def sites_of(loss, x):
    """(shape of a code, binary) of each site."""
    found = []

    def sample(logits, binary=False):
        found.append((tuple(logits.shape[1:]), binary))
        return torch.zeros_like(logits)

    loss(x, sample)
    return found


def enumerated(loss, parameters, x, tf=1.0):
    """Plain enumeration, a path at a time: the gradient of the mean over examples, by parameter."""
    parameters = list(parameters)
    total = [torch.zeros_like(p) for p in parameters]
    choices = []
    for shape, binary in sites_of(loss, x):
        if binary:
            choices.append([torch.tensor(c) for c in itertools.product([0.0, 1.0], repeat=shape[0])])
        else:
            every = itertools.product(range(shape[1]), repeat=shape[0])
            choices.append([functional.one_hot(torch.tensor(c), shape[1]) for c in every])
    for path in itertools.product(*choices):
        left, log_p = list(path), [0.0]

        def sample(logits, binary=False, left=left, log_p=log_p):
            z = left.pop(0).to(logits).expand_as(logits)
            if binary:
                log_p[0] = log_p[0] + functional.logsigmoid(torch.where(z > 0, logits, -logits) / tf).sum(1)
            else:
                log_p[0] = log_p[0] + ((logits / tf).log_softmax(-1) * z).sum((1, 2))
            return z

        loss_of_path = loss(x, sample)
        expected = (log_p[0].exp() * loss_of_path).mean()
        for into, gradient in zip(total, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                into += gradient
    return total
