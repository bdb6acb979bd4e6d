"""The sentences of a monitor: each where it is due, once, and not elsewhere."""

import warnings

import pytest
import torch
from torch import nn

import gradlab
from gradlab.monitoring.alarms import of_figures
from gradlab.monitoring.monitor import MonitorWarning

from . import loops
from .test_monitor import monitored


def said(monitor, x, steps=4):
    """The sentences of some steps, those about hooks left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            monitor.step(x)
    return [str(one.message) for one in caught if issubclass(one.category, MonitorWarning)]


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(6, loops.PIXELS)


def test_a_healthy_training_says_nothing(x):
    assert said(monitored(loops.model_of("plain"), every=1), x) == []


def test_an_encoder_without_gradient(x):
    model = loops.model_of("plain")

    class Detached(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).detach()

    model.encoder = Detached(model.encoder)
    (sentence,) = said(monitored(model, every=1), x)
    assert "step 0: the encoder's gradient is exactly 0: its logits do not depend on its weights" in sentence
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(False)  # frozen on purpose
    assert said(monitored(model, every=1), x) == []


def test_an_encoder_whose_units_are_all_off(x):
    model = loops.model_of("plain")
    model.encoder = nn.Sequential(nn.Linear(loops.PIXELS, 5), nn.ReLU(), nn.Linear(5, 6, bias=False))
    with torch.no_grad():
        model.encoder[0].bias.fill_(-100)
    assert "the encoder's gradient is exactly 0" in said(monitored(model, every=1), x)[0]


def test_a_decoder_that_ignores_the_codes(x):
    model = loops.model_of("plain")
    with torch.no_grad():
        model.decoder[1].weight.zero_()
    assert any("gradient is exactly 0: every estimate is" in one for one in said(monitored(model, every=1), x))


def test_collapsed_codes(x):
    model = loops.model_of("plain")
    with torch.no_grad():
        model.encoder[2].weight.mul_(0.1)
        model.encoder[2].bias.copy_(torch.tensor([9.0, 0, 0, 0, 9.0, 0]))
    found = [one for one in said(monitored(model, every=1), x) if "collapsed" in one]
    assert len(found) == 1
    assert "all 4 examples have the same code" in found[0]


def test_one_code_for_each_example_is_no_collapse():
    model = loops.model_of("plain")
    x = torch.eye(loops.PIXELS)[:4]
    with torch.no_grad():
        model.encoder[2].weight.mul_(60)
    assert not any("collapsed" in one for one in said(monitored(model, every=1), x))


def test_a_schedule_that_does_not_move(x):
    step = 0
    with_bug = monitored(loops.model_of("plain"), every=1, tb=lambda now: 1.0 - 0.1 * step)
    (sentence,) = said(with_bug, x)
    assert "step 2: tb has not moved since the first step: it is 1, though a schedule was given" in sentence
    assert said(monitored(loops.model_of("plain"), every=1, tb=lambda now: 1.0 - 0.1 * now), x) == []
    late = monitored(loops.model_of("plain"), every=1, tb=lambda now: 1.0 if now else 0.9)
    assert said(late, x, 6) == []


@pytest.mark.parametrize(
    ("cosine", "words"),
    [
        ((0.01, -0.05, 0.06), "is orthogonal to the gradient: cosine 0.01 [-0.05, 0.06]"),
        ((-0.5, -0.6, -0.4), "points against the gradient"),
        ((0.01, -0.5, 0.5), None),  # it cannot tell
        ((0.2, 0.15, 0.25), None),
        ((float("nan"),) * 3, None),
    ],
)
def test_the_angle_counts_only_if_the_interval_says_so(cosine, words):
    names = ("cosine_debiased", "cosine_debiased_low", "cosine_debiased_high")
    found = [sentence for _, sentence in of_figures(dict(zip(names, cosine, strict=True)), 7)]
    assert (words in found[0]) if words else found == []


def test_an_estimator_that_is_orthogonal_is_found():
    """Rotated by a quarter turn in the plane of a latent's three logits that sum to 0."""

    def rotated(logits):
        p = torch.softmax(logits, -1)
        noise = -torch.empty_like(p).exponential_().log()
        z = torch.nn.functional.one_hot((logits + noise).argmax(-1), 3).to(p)
        return z + Quarter.apply(p) - p.detach()

    class Quarter(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p):
            return p.clone()

        @staticmethod
        def backward(ctx, v):
            return v.roll(1, -1) - v.roll(-1, -1)

    torch.manual_seed(0)
    one, two = nn.Linear(6, 3), nn.Linear(3, 6)
    with torch.no_grad():
        one.weight.zero_(), one.bias.zero_()  # p = 1/3: J is the projection, and the quarter turn is one in its plane
    model = gradlab.LatentModel(one, nn.Sequential(nn.Flatten(), two), latents=1, categories=3, likelihood=linear)
    estimator = gradlab.estimators.from_layer(rotated, name="rotated", kinds=("categorical",), law="model")
    found = said(monitored(model, estimator=estimator, tf=1.0, tb=1.0, every=1), torch.rand(4, 6))
    assert any("the estimate is orthogonal to the gradient" in one for one in found)


def linear(parameters, x):
    return (parameters * x).sum(1)


def test_weights_or_observations_that_are_not_finite(x):
    model = loops.model_of("plain")
    monitor = monitored(model, every=1)
    with pytest.warns(MonitorWarning, match=r"step 0: x is not finite"):
        assert monitor.step(torch.full_like(x, torch.nan)) == {}
    with torch.no_grad():
        model.decoder[1].weight[0, 0] = torch.nan
    other = monitored(model, every=1)
    with pytest.warns(MonitorWarning, match=r"step 0: decoder.1.weight is not finite, so nothing"):
        assert other.step(x) == {}
    with torch.no_grad():
        model.decoder[1].weight.nan_to_num_()
    assert other.step(x)


def test_hooks_that_do_not_run_are_named_once(x):
    model = loops.model_of("plain")
    model.decoder[1].register_forward_hook(lambda *_: None)
    (sentence,) = said(monitored(model, every=1), x)
    assert "forward hooks of Linear modules do not run in measurements" in sentence
