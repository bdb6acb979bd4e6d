"""gradlab.Monitor: what it tells, and that a training with it ends in the same bits as one without."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab.monitoring.monitor import MonitorWarning

from . import loops

QUICK = ("batch norm and dropout", "parametrizations", "state of its own", "autocast inside")
SETUPS = [pytest.param(name, "plain", marks=() if name in QUICK else pytest.mark.deep) for name in loops.MODELS]
SETUPS += [("batch norm and dropout", kind) for kind in ("amp", "accumulation", "compile", "ema")]


def monitored(model, **options):
    given = {"tf": 1.2, "tb": 0.8, "every": 3, "budget": 1, "examples": 4, "draws": 16} | options
    return gradlab.Monitor(model, **given)


# --- the training is untouched ---


@pytest.mark.parametrize(("name", "kind"), SETUPS)
def test_a_training_ends_in_the_same_bits(name, kind):
    torch._dynamo.reset()
    without = loops.train(loops.model_of(name), lambda x, step: None, kind)
    torch._dynamo.reset()
    model, found = loops.model_of(name), []
    monitor = monitored(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MonitorWarning)
        with_it = loops.train(model, lambda x, step: found.append(monitor.step(x)), kind)
    assert loops.differences(without, with_it) == []
    assert len([one for one in found if one]) == 3
    assert all(np.isfinite(one["cosine"]) for one in found if one)


def test_a_difference_would_be_found():
    model = loops.model_of("batch norm and dropout")
    without = loops.train(loops.model_of("batch norm and dropout"), lambda x, step: None)
    other = loops.train(model, lambda x, step: model.encoder(x) if step == 5 else None)
    found = loops.differences(without, other)
    assert {"/weights/encoder.1.running_mean", "/random/0"} <= set(found)
    assert loops.differences(without, without) == []


def test_settings_of_the_caller_are_as_before():
    """In force during the call, too: gradients off, autocast, inference mode, hooks of all modules."""
    model, x = loops.model_of("plain"), torch.rand(4, loops.PIXELS)
    monitor, called = monitored(model, every=1), []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: called.append(1))
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    before = loops.settings()
    try:
        expected = monitor.step(x)
        for around in (
            torch.no_grad(),
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(lambda t: called.append(2), lambda t: None),
            torch.autograd.set_detect_anomaly(True, check_nan=False),
        ):
            with around:
                inside = loops.settings()
                assert monitor.step(x) == expected
                assert loops.settings() == inside
        assert loops.settings() == before
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert called == []
        model.encoder(x)
        assert called
    finally:
        handle.remove()
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")


def test_hooks_of_weights_and_gradients_kept_by_the_user_do_not_run():
    model, x, seen = loops.model_of("plain"), torch.rand(4, loops.PIXELS), []
    for parameter in model.parameters():
        parameter.register_hook(seen.append)
        parameter.register_post_accumulate_grad_hook(seen.append)
        parameter.grad = torch.ones_like(parameter)
    monitored(model).step(x)
    assert seen == []
    assert all(bool((p.grad == 1).all()) for p in model.parameters())


def test_a_model_under_inference_weights_and_half_precision_is_measured():
    with torch.inference_mode():
        model = loops.model_of("plain")
    x = torch.rand(4, loops.PIXELS)
    figures = monitored(model).step(x)
    half = monitored(loops.model_of("plain").bfloat16()).step(x)
    assert np.isfinite(figures["cosine_debiased"])
    assert half["exact_norm"] == pytest.approx(figures["exact_norm"], rel=0.1)


# --- what it measures ---


def test_figures_are_those_of_bias_in_evaluation_mode():
    model, x = loops.model_of("batch norm and dropout"), torch.rand(9, loops.PIXELS)
    loops.train(model, lambda x, step: None)
    with pytest.warns(MonitorWarning, match="forward hooks of Sequential modules do not run in measurements"):
        figures = monitored(model, estimator="reinmax", seed=4).step(x)
    ds = gradlab.bias(model.eval(), x[:4], tf=1.2, tb=0.8, estimator="reinmax", draws=16, seed=4).isel(tf=0, tb=0)
    assert {"relative_bias", "relative_bias_low", "relative_bias_high", "cosine", "relative_std"} <= figures.keys()
    assert (figures.pop("tf"), figures.pop("tb")) == (1.2, 0.8)
    for name, value in figures.items():
        assert type(value) is float
        assert value == ds[name].item() or (np.isnan(value) and np.isnan(ds[name].item()))


def test_wrapped_models_and_modules_are_measured():
    model, x = loops.model_of("plain"), torch.rand(4, loops.PIXELS)
    expected = monitored(model).step(x)
    parts = {"latents": loops.LATENTS, "categories": loops.CATEGORIES}
    parallel = gradlab.LatentModel(nn.DataParallel(model.encoder), torch.compile(model.decoder), **parts)
    assert monitored(parallel).step(x) == expected
    assert monitored(torch.compile(model)).step(x) == expected


def test_a_likelihood_that_uses_a_live_module_is_copied_with_it():
    """Its dropout is off in the copy, and its weights are those of now."""
    judge = nn.Sequential(nn.Linear(loops.PIXELS, 5), nn.Dropout(0.5)).double()

    def perceptual(parameters, x):
        return (judge(parameters) - judge(x)).square().sum(1)

    plain = loops.model_of("plain").double()
    sizes = {"latents": loops.LATENTS, "categories": loops.CATEGORIES}
    model = gradlab.LatentModel(plain.encoder, plain.decoder, likelihood=perceptual, **sizes)
    monitor, x = monitored(model, every=1), torch.rand(4, loops.PIXELS).double()
    first = monitor.step(x)
    with torch.no_grad():
        judge[0].weight.mul_(2)
        judge[0].bias.zero_()
    assert monitor.step(x)["exact_norm"] == pytest.approx(4 * first["exact_norm"], rel=1e-4)
    assert judge.training


def test_a_program_on_live_modules(tmp_path):
    """x a dict; two sites, the second after the first; modules by closure, in an object, as globals of a function."""
    torch.manual_seed(0)
    prior, agent = nn.Linear(4, 3), Agent()

    def loss(x, sample):
        first = sample(prior(x["seen"])[:, None])
        return agent.loss(first, x["wanted"], sample)

    program = gradlab.Program(loss, wrt={"prior": prior, "agent": agent.net})
    x = {"seen": torch.rand(6, 4), "wanted": torch.rand(6, 4)}
    before = [p.clone() for p in (*prior.parameters(), *agent.net.parameters())]
    random = torch.random.get_rng_state()
    monitor = gradlab.Monitor(
        program, estimator="st-gs", tf=1.0, every=1, budget=1, examples=4, draws=16, out=tmp_path / "p.h5"
    )
    figures = monitor.step(x)
    assert torch.equal(random, torch.random.get_rng_state())
    assert prior.training
    assert agent.net.training
    assert agent.net[1].calls == 0
    assert loops.differences(before, [*prior.parameters(), *agent.net.parameters()]) == []
    prior.eval(), agent.net.eval()
    ds = gradlab.bias(program, {k: v[:4] for k, v in x.items()}, tf=1.0, estimator="st-gs", draws=16)
    at = ds.sel(parameter="all").isel(tf=0, tb=0)
    assert figures["cosine_debiased"] == at.cosine_debiased.item()
    assert figures["relative_std"] == at.relative_std.item()
    monitor.step(x)
    assert gradlab.open_results(tmp_path / "p.h5").sizes["step"] == 2


class Agent:
    """An object with a network, and a method that is a loss."""

    def __init__(self):
        self.net = nn.Sequential(nn.Flatten(), loops.Counting(), nn.Linear(3, 4), nn.Dropout(0.3))

    def loss(self, first, wanted, sample):
        second = sample(self.net(first)[:, None])
        return (second[:, 0] - wanted).square().sum(1)


def test_a_space_too_large_is_measured_against_a_sampled_reference():
    torch.manual_seed(0)
    one = nn.Linear(loops.PIXELS, 40)
    two = nn.Linear(40, loops.PIXELS)
    model = gradlab.LatentModel(one, two, latents=40, categories=2, binary=True)
    monitor, x = monitored(model, every=1, draws=64), torch.rand(4, loops.PIXELS)
    figures = monitor.step(x)
    assert np.isfinite(figures["relative_bias_debiased"])
    chosen = monitor.results.attrs["reference"]
    assert chosen != "exact"
    assert monitor.step(x) == figures  # against the reference that the first one chose
    assert monitor.results.attrs["reference"] == chosen


def test_a_batch_with_fewer_rows_than_the_first_waits():
    monitor = monitored(loops.model_of("plain"), every=2)
    assert monitor.step(torch.rand(3, loops.PIXELS))  # the whole batch: fewer than asked
    assert monitor.step(torch.rand(8, loops.PIXELS)) == {}
    assert monitor.step(torch.rand(2, loops.PIXELS)) == {}
    assert monitor.step(torch.rand(3, loops.PIXELS))
    assert monitor.results.step.values.tolist() == [0, 3]
    assert monitor.results.attrs["examples"] == 3


# --- arguments ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tf": -1}, "tf: expected a finite number above 0, got -1"),
        ({"tb": "cold"}, "tb: expected a finite number above 0, got 'cold'"),
        ({"estimator": "reinmaxx"}, "did you mean reinmax"),
        ({"estimator": ["ste", "st-gs"]}, "estimator: expected one, got"),
        ({"estimator": "disarm"}, "estimator: expected one for categorical latents"),
        ({"every": 0}, "every: expected a whole number of at least 1, got 0"),
        ({"budget": 2}, "budget: expected a share of the time from 0 to 1, got 2"),
        ({"examples": 0}, "examples: expected a whole number of at least 1"),
        ({"draws": 1}, "draws: expected a whole number of at least 2"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"out": 5}, "out: expected the name of a file, got 5"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        monitored(loops.model_of("plain"), **options)


def test_what_is_no_model_and_what_cannot_be_copied_is_refused():
    with pytest.raises(ValueError, match=r"model: expected a gradlab\.LatentModel"):
        monitored(nn.Linear(2, 2))
    model = loops.model_of("plain")
    model.encoder.__class__ = type("Locked", (nn.Sequential,), {"__getstate__": lambda self: 1 / 0})
    with pytest.raises(ValueError, match=r"model: expected one that can be copied, got an error \(ZeroDivisionError"):
        monitored(model)


def test_the_first_measurement_raises_and_later_ones_warn():
    model, x = loops.model_of("plain"), torch.rand(4, loops.PIXELS)
    with pytest.raises(ValueError, match=r"encoder: expected images that fit"):
        monitored(model).step(torch.rand(4, loops.PIXELS + 1))
    monitor = monitored(model, every=1)
    assert monitor.step(x)
    with pytest.warns(MonitorWarning, match=r"step 1: a measurement failed, and the training continues \(ValueError"):
        assert monitor.step(torch.rand(4, loops.PIXELS + 1)) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert monitor.step(torch.rand(4, loops.PIXELS + 1)) == {}
    assert monitor.step(x)
    with pytest.raises(ValueError, match="tb: expected a finite number above 0"):
        monitored(model, tb=lambda step: -1.0).step(x)
    with pytest.raises(KeyboardInterrupt):
        monitored(model, tb=interrupted).step(x)


def interrupted(step):
    raise KeyboardInterrupt
