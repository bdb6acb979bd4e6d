"""Losses and derivatives at every configuration, by Jacobians or pair by pair."""

import pytest
import torch
from torch import nn

import gradlab
from gradlab import numerics
from gradlab.derivatives import Table

from . import oracles, problems
from .enumerated_moments import found, get, pairs


@pytest.mark.parametrize("name", problems.EXACT)
@pytest.mark.parametrize("images", [2, 40])
def test_losses_and_derivatives_at_every_configuration(name, images):
    problem = problems.make(name)
    x = torch.rand(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    table = Table(problem.model, x, 2_000_000)
    assert table.by_configuration == ("own" not in name and (images == 40 or "mlp" in name))
    f, v = (torch.cat(parts, 1) for parts in zip(*((f, v) for _, _, f, v in table.blocks()), strict=True))
    codes, wanted_f, wanted_v = pairs(problems.Problem(name, problem.model, x), stride=7)
    assert f.shape == (images, problem.model.configurations)
    assert v.shape == (*f.shape, *codes.shape[1:])
    assert oracles.relative_error(f[:, ::7], wanted_f.T) < 1e-10
    assert oracles.relative_error(v[:, ::7], wanted_v.transpose(0, 1)) < 1e-10


class _OneWay(torch.autograd.Function):
    """tanh without a forward mode."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(torch.tanh(x))
        return torch.tanh(x)

    @staticmethod
    def backward(context, gradient):
        (y,) = context.saved_tensors
        return gradient * (1 - y**2)


class _WrongForwardMode(_OneWay):
    @staticmethod
    def jvp(context, tangent):
        return 2 * tangent


@pytest.mark.parametrize("function", [_OneWay, _WrongForwardMode])
def test_decoders_that_forward_mode_cannot_take_are_differentiated_pair_by_pair(function):
    problem = problems.make("3x5-bernoulli-mlp")

    class Layer(nn.Module):
        def forward(self, z):
            return function.apply(z)

    decoder = problem.model.decoder
    decoder[2] = Layer()
    x = torch.rand(20, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    table = Table(problem.model, x, numerics.MEMORY)
    assert not table.by_configuration
    ((_, _, _, v),) = table.blocks()
    wanted = pairs(problems.Problem("", problem.model, x))[2]
    assert oracles.relative_error(v, wanted.transpose(0, 1)) < 1e-10


def test_layers_in_place_do_not_change_the_codes():
    problem = problems.make("3x5-bernoulli-mlp")
    problem.model.decoder[0] = nn.Sequential(nn.Flatten(), nn.LeakyReLU(0.3, inplace=True))
    x = torch.rand(20, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ((_, _, _, v),) = Table(problem.model, x, numerics.MEMORY).blocks()
    wanted = pairs(problems.Problem("", problem.model, x))[2]
    assert oracles.relative_error(v, wanted.transpose(0, 1)) < 1e-10


def test_derivatives_that_are_not_finite_are_named():
    problem = problems.make("3x5-own-mlp")
    model = gradlab.LatentModel(
        problem.model.encoder,
        problem.model.decoder,
        latents=5,
        categories=3,
        likelihood=lambda o, x: (o.flatten(1) * 0).sqrt().sum(1) + x.flatten(1).sum(1),
    )
    with pytest.raises(ValueError, match="derivative: expected finite values, got nan"):
        found(problems.Problem("", model, problem.x), get("ste"))
