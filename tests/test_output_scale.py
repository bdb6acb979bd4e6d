"""Probabilities where logits are due are told from logits, on every route, and ordinary models raise no alarm."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import networks
from gradlab.setup import reconstruct

from . import problems
from .command_line import POINT


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def model(*end, likelihood="bernoulli", encoder_end=(), pixels=16, binary=False):
    """A small model whose decoder ends in `end`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = 12 if binary else 6
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), *encoder_end)
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(width, pixels), *end)
    latents = {"latents": 12, "binary": True} if binary else {"latents": 2, "categories": 3}
    return gradlab.LatentModel(encoder, decoder, likelihood=likelihood, **latents)


def pictures(pixels=16):
    return torch.rand(4, pixels, generator=torch.Generator().manual_seed(1))


def warned(model, x=None, route=gradlab.exact_gradient):
    """What is said of the model, in order; each thing once."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        route(model, pictures() if x is None else x)
    said = [str(warning.message) for warning in found if warning.category is UserWarning]
    assert len(set(said)) == len(said)
    return said


ROUTES = {
    "exact_gradient": gradlab.exact_gradient,
    "bias": lambda model, x: gradlab.bias(model, x, 1.0, 1.0, draws=4),
    "bias, exact moments": lambda model, x: gradlab.bias(model, x, 1.0, 1.0, moments="exact", estimator="ste"),
    "bias, sampled reference": lambda model, x: gradlab.bias(model, x, 1.0, 1.0, draws=64, reference="rloo"),
    "bias, encoder": lambda model, x: gradlab.bias(model, x, 1.0, 1.0, draws=4, wrt="encoder"),
    "gap": lambda model, x: gradlab.gap(model, x, 1.0, 1.0, draws=4),
    "reconstruct": reconstruct,
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_warns_once_of_a_sigmoid(route):
    (said,) = warned(model(nn.Sigmoid()), route=ROUTES[route])
    assert said.startswith("decoder: expected logits, got the output of a sigmoid")
    assert "between 0.5 and 0.731" in said
    assert "remove the sigmoid" in said
    assert warned(model(), route=ROUTES[route]) == []


def test_the_command_line_warns_in_a_line(run, tmp_path):
    (tmp_path / "with_sigmoid.py").write_text(
        "import torch, gradlab\nfrom torch import nn\n"
        "def model():\n"
        "    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))\n"
        "    decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Sigmoid())\n"
        "    return gradlab.LatentModel(encoder, decoder, latents=2, categories=3)\n"
    )
    np.save(tmp_path / "x.npy", pictures().numpy())
    own = ["--model", "with_sigmoid:model", "--observations", "x.npy", "--tf", "1", "--tb", "1"]
    for command, more in {"bias": POINT, "gap": ["--draws", "2", "--no-plot"]}.items():
        more = [part for part in more if part not in ("--images", "3")]
        ran = run(command, *own, *more)
        assert ran.code == 0, ran.err
        (line,) = [line for line in ran.err.splitlines() if "decoder" in line]
        assert line.startswith("gradlab: decoder: expected logits, got the output of a sigmoid")


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ([nn.Sigmoid()], "output of a sigmoid"),
        ([nn.Sigmoid(), nn.Unflatten(1, (4, 4))], "output of a sigmoid"),
        ([nn.Sigmoid(), Apply(lambda o: o.clamp(1e-6, 1 - 1e-6))], "output of a sigmoid"),
        ([nn.Softmax(1)], "output of a softmax"),
        ([nn.Hardsigmoid()], "output of a hard sigmoid"),
        ([nn.LogSigmoid()], "output of a log-sigmoid"),
        ([nn.Tanh()], "output of a tanh"),
        ([nn.ReLU(inplace=True)], "output of a ReLU"),
        ([Apply(lambda o: 1 / (1 + torch.exp(-o)))], "outputs that all lie in"),
        ([Apply(lambda o: 0.01 + 0.98 * torch.sigmoid(o))], "outputs that all lie in"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(type(one).__name__ for one in value),
)
def test_decoders_that_end_in_what_bounds_them_are_named(end, name):
    (said,) = warned(model(*end))
    assert said.startswith("decoder: expected logits, got ")
    assert name in said


def test_a_sigmoid_is_told_from_few_outputs_and_frozen_weights_too():
    assert len(warned(model(nn.Sigmoid(), pixels=2), pictures(2))) == 1
    assert len(warned(model(nn.Sigmoid()).requires_grad_(False))) == 1
    assert warned(model(nn.Tanh(), nn.Linear(16, 16)).requires_grad_(False)) == []


@pytest.mark.parametrize(
    ("end", "binary"), [(nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Softmax(-1)), False), (nn.Sigmoid(), True)]
)
def test_an_encoder_that_gives_probabilities_is_named(end, binary):
    (said,) = warned(model(encoder_end=[end], binary=binary))
    assert said.startswith("encoder: expected logits, got ")
    assert "remove the s" in said
    log_probabilities = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LogSoftmax(-1))  # the same law
    assert warned(model(encoder_end=[log_probabilities])) == []
    assert warned(model(binary=True)) == []


def test_images_divided_by_255_twice_are_named():
    (said,) = warned(model(), pictures() / 255)
    assert said.startswith("x: expected targets in [0, 1], got 0.003")
    assert warned(model(), torch.zeros(4, 16)) == []
    assert warned(model(likelihood="gaussian"), pictures() / 255) == []


def test_a_gaussian_decoder_may_end_in_a_sigmoid():
    assert warned(model(nn.Sigmoid(), likelihood="gaussian")) == []


@pytest.mark.parametrize("zero", ["weights", "weights and bias", "all but the bias of 0.2"])
def test_outputs_that_are_all_alike_raise_no_alarm(zero):
    silent = model()
    with torch.no_grad():
        silent.decoder[1].weight.zero_()
        if zero != "weights":
            silent.decoder[1].bias.fill_(0.0 if zero == "weights and bias" else 0.2)
        silent.encoder[1].weight.zero_()
        silent.encoder[1].bias.zero_()
    assert warned(silent) == []


@pytest.mark.parametrize("name", problems.EXACT)
def test_ordinary_problems_raise_no_alarm(name):
    problem = problems.make(name)
    assert warned(problem.model, problem.x) == []


@pytest.mark.parametrize("name", gradlab.bundled())
def test_bundled_models_raise_no_alarm(name):
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert warned(gradlab.bundled(name), x, ROUTES["gap"]) == []


@pytest.mark.parametrize("architecture", sorted(networks.ARCHITECTURES))
def test_built_in_models_raise_no_alarm_before_they_are_trained(architecture):
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = architecture == "categorical-vae"
    config = {"latents": 2, "categories": 3, "hidden": [8]} if vae else {"width": 4, "depth": 0, "grid": 2}
    for seed in range(20):
        assert (
            warned(networks.build(architecture, config | {"image_shape": [1, 8, 8]}, seed=seed), x, reconstruct) == []
        )
