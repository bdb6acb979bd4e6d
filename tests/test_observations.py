"""x belongs to the loss as it is given: labels and token ids are never rounded to the precision of the weights."""

import copy
import itertools
import threading
import warnings

import pytest
import torch
from torch import nn

import gradlab
from gradlab import copies
from gradlab.model import precision
from gradlab.setup import encode, measured_copy, observations

from . import oracles

LABELS = [257, 1, 258, 2049, 4099, 16777217]  # the last five digits are beyond bfloat16, float16 or float32
CLASSES = 7
WEIGHTS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


class Front(nn.Module):
    """Logits from the columns that hold no label; whole numbers as they are."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 6)

    def forward(self, x):
        return self.layer(x[:, :-1].to(self.layer.weight.dtype))


class Plain(Front):
    """The same, for an encoder that takes x in its own precision only."""

    def forward(self, x):
        return self.layer(x[:, :-1])


class OfTokens(nn.Module):
    """Logits from a token id."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(CLASSES, 6)

    def forward(self, x):
        return self.table(x[:, -1].long() % CLASSES)


def of_label(parameters, x):
    """Cross entropy with the class label % CLASSES."""
    return nn.functional.cross_entropy(parameters, x[:, -1].long() % CLASSES, reduction="none")


def made(encoder, weights, likelihood=of_label):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES))
        model = gradlab.LatentModel(encoder(), decoder, latents=2, categories=3, likelihood=likelihood)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
        # numbers that all precisions hold, so that one oracle serves all
        return model.to(torch.bfloat16).to(weights)


def labelled(dtype, labels=LABELS):
    values = torch.linspace(-1, 1, 5 * len(labels), dtype=torch.float64).reshape(-1, 5).to(torch.bfloat16).double()
    return torch.cat([values, torch.tensor(labels, dtype=torch.float64)[:, None]], 1).to(dtype)


def labels_held_by(dtype):
    return [label for label in LABELS if int(torch.tensor(label).to(dtype)) == label]


def wanted_gradient(model, logits, labels, tf):
    """By enumeration in float64, labels being Python's whole numbers."""
    wide = copy.deepcopy(model).double()
    leaf = logits.double().requires_grad_()
    p, total = torch.softmax(leaf / tf, -1), torch.zeros((), dtype=torch.float64)
    classes = torch.tensor([label % CLASSES for label in labels])
    for code in itertools.product(range(3), repeat=2):
        z = torch.nn.functional.one_hot(torch.tensor(code), 3).double().expand(len(labels), 2, 3)
        loss = nn.functional.cross_entropy(wide.decode(z), classes, reduction="none")
        total = total + (p[:, range(2), list(code)].prod(-1) * loss.detach()).sum()
    return torch.autograd.grad(total, leaf)[0]


def logits_of(model, x):
    with torch.no_grad():
        return model.logits(x)


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("encoder", [Front, Plain])
def test_labels_are_read_as_given(encoder, weights, given):
    model, labels = made(encoder, weights), labels_held_by(given)
    x = labelled(given, labels)
    wanted = wanted_gradient(model, logits_of(model, x.to(weights)), labels, 1.6)
    assert oracles.relative_error(gradlab.exact_gradient(model, x, tf=1.6), wanted) < 1e-12
    found = gradlab.bias(model, x, 1.6, draws=32, estimator=["ste", "rloo"])
    assert oracles.relative_error(torch.tensor(found.exact_gradient.values[0]), wanted) < 1e-12
    single = gradlab.exact_gradient(model, x, tf=1.6, dtype=torch.float32)
    assert oracles.relative_error(single, wanted) < 1e-5


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "options",
    [{}, {"wrt": "encoder"}, {"reference": "rloo"}, {"moments": gradlab.MonteCarlo(decoder="draws")}, {"kl": True}],
)
def test_draws_in_another_precision_read_the_same_labels(narrow, options):
    """bfloat16 moves figures by some 1e-2; a label that was rounded moves them by their own size."""
    model, x = made(Plain, torch.float64), labelled(torch.float64)
    given = {"draws": 640, "estimator": ["decoupled-st-gs", "reinmax", "gumbel-softmax"]} | options
    wide = gradlab.bias(model, x, 1.6, 0.9, **given, compute=gradlab.Compute(dtype=torch.float64))
    found = gradlab.bias(model, x, 1.6, 0.9, **given, compute=gradlab.Compute(dtype=narrow))
    for name in ("relative_bias_debiased", "relative_std"):
        torch.testing.assert_close(
            torch.tensor(found[name].values), torch.tensor(wide[name].values), rtol=0.08, atol=0.05
        )


