"""LatentModel, and models that would silently falsify every figure."""

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import likelihoods

from . import oracles, problems


@pytest.fixture
def problem():
    return problems.make("3x5-bernoulli-mlp")


def with_decoder(problem, *layers, **options):
    options = {"latents": 5, "categories": 3} | options
    return gradlab.LatentModel(problem.model.encoder, nn.Sequential(problem.model.decoder, *layers), **options).double()


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(0.5)


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def test_a_likelihood_that_works_in_place_changes_nothing(problem):
    def squared(o, x):
        return (o - x).square().flatten(1).sum(1)

    def in_place(o, x):
        return o.sub_(x).square().flatten(1).sum(1)

    for memory in (1, 2**28):
        a, b = (
            gradlab.exact_gradient(with_decoder(problem, likelihood=f), problem.x, tf=1.6, memory=memory)
            for f in (squared, in_place)
        )
        assert oracles.relative_error(b, a) < 1e-14


def test_several_codes_of_each_example_need_as_many_rows_of_x(problem):
    model, x = problem.model, problem.x
    codes = torch.eye(3, dtype=torch.float64)[torch.randint(3, (2 * len(x), 5))]
    with pytest.raises(ValueError, match=r"^x: expected one row .* 2 codes per example give torch.cat\(\[x\] \* 2\)"):
        model.losses(codes, x)
    with pytest.raises(ValueError, match=r"^x: expected one row for each of \d+ codes, got \d+$"):
        model.losses(codes[:-1], x)
    twice = model.losses(codes, torch.cat([x] * 2))
    torch.testing.assert_close(twice[: len(x)], model.losses(codes[: len(x)], x))


def test_a_model_prints_its_code_space():
    parts = nn.Linear(4, 6), nn.Linear(6, 4)

    def own(parameters, x):
        return parameters.sum(1)

    grid = gradlab.LatentModel(*parts, latents=(1, 2), categories=3, likelihood=own)
    assert "latents=(1, 2), categories=3, likelihood=own\n" in repr(grid)
    units = gradlab.LatentModel(*parts, latents=6, binary=True, likelihood="gaussian")
    assert "latents=6, binary=True, likelihood=gaussian\n" in repr(units)
    groups = gradlab.LatentModel(*parts, groups={"a": (1, 3), "b": (1, 3)})
    assert "a=(1, 3), b=(1, 3), likelihood=bernoulli\n" in repr(groups)


def test_an_encoder_that_works_in_place_leaves_x_alone(problem):
    model = gradlab.LatentModel(
        nn.Sequential(InPlace(), problem.model.encoder), problem.model.decoder, latents=5, categories=3
    )
    before = problem.x.clone()
    first = gradlab.bias(model, problem.x, draws=8)
    second = gradlab.bias(model, problem.x, draws=8)
    assert torch.equal(problem.x, before)
    assert first.equals(second)
    with torch.no_grad():
        halved = gradlab.LatentModel(problem.model.encoder, problem.model.decoder, latents=5, categories=3)
        logits = halved.logits(0.5 * before)
    wanted = gradlab.exact.exact_gradients(problems.setup_of(halved, before, logits), [(1.0, "sampled")])[0]
    np.testing.assert_allclose(first.exact_gradient[0], wanted, rtol=1e-12)


def test_a_decoder_may_begin_in_place(problem):
    def mean(inplace):
        decoder = nn.Sequential(nn.ReLU(inplace=inplace), problem.model.decoder)
        model = gradlab.LatentModel(problem.model.encoder, decoder, latents=5, categories=3)
        return gradlab.bias(model, problem.x, draws=8).mean_gradient

    np.testing.assert_array_equal(mean(inplace=True), mean(inplace=False))


BROKEN = {
    "dropout": (nn.Dropout(0.5), "training mode"),
    "batch norm": (nn.BatchNorm2d(1), "training mode"),
    "batch norm without statistics": (nn.BatchNorm2d(1, track_running_stats=False).eval(), "depend on others"),
    "noise": (Noise(), "expected the same values for the same input"),
    "random leaks": (nn.RReLU(), "expected the same values for the same input"),
    "single precision": (
        type("Single", (nn.Module,), {"forward": lambda self, x: x.float()})(),
        "expected the precision of its input",
    ),
}


