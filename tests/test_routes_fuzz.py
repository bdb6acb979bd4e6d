"""A fuzz over models, precisions, routes, threads and memory: whatever the way, the same figures."""

import itertools

import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators

from . import problems


class Stateful(nn.Module):
    """Keeps what it computes on itself."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, z):
        self.last = self.module(z)
        return self.last


class View(nn.Module):
    """Logits that are a view of parameters."""

    def __init__(self, logits):
        super().__init__()
        self.weight = nn.Parameter(logits.detach().clone())

    def forward(self, x):
        return self.weight.expand(len(x), *self.weight.shape)


def plain(model, x):
    pass


def stateful(model, x):
    model.decoder = Stateful(model.decoder)


def hooked(model, x):
    model.seen = []
    model.decoder.register_forward_hook(lambda module, given, output: model.seen.append(len(output)))


def viewed(model, x):
    with torch.no_grad():
        model.encoder = View(model.logits(x)[0])


def saturated(model, x):
    with torch.no_grad():
        model.encoder[3].weight.mul_(20)
        model.encoder[3].bias.mul_(20)


MODELS = {change.__name__: change for change in (plain, stateful, hooked, viewed, saturated)}
NAMES = ["3x5-bernoulli-mlp", "2x7-gaussian-conv", "4x1-own-mlp", "binary6-bernoulli-mlp"]
ROUTES = ["pairs", "draws", "table"]


def figures(name, change, dtype, route, threads, memory):
    problem = problems.make(name, dtype)
    MODELS[change](problem.model, problem.x)
    names = ("decoupled-st-gs", "st-gs", "ste", "reinmax", "zgr", "rloo", "gst")
    several = [estimators.get(each) for each in names]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ds = gradlab.bias(
            problem.model,
            problem.x,
            [0.6, 1.6],
            [0.5, 1.3],
            estimator=several,
            compute=gradlab.Compute(memory=memory),
            moments=gradlab.MonteCarlo(draws=64, decoder=route),
        )
    finally:
        torch.set_num_threads(before)
    return {n: torch.tensor(ds[n].values) for n in ("exact_gradient", "mean_gradient", "std_gradient")}


def compare(name, change, dtype):
    tried = 0
    wanted = figures(name, change, dtype, "draws", 1, None)
    scale = {n: float(values.abs().max()) for n, values in wanted.items()}
    for route, threads, memory in itertools.product(ROUTES, (1, 2, 4), (None, 400_000)):
        if route == "table" and "own" in name:
            continue
        found = figures(name, change, dtype, route, threads, memory)
        tried += 1
        for n, values in found.items():
            off = float((values - wanted[n]).abs().max()) / scale[n]
            assert off < (2e-4 if dtype == torch.float32 else 1e-9), (
                name,
                change,
                dtype,
                route,
                threads,
                memory,
                n,
                off,
            )
    return tried


@pytest.mark.parametrize(
    ("name", "change"), [("3x5-bernoulli-mlp", "stateful"), ("binary6-bernoulli-mlp", "saturated")]
)
def test_all_ways_give_the_same_figures(name, change):
    wanted = figures(name, change, torch.float64, "draws", 1, None)
    for route, threads, memory in (("pairs", 2, None), ("table", 4, 400_000)):
        for n, values in figures(name, change, torch.float64, route, threads, memory).items():
            torch.testing.assert_close(values, wanted[n], rtol=1e-9, atol=1e-9)


def test_what_a_module_keeps_of_its_last_call_does_not_keep_it_from_being_copied():
    """Single precision: the exact gradient needs a copy in float64, after the decoder was called with gradients."""
    problem = problems.make("3x5-bernoulli-mlp", torch.float32)
    stateful(problem.model, problem.x)
    gradlab.bias(problem.model, problem.x, draws=32)


@pytest.mark.deep
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_all_ways_give_the_same_figures_in_full(name, change, dtype):
    assert compare(name, change, dtype) >= 12