@pytest.mark.parametrize("route", ["pairs", "draws"])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_every_loss_a_route_takes_is_at_the_labels_given(weights, route):
    """Not only in the mean: the likelihood sees x, in whatever precision, as it was given."""
    seen = []

    def watched(parameters, x):
        seen.append(x[:, -1].long())
        return of_label(parameters, x)

    model, x = made(Plain, weights, watched), labelled(torch.float64)
    gradlab.bias(
        model,
        x,
        1.6,
        [0.9, 1.6],
        estimator=["ste", "rebar", "rloo"],
        moments=gradlab.MonteCarlo(draws=32, decoder=route),
    )
    gradlab.bias(model, x, 1.6, draws=64, reference="rloo")
    gradlab.bias(model, x, 1.6, moments="exact", estimator=["st-gs", "ste", "rloo"])
    gradlab.bias(model, x, 1.6, draws=32, wrt="encoder")
    gradlab.gap(model, x, 1.6, draws=8)
    assert set(torch.cat(seen).tolist()) == set(LABELS)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("encoder", [Front, OfTokens])
def test_whole_numbers_stay_whole(encoder, weights):
    kinds = []

    def watched(parameters, x):
        kinds.append(x.dtype)
        return of_label(parameters, x)

    model, x = made(encoder, weights, watched), labelled(torch.int64)
    wanted = wanted_gradient(model, logits_of(model, x), LABELS, 0.8)
    assert oracles.relative_error(gradlab.exact_gradient(model, x, tf=0.8), wanted) < 1e-12
    for options in (
        {},
        {"wrt": "encoder"},
        {"reference": "rloo"},
        {"moments": "exact", "draws": None},
        {"moments": gradlab.MonteCarlo(decoder="draws")},
    ):
        gradlab.bias(model, x, 0.8, **{"draws": 64} | options)
    gradlab.gap(model, x, 0.8, draws=8)
    assert set(kinds) == {torch.int64}


def test_images_that_are_whole_numbers_are_refused_by_the_likelihoods_of_pixels():
    model = made(Front, torch.float32, "gaussian")
    with pytest.raises(ValueError, match=r"x: expected floating-point .*, got torch.int64; token ids .* cross entropy"):
        gradlab.exact_gradient(model, labelled(torch.int64))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_pixels_are_not_rounded_either(likelihood, weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder, decoder = nn.Linear(4, 6), nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
        model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3, likelihood=likelihood).to(weights)
    x = torch.linspace(0.001, 0.999, 20, dtype=torch.float64).reshape(5, 4)
    logits = encode(model, observations(model, x))
    wide = measured_copy(model, torch.float64, "cpu")
    leaf = logits.double().requires_grad_()
    p, total = torch.softmax(leaf, -1), torch.zeros((), dtype=torch.float64)
    for code in itertools.product(range(3), repeat=2):
        z = torch.nn.functional.one_hot(torch.tensor(code), 3).double().expand(5, 2, 3)
        total = total + (p[:, range(2), list(code)].prod(-1) * wide.losses(z, x).detach()).sum()
    wanted = torch.autograd.grad(total, leaf)[0]
    assert oracles.relative_error(gradlab.exact_gradient(model, x), wanted) < 1e-12
    found = [
        gradlab.bias(model, x, estimator="rloo", moments=gradlab.MonteCarlo(draws=640, decoder=route))
        for route in ("pairs", "draws", "table")
    ]
    values = torch.tensor([float(ds.relative_std.squeeze()) for ds in found])
    assert float((values / values[0] - 1).abs().max()) < (1e-5 if weights == torch.float32 else 0.05)


