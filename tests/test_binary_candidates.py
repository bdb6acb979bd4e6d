"""Which unbiased estimators for binary units are worth their cost; `pytest -m deep -s` prints the table of the docs."""

import functools

import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators
from gradlab.derivatives import at_all_points
from gradlab.estimators import conformance
from gradlab.estimators.evaluation import evaluate
from gradlab.setup import encode

from .binary_candidates import CANDIDATES

NAMES = ("rloo:n=4", "disarm", "arms:n=4", "arms:n=8", "leg", "rebar", "double-cv", "double-cv:n=4", "double-cv:n=8")
EVERY = (*map(estimators.parse, NAMES), *CANDIDATES)
UNITS = 12


def derivatives(estimator, evaluations):
    """Backward passes of a draw."""
    return {"muprop": 1, "rebar": 2, "double-cv": evaluations}.get(estimator.name, 0)


def spread(estimator, model, x, evaluations, tf=1.0, together=256):
    """Root of the whole variance of an estimate that costs one evaluation, without and with backward passes."""
    kind, logits = model.kind, encode(model, x).detach()
    estimator = estimator.at(tf, tf)
    cost = estimator.evaluations_at(kind, logits)
    draws, generator = max(64, evaluations // cost), torch.Generator().manual_seed(1)
    first = second = torch.zeros((), dtype=torch.float64)
    for some in torch.arange(draws).split(max(1, together // cost)):
        noise = kind.noise((estimator.noise_arrays, len(some), *logits.shape), dtype=logits.dtype, generator=generator)
        found = next(evaluate([estimator], kind, logits, noise, lambda z, v: at_all_points(model, x, z, 2**28, v)))
        first, second = first + found.double().sum(0), second + found.double().square().sum(0)
    variance = float(((second - first**2 / draws) / (draws - 1)).sum())
    return (variance * cost) ** 0.5, (variance * (cost + derivatives(estimator, cost))) ** 0.5


@functools.cache
def of_units(steps):
    """An autoencoder of 12 binary units after a number of steps with arms(n=4) on bundled images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, UNITS))
        decoder = nn.Sequential(nn.Linear(UNITS, 64), nn.Tanh(), nn.Linear(64, 784), nn.Unflatten(1, (1, 28, 28)))
    model = gradlab.LatentModel(encoder, decoder, latents=UNITS, categories=2, likelihood="bernoulli", binary=True)
    data, arms = gradlab.datasets.load("mnist-sample").first(1000).floats(), estimators.get("arms", n=4)
    optimizer, generator = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = data[torch.randint(0, 1000, (64,), generator=generator)]
        logits = model.logits(x)
        noise = model.kind.noise((4, *logits.shape), dtype=logits.dtype, generator=generator)
        points = arms.points(model.kind, logits.detach(), noise)
        loss = torch.stack([model.losses(z, x) for z in points])
        estimate = arms.estimate(model.kind, logits.detach(), noise, points, loss.detach(), None)
        optimizer.zero_grad()
        ((estimate * logits).sum() / len(x) + loss.mean()).backward()
        optimizer.step()
    return model


def table(model, evaluations, tf=1.0, images=8):
    """Per estimator the spread over that of arms(n=4), without and with backward passes."""
    x = gradlab.datasets.load("mnist-sample").first(images).floats()
    logits = encode(model, x)
    fit = [e for e in EVERY if e.evaluations_at(model.kind, logits) <= 64]
    found = {e.label: spread(e, model, x, evaluations, tf) for e in fit}
    base = found["arms(n=4)"][0]
    return {label: (losses / base, whole / base) for label, (losses, whole) in found.items()}


def shown(title, found):
    print(f"\n{title}")
    for label, (losses, whole) in found.items():
        print(f"{label:22} {losses:6.2f} {whole:6.2f}")


@pytest.mark.deep
@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda e: e.label)
def test_the_candidates_keep_the_protocol_and_are_unbiased(candidate):
    report = conformance.check(candidate, draws=20_000)
    assert report.conforms, report


@pytest.mark.deep
@pytest.mark.parametrize("steps", [0, 100, 600])
def test_few_units(steps):
    """The spread of a variance from thousands of draws is a few per cent; the statements hold by more."""
    found = table(of_units(steps), 16_384)
    shown(f"{UNITS} units after {steps} steps", found)
    names = [e.label for e in CANDIDATES]
    known = min(losses for label, (losses, _) in found.items() if label not in names)
    assert known < min(found[label][0] for label in names)
    assert found["muprop"][0] > found["double-cv(n=4)"][0]
    assert (found["double-cv(n=4)"][1] < 0.8) == (steps < 600)  # also where backward passes count
    assert (found["leg"][0] < 0.5) == (steps < 600)


@pytest.mark.deep
@pytest.mark.parametrize("tf", [1.0, 0.3])
def test_many_units(tf):
    """The bundled autoencoder of 2,048 units, where leg takes 2,049 evaluations."""
    found = table(gradlab.bundled("binary-ae-mnist"), 1024, tf)
    shown(f"2,048 units at tf = {tf}", found)
    assert found["double-cv(n=8)"][0] < 0.9 * found["arms(n=8)"][0]
    assert min(found[e.label][0] for e in CANDIDATES) > 1.3
