"""Derivatives layer by layer against autograd through the whole decoder, and what they cost."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gradlab
from gradlab import datasets, latents, sampling
from gradlab.stacks import Stack

from . import oracles, problems

MEMORY = sampling.MEMORY
SIZE = {"latents": 3, "categories": 4}


def mlp(*layers, inputs=12, pixels=6):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 9), *layers, nn.Linear(9, pixels))


def twice():
    shared = nn.Tanh()
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), shared, nn.Sequential(nn.Linear(9, 9), shared), nn.Linear(9, 6)
    )


DECODERS = {  # name: (decoder, what it is of)
    "mlp": (lambda: mlp(nn.Tanh(), nn.Linear(9, 9), nn.Softplus()), SIZE),
    "relu in place": (lambda: mlp(nn.ReLU(inplace=True), nn.Linear(9, 9), nn.LeakyReLU(0.2, inplace=True)), SIZE),
    "one hidden layer": (lambda: mlp(nn.GELU()), SIZE),
    "no hidden layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False)), SIZE),
    "affine layers alone": (lambda: mlp(), SIZE),
    "nested, one layer twice": (twice, SIZE),
    "elementwise first": (lambda: nn.Sequential(nn.SiLU(), mlp(nn.ELU())), SIZE),
    "shapes in between": (
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2), nn.Flatten(), nn.Tanh(),
            nn.Unflatten(1, (2, 3)), nn.Linear(3, 3), nn.Identity(), nn.Flatten(),
        ),
        SIZE,
    ),
    "binary grid": (lambda: mlp(nn.Tanh()), {"latents": (3, 4), "categories": 2, "binary": True}),
}  # fmt: skip


def model_of(name, likelihood="bernoulli", dtype=torch.float64):
    make, size = DECODERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        codes = 12
        decoder, encoder = make(), nn.Sequential(nn.Flatten(), nn.Linear(6, codes))
        for parameter in (*decoder.parameters(), *encoder.parameters()):
            parameter.data.mul_(3)
        return gradlab.LatentModel(encoder, decoder, likelihood=likelihood, **size).to(dtype)


def images(count, dtype=torch.float64):
    return torch.rand(count, 6, dtype=dtype, generator=torch.Generator().manual_seed(5))


def all_codes(model, dtype=torch.float64):
    indices = latents.configurations(model.latents, model.categories, 0, model.configurations)
    return latents.codes_at(indices, model.categories, model.binary, dtype)


def some_pairs(model, x, count=50):
    generator = torch.Generator().manual_seed(7)
    return (torch.randint(n, (count,), generator=generator) for n in (model.configurations, len(x)))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("name", DECODERS)
def test_layer_by_layer_is_autograd_through_all(name, likelihood, monkeypatch):
    model, x = model_of(name, likelihood), images(7)
    stack = Stack.of(model, x)
    passed = stack.passed(all_codes(model))
    of, image = some_pairs(model, x)
    wanted_f, wanted = model.losses_and_derivatives(all_codes(model)[of], x[image])
    for memory in (MEMORY, 100):
        found = stack.at_pairs(passed, of, image, memory)
        assert oracles.relative_error(found, wanted.flatten(1)) < 1e-13
    assert oracles.relative_error(stack.by_jacobians(passed)[image, of], wanted.flatten(1)) < 1e-13
    for pays in (False, True):
        monkeypatch.setattr(stack, "jacobian_pays", lambda pairs_each, pays=pays: pays)
        assert oracles.relative_error(stack.at_all_images(passed, MEMORY)[image, of], wanted.flatten(1)) < 1e-13
    for rows in (slice(None), slice(2)):  # by a product of all, and of single rows
        found = stack.losses(passed, of[rows], image[rows], MEMORY)
        torch.testing.assert_close(found, wanted_f[rows], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("likelihood", ["bernoulli", pytest.param("gaussian", marks=pytest.mark.deep)])
def test_single_precision_loses_no_more_than_autograd_does(likelihood):
    """The bundled model: brackets are differences of larger numbers, and Jacobians multiply each of the two."""
    wide = copy.deepcopy(gradlab.bundled("vae-8x4-mnist"))
    wide._likelihood = gradlab.likelihoods.resolve(likelihood)
    narrow, x = copy.deepcopy(wide), datasets.load("mnist-sample").first(50).floats()
    wide, codes = wide.double(), all_codes(narrow, torch.float32)[::41]
    of, image = torch.arange(len(codes)).repeat(len(x)), torch.arange(len(x)).repeat_interleave(len(codes))
    wanted = wide.losses_and_derivatives(codes[of].double(), x[image].double())[1].flatten(1)
    plain = oracles.relative_error(narrow.losses_and_derivatives(codes[of], x[image])[1].flatten(1), wanted)
    stack = Stack.of(narrow, x)
    passed = stack.passed(codes)
    for found in (stack.at_pairs(passed, of, image, MEMORY), stack.by_jacobians(passed)[image, of]):
        assert found.dtype == torch.float32
        assert oracles.relative_error(found, wanted) < 4 * plain < 1e-5


def test_observations_wider_than_the_weights_are_not_rounded():
    """Targets of 1e4 + something: in float32 their differences to the outputs are off by up to 5e-4."""
    model = model_of("mlp", "gaussian", torch.float32)
    with torch.no_grad():
        model.decoder[-1].bias.fill_(1e4)
    x = 1e4 + images(7)
    stack = Stack.of(model, x)
    passed = stack.passed(all_codes(model, torch.float32))
    of, image = some_pairs(model, x)
    wanted = model.losses_and_derivatives(all_codes(model, torch.float32)[of], x[image])[1].flatten(1)
    for found in (stack.at_pairs(passed, of, image, MEMORY), stack.by_jacobians(passed)[image, of]):
        assert oracles.relative_error(found, wanted) < 2e-6
    rounded = model.losses_and_derivatives(all_codes(model, torch.float32)[of], x[image].float())[1].flatten(1)
    assert oracles.relative_error(rounded, wanted) > 5e-5


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    "decoder",
    [
        lambda: nn.Sequential(mlp(nn.Tanh()), nn.Sigmoid()),
        lambda: nn.Sequential(nn.Flatten(), nn.Tanh()),
        lambda: nn.Sequential(nn.Flatten(), Own(12, 6)),
        lambda: mlp(nn.Dropout(0.1).eval()),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 6)),
        lambda: nn.Sequential(nn.Unflatten(1, (3, 4)), nn.Conv1d(3, 3, 1), nn.Flatten(), nn.Linear(12, 6)),
    ],
)
def test_what_is_no_stack(decoder):
    model = gradlab.LatentModel(nn.Linear(6, 12), decoder(), **SIZE)
    assert Stack.of(model, images(2).float()) is None


def test_hooks_own_likelihoods_subclasses_and_groups_are_no_stacks():
    class Mine(gradlab.LatentModel):
        pass

    x, encoder = images(2).float(), nn.Linear(6, 12)
    assert Stack.of(gradlab.LatentModel(encoder, mlp(), **SIZE), x)
    assert Stack.of(Mine(encoder, mlp(), **SIZE), x) is None
    own = gradlab.LatentModel(encoder, mlp(), **SIZE, likelihood=lambda o, x: (o - x).square().sum(1))
    assert Stack.of(own, x) is None
    assert Stack.of(gradlab.LatentModel(encoder, mlp(), groups={"a": (3, 4)}), x) is None
    hooked = gradlab.LatentModel(encoder, mlp(), **SIZE)
    hooked.decoder[1].register_forward_hook(lambda layer, given, out: 2 * out)
    assert Stack.of(hooked, x) is None


@pytest.mark.parametrize("name", DECODERS)
def test_the_cost_model_counts_operations(name):
    """torch's own count, of matrix products."""
    model, x = model_of(name), images(7)
    stack = Stack.of(model, x)
    passed = stack.passed(all_codes(model))
    of, image = some_pairs(model, x)
    count = len(passed.outputs)
    with FlopCounterMode(display=False) as pairs:
        stack.at_pairs(passed, of, image, MEMORY)
    assert pairs.get_total_flops() == len(of) * stack.of_pair
    with FlopCounterMode(display=False) as jacobians:
        stack.by_jacobians(passed)
    varies = any(diagonal is not None for diagonal in passed.diagonals)
    products = 2 * stack.inputs * stack.hidden * len(x)
    once = jacobians.get_total_flops() - count * (stack.of_jacobian + products) if varies else 0
    assert 0 <= once < stack.inputs * stack.of_pair + 1  # what comes before the first elementwise layer
    each = (stack.of_jacobian + products) / (stack.of_pair or 1)
    assert stack.jacobian_pays(1.01 * each) == (stack.of_pair > 0)
    assert not stack.jacobian_pays(0.99 * each)


def test_losses_that_are_not_finite_are_named():
    """Where only the loss is not finite: the derivative of softplus at infinity is 1."""
    problem = problems.make("3x5-bernoulli-mlp")
    with torch.no_grad():
        problem.model.decoder[-2].bias[3] = torch.inf
        logits = problem.model.logits(problem.x)
    estimator = gradlab.estimators.get("decoupled-st-gs")
    noise = sampling.Noise(problem.model.kind, logits, 1, 8, 0)
    for route in ("pairs", "table"):
        with pytest.raises(ValueError, match=r"losses: expected finite losses .*, got (inf|nan) at example 0"):
            sampling.sample_moments(
                problems.setup_of(problem.model, problem.x, logits), [estimator], noise, decoder=route
            )