class Weighted(nn.Module):
    """A likelihood with weights of its own, which takes parameters in their precision."""

    def __init__(self):
        super().__init__()
        self.spread = nn.Linear(CLASSES, CLASSES)

    def forward(self, parameters, x):
        return of_label(self.spread(parameters), x)


def test_the_copy_of_plain_layers_is_another_model_of_the_same_numbers():
    """Tied weights stay tied, frozen ones frozen; nothing that is written to the copy is seen in the model."""
    encoder = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model = gradlab.LatentModel(encoder, nn.Sequential(nn.Flatten(), nn.Linear(6, 6)), latents=2, categories=3)
    model.decoder[1].weight = encoder[2].weight.requires_grad_(False)
    copied = measured_copy(model, torch.float64, "cpu")
    assert list(copied.state_dict()) == list(model.state_dict())
    assert copied.decoder[1].weight is copied.encoder[2].weight
    assert not copied.encoder[2].weight.requires_grad
    assert copied.encoder[0].weight.requires_grad
    assert isinstance(copied.encoder[0].weight, nn.Parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for (name, value), there in zip(copied.named_parameters(), model.parameters(), strict=True):
            assert torch.equal(value, there.double()), name
            value.zero_()
    copied.decoder[1].register_forward_hook(print)
    copied.decoder.append(nn.Identity())
    copied.provenance["epoch"] = 3
    assert not model.decoder[1]._forward_hooks
    assert len(model.decoder) + 1 == len(copied.decoder)
    assert model.provenance == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def plain_model():
    encoder, decoder = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Sequential(nn.Flatten(), nn.Linear(6, 6))
    return gradlab.LatentModel(encoder, decoder, latents=2, categories=3)


def test_the_copy_of_plain_layers_is_as_deep_as_any(monkeypatch):
    """Of what it holds besides weights nothing is shared; what is one object in the model is one in the copy."""
    model = plain_model()
    twice = nn.Linear(6, 6)
    model.encoder.extend([twice, twice])
    model.config["sizes"] = [1]
    model.provenance["epochs"] = {"last": [2]}
    model.kept = [twice, twice.weight]
    monkeypatch.setattr(copies, "_copied", None)  # by the short way
    copied = measured_copy(model, torch.float64, "cpu")
    copied.config["sizes"].append(2)
    copied.provenance["epochs"]["last"].append(3)
    assert model.config == {"sizes": [1]}
    assert model.provenance == {"epochs": {"last": [2]}}
    assert copied.encoder[2] is copied.encoder[3] is copied.kept[0]
    assert copied.encoder[2].weight is copied.kept[1]
    assert copied.encoder[2] is not twice
    assert copied.likelihood is model.likelihood


def test_plain_layers_with_what_cannot_be_copied_are_measured():
    model = plain_model()
    model.config["lock"] = lock = threading.Lock()
    copied = measured_copy(model, torch.float64, "cpu")
    assert copied.config["lock"] is lock
    assert copied.encoder[0].weight.dtype == torch.float64


class Weight(nn.Parameter):
    """A class of its own."""


def test_weights_of_an_own_class_keep_it():
    model = plain_model()
    model.encoder[0].weight = Weight(model.encoder[0].weight.detach())
    copied = measured_copy(model, torch.float64, "cpu")
    assert type(copied.encoder[0].weight) is Weight
    assert copied.encoder[0].weight.dtype == torch.float64


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_torch_layer_with_a_plain_tensor_for_a_weight_runs_in_its_precision(part):
    model, x = plain_model(), torch.rand(4, 6)
    wanted = gradlab.exact_gradient(model, x)
    layer = next(layer for layer in getattr(model, part) if isinstance(layer, nn.Linear))
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = weight
    with pytest.warns(UserWarning, match=f"{part}: expected one that runs in float64 too"):
        found = gradlab.exact_gradient(model, x)
    assert oracles.relative_error(found, wanted) < 1e-5
    assert layer.weight is weight


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_a_likelihood_with_weights(weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = made(Plain, weights, Weighted())
    x = labelled(torch.float64)
    gradient = gradlab.exact_gradient(model, x)
    alone = [gradlab.exact_gradient(model, x[i : i + 2]) for i in (0, 2, 4)]
    assert oracles.relative_error(gradient, torch.cat(alone)) < 1e-12
    wide = copy.deepcopy(model).double()
    z = torch.eye(3, dtype=torch.float64)[:2].expand(6, 2, 3)
    classes = torch.tensor([label % CLASSES for label in LABELS])
    of_classes = nn.functional.cross_entropy(wide.likelihood.spread(wide.decode(z)), classes, reduction="none")
    torch.testing.assert_close(wide.losses(z, x), of_classes)


@pytest.mark.parametrize("strict", [nn.functional.binary_cross_entropy_with_logits, nn.functional.mse_loss])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_losses_that_take_one_precision_only_go_with_any(strict, given):
    def likelihood(parameters, x):
        assert parameters.dtype == x.dtype
        return strict(parameters, x[:, : parameters.shape[1]], reduction="none").sum(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder, decoder = nn.Linear(4, 6), nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
        model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3, likelihood=likelihood)
    x = torch.linspace(0, 1, 20, dtype=given).reshape(5, 4)
    found = gradlab.bias(model, x, draws=32, estimator=["ste", "rloo"])
    assert found.attrs["dtype"] == "float32"
    assert model.losses(torch.eye(3)[:2].expand(5, 2, 3), x).dtype == torch.float32


class Reads(Plain):
    """An encoder that reads the label from x in the precision of its weights."""

    def forward(self, x):
        return self.layer(x[:, :-1]) + x[:, -1:] % 5


def test_an_encoder_that_reads_rounded_labels_is_told():
    x = labelled(torch.float32, [257, 1, 258])
    with pytest.warns(UserWarning, match=r"x: the encoder reads 257 at index \(0, 5\) as 256"):
        gradlab.exact_gradient(made(Reads, torch.bfloat16), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradlab.exact_gradient(made(Plain, torch.bfloat16), x)
        gradlab.exact_gradient(made(Reads, torch.float32), x)


# --- logits that are views of parameters ---


class Prior(nn.Module):
    """The same logits for every x, none of them computed."""

    def __init__(self, view):
        super().__init__()
        self.weight, self.view = nn.Parameter(torch.randn(2, 3)), view

    def forward(self, x):
        return self.view(self.weight, len(x))


VIEWS = {
    "expand": lambda w, n: w.expand(n, 2, 3),
    "flat": lambda w, n: w.view(1, 6).expand(n, 6),
    "unbind": lambda w, n: torch.stack([w, w]).unbind(0)[0].expand(n, 2, 3),
    "chunk": lambda w, n: w[None].chunk(1)[0].expand(n, 2, 3),
}


@pytest.mark.parametrize(("view", "inference"), [*((view, False) for view in VIEWS), ("expand", True)])
def test_logits_may_be_views_of_parameters(view, inference):
    with torch.random.fork_rng(devices=[]), torch.inference_mode(inference):
        torch.manual_seed(1)
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
        model = gradlab.LatentModel(Prior(VIEWS[view]), decoder, latents=2, categories=3)
        x = torch.rand(5, 4)
        found = gradlab.exact_gradient(model, x)
        several = ["st-gs", "rloo", "ste"]
        for options in ({}, {"reference": "rloo"}, {"moments": "exact", "draws": None}, {"wrt": "encoder"}):
            gradlab.bias(model, x, 1.0, [0.5, 1.0], estimator=several, **{"draws": 64} | options)
        gradlab.gap(model, x, draws=8)
    whole = measured_copy(model, torch.float64, "cpu")
    assert oracles.relative_error(found, oracles.exact_gradient(whole, x.double(), 1.0, "sampled")) < 1e-7
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_precision_of_a_model_without_weights():
    class Codes(nn.Module):
        def forward(self, x):
            return 2 * nn.functional.one_hot(x, 3).double()

    def loss(parameters, x):
        return parameters.flatten(1)[:, :4].square().sum(1)

    model = gradlab.LatentModel(Codes(), nn.Identity(), latents=2, categories=3, likelihood=loss)
    x = torch.tensor([[0, 1], [2, 2]])
    assert precision(model, x) == torch.float64
    assert gradlab.exact_gradient(model, x).dtype == torch.float64
    gradlab.bias(model, x, draws=64, estimator=["ste", "rloo"])
