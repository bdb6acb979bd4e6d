"""Bad input of the Python functions, and the global random states."""

import random
import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import gradlab
from gradlab import datasets, errors, networks

from . import problems


@pytest.fixture(scope="module")
def problem():
    return problems.make("3x5-bernoulli-mlp")


def with_parts(problem, **parts):
    """The problem's model with another encoder, decoder or likelihood."""
    own = {"encoder": problem.model.encoder, "decoder": problem.model.decoder, "likelihood": "bernoulli"}
    return gradlab.LatentModel(**(own | parts), latents=5, categories=3)


class Returns(nn.Module):
    """Another module's output, changed."""

    def __init__(self, module, change):
        super().__init__()
        self.module, self.change = module, change

    def forward(self, given):
        return self.change(self.module(given))


def planted(value, *index):
    def change(out):
        out = out.clone()
        out[index] = value
        return out

    return change


def bernoulli(parameters, x):
    return nn.functional.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)


BAD_TEMPERATURES = [0, 0.0, -1.5, float("nan"), float("inf"), "warm", None, True, 10**400, torch.ones(2)]


@pytest.mark.parametrize("value", BAD_TEMPERATURES, ids=lambda v: repr(v)[:20])
def test_temperatures_are_finite_and_positive(problem, value):
    logits = torch.zeros(2, 3)
    calls = {
        "exact_gradient": lambda: gradlab.exact_gradient(problem.model, problem.x, tf=value),
        "layer": lambda: gradlab.decoupled_st_gumbel_softmax(logits, tf=value),
        "estimator": lambda: gradlab.estimators.get("decoupled-st-gs", tf=value),
        "bias": lambda: gradlab.bias(problem.model, problem.x, tf=[1.0, value], tb=1.0, draws=2),
    }
    if isinstance(value, torch.Tensor):
        del calls["estimator"]  # which takes several, of several models
        calls["estimator of no temperatures"] = lambda: gradlab.estimators.get("decoupled-st-gs", tf=value.long())
    for call in calls.values():
        with pytest.raises(ValueError, match=r"tf: expected .*, got"):
            call()


def test_backward_temperatures_are_checked_too(problem):
    for value in (0, -1.5, float("nan"), float("inf"), "warm"):
        with pytest.raises(ValueError, match=r"tb: expected .*, got"):
            gradlab.bias(problem.model, problem.x, tf=1.0, tb=value, draws=2)
        with pytest.raises(ValueError, match=r"tb: expected .*, got"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(2, 3), tb=value)


BAD_PARTS = {
    "NaN in logits": (
        lambda p: {"encoder": Returns(p.model.encoder, planted(float("nan"), 2, 4))},
        "logits: expected finite values, got nan at index (2, 1, 1)",
    ),
    "infinite logits": (
        lambda p: {"encoder": Returns(p.model.encoder, planted(float("inf"), 1, 0))},
        "logits: expected finite values, got inf at index (1, 0, 0)",
    ),
    "too many logits": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: torch.cat([out, out], 1))},
        "encoder: expected logits of shape (5, 15) or (5, 5, 3) for 5 latents (3 categories), got (5, 30)",
    ),
    "transposed logits": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: out.reshape(-1, 3, 5))},
        "encoder: expected logits of shape (5, 15) or (5, 5, 3) for 5 latents (3 categories), got (5, 3, 5)",
    ),
    "logits of one image": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: out[:1])},
        "for 5 examples, got a tensor of shape (1, 15)",
    ),
    "encoder gives a tuple": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: (out, out))},
        "for 5 examples, got a tuple",
    ),
    "NaN from decoder": (
        lambda p: {"decoder": Returns(p.model.decoder, planted(float("nan"), 0, 0, 1, 2))},
        "got nan at example 0",
    ),
    "decoder for other codes": (
        lambda p: {"decoder": nn.Sequential(nn.Flatten(), nn.Linear(7, 16).double())},
        "decoder: expected a module that takes codes, got an error for torch.float64 of shape",
    ),
    "too many parameters": (
        lambda p: {"decoder": Returns(p.model.decoder, lambda out: torch.cat([out, out], 1))},
        "expected one parameter per pixel",
    ),
    "one row for all codes": (
        lambda p: {"decoder": Returns(p.model.decoder, lambda out: out.sum(0, keepdim=True))},
        "expected one row per code",
    ),
    "NaN from likelihood": (
        lambda p: {"likelihood": lambda o, x: bernoulli(o, x) * planted(float("nan"), -1)(torch.ones(len(o)))},
        "got nan at example",
    ),
    "loss of the whole batch": (
        lambda p: {"likelihood": lambda o, x: bernoulli(o, x).sum()},
        "likelihood: expected a loss per example",
    ),
    "loss per pixel": (lambda p: {"likelihood": lambda o, x: (o - x).square()}, "a loss per example"),
    "likelihood that does not fit": (
        lambda p: {"likelihood": lambda o, x: (o.flatten(1) - x.flatten(1)[:, :7]).square().sum(1)},
        "likelihood: expected a decoder's output that fits the images",
    ),
}


