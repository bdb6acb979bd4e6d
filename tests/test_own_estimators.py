"""An estimator from outside that states its functions and nothing else is right on every route, only slower."""

import dataclasses
from typing import ClassVar

import pytest
import torch

import gradlab
from gradlab import estimators, moments, sampling, training
from gradlab.estimators import (
    Estimator,
    FunctionOfCode,
    LeaveOneOut,
    NoiseIntegral,
    Relaxation,
    conformance,
    registry,
    surrogate_loss,
)
from gradlab.training import engines, stack

from . import problems
from .small_trainings import IMAGES, VALIDATION, settings

TEXTS = [
    "arms:n=3",
    "decoupled-st-gs",
    "disarm",
    "double-cv:n=3",
    "exact",
    "gst",
    "gumbel-rao:k=2",
    "gumbel-softmax",
    "leg",
    "mve:tau=0.5",
    "rebar",
    "reinforce",
    "reinmax",
    "reinmax-cv:k=2",
    "reinmax-rao:k=2",
    "rloo:n=3",
    "st-gs:convention=jang",
    "ste",
    "ste-argmax",
    "ste-identity",
    "zgr",
]
PROBLEMS = {"categorical": "3x5-bernoulli-mlp", "binary": "binary6-bernoulli-mlp"}
CASES = [(text, kind) for text in TEXTS for kind in estimators.parse(text).kinds if kind in PROBLEMS]


def stripped(text, name="own", **stated):
    """The functions of a catalogue entry, and of what may be left out only `stated`."""
    entry = estimators.parse(text)

    def points(self, kind, logits, noise):
        return entry.at(self.tf, self.tb).points(kind, logits, noise)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return entry.at(self.tf, self.tb).estimate(kind, logits, noise, points, loss, derivative)

    body = {"name": name, "kinds": entry.kinds, "points": points, "estimate": estimate, **stated}
    return dataclasses.dataclass(frozen=True, kw_only=True)(type("Own", (Relaxation,), body))


def pair(text, tf=1.4, tb=0.8, **stated):
    return stripped(text, **stated)(tf=tf, tb=tb), estimators.parse(text).at(tf, tb)


