"""Layers that others wrote, as estimators: equal to plain autograd, to the catalogue, and pure."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlab import estimators, sampling
from gradlab.estimators import conformance
from gradlab.estimators.evaluation import estimate_of, points_of
from gradlab.latents import BINARY, CATEGORICAL

from . import problems
from .own_layers import CORRECT, Overheard

KINDS = {"categorical": CATEGORICAL, "binary": BINARY}
MODELS = {"categorical": "3x5-bernoulli-mlp", "binary": "binary6-bernoulli-mlp"}


def by_name(written):
    return written.name


def kind_of(written):
    return KINDS[written.kinds[0]]


def problem_of(written):
    return problems.make(MODELS[written.kinds[0]])


def overheard_noise(kind, shape, found):
    """The standard noise that makes torch's random results: of exponential and rand calls, of sampled indices."""
    (name, result), *more = found
    if kind is BINARY:
        if name == "bernoulli":
            return (result - 0.5) * 200
        if more:  # two Gumbels
            first, second = (-torch.log(-torch.log(r.double())) for r in (result, more[0][1]))
            return first - second
        if name == "exponential_":  # of the pair (0, l)
            return result[..., 0].log() - result[..., 1].log()
        return torch.logit(result)
    if name == "multinomial":
        return 200 * F.one_hot(result.reshape(shape[:-1]), shape[-1]).double()
    return -torch.log(result) if name == "exponential_" else -torch.log(-torch.log(result))


@pytest.mark.parametrize("written", CORRECT, ids=by_name)
def test_codes_and_estimates_are_those_of_plain_autograd(written):
    """torch draws, autograd pulls back; the estimator is given the noise that torch drew."""
    kind, tb = kind_of(written), 0.7
    shape = (4, 3, 5) if kind is CATEGORICAL else (4, 3)
    generator = torch.Generator().manual_seed(0)
    estimator = written.estimator().at(1.0, tb)
    arguments = estimator.layer.arguments
    for _ in range(3):
        logits, v = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        leaf = logits.clone().requires_grad_()
        with torch.random.fork_rng(), Overheard() as heard:
            given = leaf.flatten(0, 1) if written.name == "two-dimensional" else leaf.clone()
            function = arguments.function.double() if isinstance(arguments.function, nn.Module) else arguments.function
            z = arguments(function, given, 1.0, tb).reshape(shape)
            (z * v).sum().backward()
        noise = overheard_noise(kind, shape, heard.found).reshape(1, *shape)
        if written.name == "uniform":  # u < p is l - logit(u) > 0
            noise = -noise
        noise = torch.cat([noise, kind.noise((1, *shape), dtype=torch.float64, generator=generator)])
        points = points_of(estimator, kind, logits, noise)
        estimate = estimate_of(estimator, kind, logits, noise, points, None, v[None])
        torch.testing.assert_close(points[0], z.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(estimate, leaf.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("written", CORRECT, ids=by_name)
def test_moments_are_those_of_the_catalogue_on_every_route(written):
    """The same draws, whatever is decoded how, alone or beside others."""
    problem, tb = problem_of(written), 0.7
    tf = 1.3 if written.law == "tf" else 1.0
    own, twin = written.estimator().at(tf, tb), written.twin(tf, tb)
    with torch.no_grad():
        setup = problems.setup_of(problem.model, problem.x, problem.model.logits(problem.x))
    every = [estimators.get("ste", tf=tf), own, twin]
    noise = sampling.Noise(setup.kind, setup.logits, max(e.noise_arrays for e in every), 32, 0)
    for decoder in ("pairs", "draws"):
        _, one, other = sampling.sample_moments(setup, every, noise, decoder=decoder)
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(one.squares, other.squares, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("written", CORRECT, ids=by_name)
def test_the_protocol_is_kept(written):
    assert conformance.violations(written.estimator(), kind_of(written)) == []
