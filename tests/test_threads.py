"""Which thread calls what: code from outside the package is called from the caller's own, whatever torch has."""

import dataclasses
import threading

import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators, sampling
from gradlab.estimators.straight_through import STE
from gradlab.networks import build
from gradlab.sampling import shared

from . import problems


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Callers:
    """The threads that called."""

    def __init__(self):
        self.threads = set()

    def __call__(self, *given):
        self.threads.add(threading.get_ident())


class KeepsState(nn.Module):
    """What two threads at once mix up."""

    def __init__(self, decoder, callers):
        super().__init__()
        self.decoder, self.callers = decoder, callers

    def forward(self, z):
        self.callers()
        self.hidden = self.decoder[1](self.decoder[0](z))
        return self.decoder[4](self.decoder[3](self.decoder[2](self.hidden)))


def with_state(model, callers):
    model.decoder = KeepsState(model.decoder, callers)


def with_hook(model, callers):
    model.decoder[1].register_forward_hook(lambda *given: callers())


def with_forward_of_its_own(model, callers):
    layer = model.decoder[1]
    layer.forward = lambda h: callers() or nn.functional.linear(h, layer.weight, layer.bias)


def with_likelihood(model, callers):
    model._likelihood = lambda parameters, x: callers() or problems.heavy_tailed(parameters, x)


MODELS = {change.__name__: change for change in (with_state, with_hook, with_forward_of_its_own, with_likelihood)}


def ste_that_says_who_calls(callers):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(STE):
        name = "own"

        def perturbed(self, kind, logits, noise):
            callers()
            return super().perturbed(kind, logits, noise)

    return Own()


def measured(model, x, estimator="decoupled-st-gs", **options):
    return gradlab.bias(model, x, 1.3, [0.7, 1.3], estimator=estimator, draws=64, **options)


def same(found, wanted):
    for name, values in wanted.items():
        if values.dtype.kind == "f":
            torch.testing.assert_close(*(torch.tensor(v.values) for v in (found[name], values)), equal_nan=True)


@pytest.mark.parametrize("change", MODELS)
def test_models_from_outside_are_called_from_one_thread(change):
    problem, callers = problems.make("8x4-bernoulli-mlp"), Callers()
    MODELS[change](problem.model, callers)
    assert not shared.decodes_in_threads(problem.model)
    found = measured(problem.model, problem.x, reference="rloo")
    assert callers.threads == {threading.get_ident()}
    torch.set_num_threads(1)
    same(found, measured(problem.model, problem.x, reference="rloo"))


@pytest.mark.parametrize("reference", ["exact", "rloo"])
def test_estimators_from_outside_are_called_from_one_thread(reference):
    problem, callers = problems.make("8x4-bernoulli-mlp"), Callers()
    own = ste_that_says_who_calls(callers)
    found = measured(problem.model, problem.x, [own, "ste"], reference=reference)
    assert callers.threads == {threading.get_ident()}
    for name in ("relative_bias_debiased", "relative_std"):
        own_values, values = found[name].values
        torch.testing.assert_close(torch.tensor(own_values), torch.tensor(values))


@pytest.mark.parametrize("reference", ["exact", "rloo"])
def test_what_is_known_stays_on_all_threads(reference, monkeypatch):
    problem, callers = problems.make("8x4-bernoulli-mlp"), Callers()
    assert shared.decodes_in_threads(problem.model)
    pull = type(problem.model.kind).pull
    into = type(problem.model.kind).pull_into
    monkeypatch.setattr(type(problem.model.kind), "pull", lambda *of: callers() or pull(*of))
    monkeypatch.setattr(type(problem.model.kind), "pull_into", lambda *of: callers() or into(*of))
    monkeypatch.setattr(sampling.straight_through_moments, "_IN_CACHE", 200)
    measured(problem.model, problem.x, reference=reference)
    assert callers.threads - {threading.get_ident()}


@pytest.mark.parametrize("name", ["categorical-vae", "binary-autoencoder"])
def test_networks_of_the_package_are_known(name):
    model = build(name, {}, seed=0)
    assert shared.decodes_in_threads(model)
    nn.utils.parametrizations.weight_norm(next(m for m in model.decoder.modules() if hasattr(m, "weight")))
    assert not shared.decodes_in_threads(model)


def test_a_subclass_is_not_built_in():
    assert estimators.is_built_in(STE())
    assert not estimators.is_built_in(ste_that_says_who_calls(Callers()))