def test_the_whole_catalogue_is_looked_at():
    assert {text.partition(":")[0] for text in TEXTS} == set(estimators.names())


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_what_is_left_out_is_found(text, kind):
    own, entry = pair(text)
    assert own.noise_arrays == entry.noise_arrays
    model = problems.make(PROBLEMS[kind]).model
    logits = torch.empty(1, *model.code_shape)
    assert own.evaluations_at(model.kind, logits) == entry.evaluations_at(model.kind, logits)
    assert (own.shared_points, own.pull_back, own.exact_moments, own.unbiased) == (None, None, None, False)


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_sampled_figures_are_those_of_the_catalogue(text, kind):
    """Beside others, whose points it might be taken to share; by every way to the decoder, and in pairs of draws."""
    problem = problems.make(PROBLEMS[kind])
    own, entry = pair(text)
    others = [estimators.get(name, tf=1.4) for name in ("ste", "rloo", "gumbel-softmax")]
    with torch.no_grad():
        setup = problems.setup_of(problem.model, problem.x, problem.model.logits(problem.x))
    every = [*others, own, own.at(0.6, 0.8), entry, entry.at(0.6, 0.8)]
    noise = sampling.Noise(setup.kind, setup.logits, max(e.noise_arrays for e in every), 32, 0)
    for decoder in ("pairs", "table", "draws"):  # "auto" is one of these
        found = sampling.sample_moments(setup, every, noise, decoder=decoder)
        for one, other in zip(found[3:5], found[5:], strict=True):
            torch.testing.assert_close(one.mean, other.mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(one.squares, other.squares, rtol=1e-8, atol=1e-12)
    paired = sampling.PairedDraws(setup, every, 2)
    paired.add(8)
    for one, other in zip(paired.sums[3:5], paired.sums[5:], strict=True):
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.squares, other.squares, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_a_step_of_training_gives_the_encoder_the_same_gradient(text, kind):
    problem = problems.make(PROBLEMS[kind])
    own, entry = pair(text)
    found = []
    for e in (own, entry):
        problem.model.zero_grad()
        shape = (e.noise_arrays, len(problem.x), *problem.model.code_shape)
        noise = problem.model.kind.noise(shape, dtype=problem.x.dtype, generator=torch.Generator().manual_seed(1))
        training.backward(problem.model, e, problem.x, noise)
        found.append([p.grad.clone() for p in problem.model.encoder.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_a_surrogate_loss_has_the_same_gradient(text, kind):
    problem = problems.make(PROBLEMS[kind])
    gradients = []
    for e in pair(text):
        logits = problem.model.logits(problem.x).detach().requires_grad_()
        loss = surrogate_loss(
            e,
            logits,
            lambda codes: problem.model.losses(codes, problem.x.repeat(len(codes) // len(problem.x), 1, 1, 1)),
            binary=kind == "binary",
            generator=torch.Generator().manual_seed(2),
        )
        gradients += torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("zgr", FunctionOfCode()),
        ("reinforce", FunctionOfCode()),
        ("rloo:n=3", LeaveOneOut(3)),
        ("decoupled-st-gs", NoiseIntegral(0.8, power=1.0)),
        ("gumbel-rao:k=2", NoiseIntegral(0.8, power=1 / 0.8, draws=2)),
    ],
)
def test_moments_are_found_without_sampling_where_it_says_how(text, stated):
    problem = problems.make("3x5-bernoulli-mlp")
    own, entry = pair(text, exact_moments=stated)
    assert conformance.violations(own, problem.model.kind) == []
    assert not moments.supported(pair(text)[0])
    with torch.no_grad():
        setup = problems.setup_of(problem.model, problem.x, problem.model.logits(problem.x))
    (found,), (wanted,) = (moments.exact_moments(setup, [e]) for e in (own, entry))
    assert torch.equal(found.mean, wanted.mean)
    assert torch.equal(found.variance, wanted.variance)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    monkeypatch.setattr(engines, "stacks_pay", lambda device: True)
    return estimators.register


def test_by_name_it_is_measured_and_trained_alone_and_in_a_stack(registered, tmp_path):
    registered(stripped("decoupled-st-gs"))
    problem = problems.make("3x5-bernoulli-mlp")
    found, wanted = (
        gradlab.bias(problem.model, problem.x, 1.3, [0.7, 1.3], estimator=name, draws=64)
        for name in ("own", "decoupled-st-gs")
    )
    for name in ("mean_gradient", "std_gradient", "relative_bias_debiased"):
        torch.testing.assert_close(*(torch.tensor(ds[name].values) for ds in (found, wanted)), rtol=1e-7, atol=1e-12)
    cells = [settings(seed=i, tf=1.0 + i, epochs=1, estimator="own") for i in range(2)]
    outs = [tmp_path / f"{i}.safetensors" for i in range(2)]
    together = training.train_together(cells, IMAGES, VALIDATION, outs)
    for cell, model in zip(cells, together, strict=True):
        other = dataclasses.replace(cell, estimator="decoupled-st-gs")
        alone = training.train(other, IMAGES, VALIDATION, tmp_path / f"alone{cell.seed}.safetensors")
        for name, weights in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], weights, rtol=1e-3, atol=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForNumbers(Relaxation):
    """Written for a temperature that is a number."""

    name: ClassVar[str] = "for-numbers"

    def estimate(self, kind, logits, noise, points, loss, derivative):
        tb = min(self.tb, 2.0)
        return kind.pullback_at(logits / tb, derivative[0]) / tb


def test_one_that_takes_numbers_only_is_not_stacked(registered):
    registered(ForNumbers)
    cells = [settings(seed=i, tb=1.0 + i, estimator="for-numbers") for i in range(2)]
    runs = [training.Run(cell, IMAGES, VALIDATION, "cpu") for cell in cells]
    assert stack.reason_against(runs) == "for-numbers does not take temperatures of several models at once"
    assert any("temperatures as tensors" in text for text in conformance.violations(ForNumbers(), runs[0].model.kind))


def test_one_for_categorical_latents_is_not_taken_for_binary_ones():
    """A softmax over the last dimension is one over units there; so that is said by whoever knows better."""

    class Own(Estimator):
        name = "own"

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return derivative[0]

    problem = problems.make("binary6-bernoulli-mlp")
    with pytest.raises(ValueError, match="got own, which is for categorical latents"):
        gradlab.bias(problem.model, problem.x, estimator=Own(), draws=8)