@pytest.mark.parametrize("measure", [gradlab.exact_gradient, gradlab.bias])
@pytest.mark.parametrize("case", BROKEN)
def test_models_that_falsify_figures_are_named(problem, case, measure):
    layer, message = BROKEN[case]
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message):
        measure(with_decoder(problem, layer), problem.x)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_noisy_encoder_is_named(problem):
    model = gradlab.LatentModel(
        nn.Sequential(problem.model.encoder, Noise()), problem.model.decoder, latents=5, categories=3
    )
    with pytest.raises(ValueError, match="encoder: expected the same values"):
        gradlab.bias(model, problem.x)


def test_a_constant_decoder_is_refused_by_bias(problem):
    class Constant(nn.Module):
        def forward(self, z):
            return problem.model.decoder(nn.functional.one_hot(z.argmax(-1), 3).double())

    model = gradlab.LatentModel(problem.model.encoder, Constant(), latents=5, categories=3)
    with pytest.raises(ValueError, match="depends on the codes differentiably"):
        gradlab.bias(model, problem.x)


def test_batch_norm_in_evaluation_is_fine(problem):
    model = with_decoder(problem, nn.BatchNorm2d(1)).eval()
    found = gradlab.exact_gradient(model, problem.x, tf=1.6)
    assert oracles.relative_error(found, oracles.exact_gradient(model, problem.x, 1.6, "sampled")) < 1e-10


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_callers_modes_do_not_leak_in(around):
    problem = problems.make("3x5-bernoulli-mlp", torch.float32)
    plain = gradlab.bias(problem.model, problem.x, tf=1.6, draws=8, kl=True)
    with around():
        found = gradlab.bias(problem.model, problem.x, tf=1.6, draws=8, kl=True)
        gradient = gradlab.exact_gradient(problem.model, problem.x, tf=1.6, kl=True)
    assert found.attrs["dtype"] == "float32"
    assert found.equals(plain)
    np.testing.assert_array_equal(gradient, plain.exact_gradient[0])


def test_unit_shapes_are_learnt_from_the_encoder_in_any_precision():
    def build():
        return gradlab.LatentModel(
            nn.Sequential(nn.Linear(8, 6), nn.Unflatten(1, (2, 3, 1))),
            nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(9, 8)),
            latents=6,
            binary=True,
        )

    x = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
    model = build()
    found = gradlab.bias(model, x, tf=1.6, tb=1.3, draws=8, compute=gradlab.Compute(dtype=torch.float64))
    assert found.mean_gradient.shape == (1, 1, 4, 6)
    assert model.unit_shape is None  # nothing that measures writes to the model measured
    other = gradlab.LatentModel(model.encoder, model.decoder, latents=(3, 2, 1), binary=True)
    with pytest.raises(ValueError, match="units of shape"):
        gradlab.exact_gradient(other, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nope"}, "device: expected a usable device, got 'nope'"),
        ({"dtype": torch.int32}, "dtype: expected .*, got torch.int32"),
        ({"memory": 0}, "memory: expected .*, got 0"),
    ],
)
def test_places_that_cannot_be_are_named(problem, options, message):
    with pytest.raises(ValueError, match=message):
        gradlab.bias(problem.model, problem.x, compute=gradlab.Compute(**options))


def test_a_function_is_no_module(problem):
    with pytest.raises(ValueError, match=r"decoder: expected a torch.nn.Module, got a function"):
        gradlab.LatentModel(problem.model.encoder, lambda z: z, latents=5, categories=3)


def test_bfloat16_models_are_measured(problem):
    model = problems.make("3x5-bernoulli-mlp", torch.float32).model.to(torch.bfloat16)
    assert gradlab.bias(model, problem.x.bfloat16(), draws=8).attrs["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_partitions_and_their_derivatives_are_exact_everywhere(dtype):
    """By default softplus takes o itself beyond 20, 2e-9 off."""
    eps = torch.finfo(dtype).eps
    o = torch.tensor([0.0, -0.0, 1e-3, -3.0, 19.9, 20.1, 30.0, -30.0, 80.0, 500.0, 700.0, 1e30, -1e30], dtype=dtype)
    wanted = torch.from_numpy(np.logaddexp(0.0, o.double().numpy()))
    leaf = o.clone()[:, None].requires_grad_()
    found = likelihoods.Bernoulli().log_partition(leaf)
    torch.testing.assert_close(found.detach().double(), wanted, rtol=2 * eps, atol=0)
    off = (torch.nn.functional.softplus(o).double() - wanted).abs() / wanted.clamp(min=1e-9)
    assert (off[5] > 2 * eps) == (dtype == torch.float64)
    slope = torch.autograd.grad(found.sum(), leaf)[0][:, 0]
    torch.testing.assert_close(slope, torch.sigmoid(o), rtol=4 * eps, atol=0)