@pytest.mark.parametrize(("parts", "message"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_a_model_whose_parts_do_not_fit_is_refused(problem, parts, message):
    model = with_parts(problem, **parts(problem))
    for measure in (gradlab.exact_gradient, gradlab.bias):
        with pytest.raises(ValueError, match=re.escape(message)):
            measure(model, problem.x, tf=1.6)


def test_the_problem_s_own_parts_are_not_refused(problem):
    gradient = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    same = gradlab.exact_gradient(with_parts(problem, likelihood=bernoulli), problem.x, tf=1.6)
    torch.testing.assert_close(same, gradient)


BAD_X = {
    "of another size": (
        lambda x: torch.cat([x, x], -1),
        "encoder: expected images that fit the model, got an error for torch.float64 of shape (5, 1, 4, 8)",
    ),
    "a single image": (
        lambda x: x[0, 0, 0],
        "x: expected a batch of at least one example, (example, ...), got shape (4,)",
    ),
    "empty": (lambda x: x[:0], "(example, ...), got shape (0, 1, 4, 4)"),
    "above 1": (
        lambda x: planted(1.5, 2, 0, 1, 3)(x),
        "x: expected targets in [0, 1] for the Bernoulli likelihood, got 1.5 at index (2, 0, 1, 3)",
    ),
    "below 0": (lambda x: planted(-0.25, 0, 0, 0, 1)(x), "got -0.25 at index (0, 0, 0, 1)"),
    "grey values": (
        lambda x: (255 * x).to(torch.uint8),
        "x: expected floating-point images (grey values in [0, 1]: x.float() / 255), got torch.uint8",
    ),
    "not finite": (lambda x: planted(float("nan"), 1, 0, 0, 0)(x), "got nan at index (1, 0, 0, 0)"),
    "no images at all": (lambda x: "mnist", "x: expected a tensor of images, got a str"),
    "nothing": (lambda x: None, "x: expected a tensor of images, got a NoneType"),
}


@pytest.mark.parametrize(("change", "message"), BAD_X.values(), ids=BAD_X)
def test_observations_are_checked(problem, change, message):
    for measure in (gradlab.exact_gradient, gradlab.bias):
        with pytest.raises(ValueError, match=re.escape(message)):
            measure(problem.model, change(problem.x), tf=1.6)


@pytest.mark.parametrize("noisy", [nn.Dropout(0.5), nn.BatchNorm1d(15)], ids=lambda m: type(m).__name__)
def test_a_model_that_is_random_in_training_mode_is_refused(problem, noisy):
    model = with_parts(problem, encoder=nn.Sequential(problem.model.encoder, noisy)).double()
    for measure in (gradlab.exact_gradient, gradlab.bias):
        with pytest.raises(ValueError, match=r"encoder.1 .* training mode.* call model.eval\(\)"):
            measure(model.train(), problem.x, tf=1.6)
    assert bool(torch.isfinite(gradlab.exact_gradient(model.eval(), problem.x, tf=1.6)).all())


UNKNOWN = {
    "target": (lambda p: gradlab.exact_gradient(p.model, p.x, target="smpled"), "did you mean sampled"),
    "target of bias": (lambda p: gradlab.bias(p.model, p.x, target="modell"), "did you mean model"),
    "estimator": (
        lambda p: gradlab.bias(p.model, p.x, estimator="gumbel-sotfmax"),
        "did you mean gumbel-softmax",
    ),
    "estimator by get": (lambda p: gradlab.estimators.get("st-sg"), "did you mean st-gs"),
    "parameter": (lambda p: gradlab.estimators.get("st-gs", tff=1.0), "did you mean tf"),
    "moments": (lambda p: gradlab.bias(p.model, p.x, moments="montecarlo"), "did you mean monte-carlo"),
    "data": (lambda p: datasets.load("fashon-mnist"), "did you mean fashion-mnist"),
    "bundled model": (lambda p: gradlab.bundled("vae-8x4-mnits"), "did you mean vae-8x4-mnist"),
    "architecture": (lambda p: networks.build("categorical-vea", {}), "did you mean categorical-vae"),
    "likelihood": (lambda p: with_parts(p, likelihood="bernouli"), "did you mean bernoulli"),
}


@pytest.mark.parametrize(("call", "hint"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_names_come_with_near_matches(problem, call, hint):
    with pytest.raises(errors.UnknownName, match=hint):
        call(problem)


@pytest.mark.parametrize("draws", [1, 0, -3, 2.5, "8", True, float("inf"), torch.ones(2)])
def test_a_variance_needs_two_draws(problem, draws):
    with pytest.raises(ValueError, match=r"draws: expected .* at least 2 .*, got"):
        gradlab.bias(problem.model, problem.x, draws=draws)


def test_too_large_a_space_is_refused_with_its_size_the_limit_and_a_way_out():
    model = networks.build("categorical-vae", {"latents": 12, "categories": 16, "hidden": [4]}, seed=0)
    for measure, options in ((gradlab.exact_gradient, {}), (gradlab.bias, {"reference": "exact"})):
        with pytest.raises(
            errors.SpaceTooLarge, match=r"at most 16,777,216 configurations .*, got 16\^12 = 2.815e\+14.*gap"
        ):
            measure(model, torch.rand(2, 784), **options)


# --- random states ---


def states():
    """The global random states, as plain values."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  (the global state is what is looked at)
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()


def test_the_global_random_states_are_untouched(problem):
    before = states()
    gradlab.exact_gradient(problem.model, problem.x)
    gradlab.bias(problem.model, problem.x, tf=[0.5, 1.6], tb=1.3, estimator=["ste", "gumbel-softmax"], draws=8, kl=True)
    assert states() == before
    torch.rand(1)
    assert states() != before


def test_the_global_random_states_do_not_matter(problem):
    one = gradlab.bias(problem.model, problem.x, draws=8)
    torch.rand(3), random.random()
    xr.testing.assert_equal(one, gradlab.bias(problem.model, problem.x, draws=8))


def test_numbers_of_more_than_64_bits_are_refused():
    of = problems.make("3x5-bernoulli-mlp")
    with pytest.raises(ValueError, match=r"draws: expected a whole number below 2\^64, got one of 84 bits"):
        gradlab.gap(of.model, of.x, draws=10**25)
    with pytest.raises(ValueError, match=r"averaged: expected a whole number below 2\^64, got one of 1,329 bits"):
        gradlab.recommend(of.model, of.x, averaged=10**400)
