"""Decoders that see x: decoder(codes, x) on every route, against plain autograd."""

import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators
from gradlab.sampling import Noise

from . import oracles


class Gated(nn.Module):
    """A decoder that reads codes and x: o = W tanh(A z * B x)."""

    def __init__(self, inputs, pixels):
        super().__init__()
        self.of_code, self.of_x = nn.Linear(inputs, 8), nn.Linear(pixels, 8)
        self.out = nn.Linear(8, pixels)

    def forward(self, z, x):
        return self.out(torch.tanh(self.of_code(z.flatten(1)) * self.of_x(x)))


def heavy_tailed(o, x):
    return torch.log1p((o - x).square()).sum(1)


def nats(o, x):
    return nn.functional.binary_cross_entropy_with_logits(o, x, reduction="none").sum(1)


LIKELIHOODS = {
    "bernoulli": ("bernoulli", nats),
    "gaussian": ("gaussian", lambda o, x: (o - x).square().mean(1)),
    "own": (heavy_tailed, heavy_tailed),
}


def made(likelihood, binary=False, dtype=torch.float64, latents=3):
    """Model, x, and plain functions: logits, and losses at codes."""
    categories = 2 if binary else 4
    size = latents if binary else latents * categories
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder, decoder = nn.Linear(6, size), Gated(size, 6)
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            parameter.data.mul_(2)
        x = torch.rand(5, 6).to(dtype)
    given, plain = LIKELIHOODS[likelihood]
    sizes = {"latents": latents, "categories": categories, "binary": binary}
    model = gradlab.LatentModel(encoder, decoder, likelihood=given, conditional=True, **sizes).to(dtype)
    logits = encoder(x).detach().reshape(5, *model.code_shape)
    return model, x, logits, lambda z: plain(decoder(z, x), x)


every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
both_kinds = pytest.mark.parametrize("binary", [False, True])


@every_likelihood
@both_kinds
def test_the_exact_gradient_is_that_of_plain_autograd(likelihood, binary):
    model, x, logits, losses = made(likelihood, binary)
    wanted = oracles.gradient_of_plain_code(logits, losses, model.categories, 1.3, binary)
    for memory in (None, 20_000):
        found = gradlab.exact_gradient(model, x, tf=1.3, memory=memory)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@every_likelihood
@both_kinds
def test_all_ways_to_run_the_decoder_give_the_estimates_of_plain_autograd(likelihood, binary):
    """Draw by draw, with the library's noise: mean and standard deviation of 16 draws."""
    model, x, logits, losses = made(likelihood, binary)
    noise = Noise(model.kind, logits, 1, 16, seed=4).of(1, 0, 16)[0]
    tf, tb = 0.7, 1.2
    estimates = []
    for g in noise:
        leaf = logits.clone().requires_grad_()
        a = leaf / tb + g
        q = torch.sigmoid(a) if binary else torch.softmax(a, -1)
        hard = (logits / tf + g > 0).double() if binary else oracles.one_hot_argmax(logits / tf + g)
        estimates.append(torch.autograd.grad(losses(hard + q - q.detach()).sum(), leaf)[0])
    wanted = torch.stack(estimates)
    for decoder in ("auto", "pairs", "draws", "table"):
        method = gradlab.MonteCarlo(draws=16, decoder=decoder)
        ds = gradlab.bias(model, x, tf=tf, tb=tb, seed=4, moments=method).squeeze()
        torch.testing.assert_close(torch.tensor(ds.mean_gradient.values), wanted.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(torch.tensor(ds.std_gradient.values), wanted.std(0), rtol=1e-9, atol=1e-12)


@every_likelihood
@both_kinds
def test_moments_without_draws_are_those_of_plain_autograd(likelihood, binary):
    """Of ste: (1/tb) J(softmax(l/tb)) v(z), weighed with the probability of each code."""
    model, x, logits, losses = made(likelihood, binary, latents=2)
    ds = gradlab.bias(model, x, tf=1.3, tb=0.8, estimator="ste", moments="exact").squeeze()
    pairs = torch.stack([logits, torch.zeros_like(logits)], -1) if binary else logits
    p = torch.softmax(pairs / 1.3, -1)
    mean = torch.zeros_like(logits)
    for i in range(model.categories):
        for j in range(model.categories):
            code = torch.eye(model.categories).double()[[i, j]]
            code = (code[:, 0] if binary else code).expand(logits.shape)
            leaf = logits.clone().requires_grad_()
            q = torch.sigmoid(leaf / 0.8) if binary else torch.softmax(leaf / 0.8, -1)
            estimate = torch.autograd.grad(losses(code + q - q.detach()).sum(), leaf)[0]
            weight = p[:, 0, i] * p[:, 1, j]
            mean += weight.reshape(-1, *[1] * (logits.ndim - 1)) * estimate
    torch.testing.assert_close(torch.tensor(ds.mean_gradient.values), mean, rtol=1e-9, atol=1e-12)


def test_every_route_runs_and_agrees():
    """Relative bias of ste from each route; an interval of 1,024 draws misses with a probability of 5 %."""
    model, x, _, _ = made("own")
    options = {"tf": 1.3, "tb": 1.0, "estimator": "ste"}
    exact = float(gradlab.bias(model, x, moments="exact", **options).relative_bias_debiased.squeeze())
    for more in ({}, {"reference": "rloo"}):
        ds = gradlab.bias(model, x, draws=1024, seed=1, **options, **more).squeeze()
        half = float(ds.relative_bias_debiased_high - ds.relative_bias_debiased_low) / 2
        assert abs(float(ds.relative_bias_debiased) - exact) < 3 * half
    for more in ({"draws": 64}, {"draws": 64, "reference": "rloo"}, {"moments": "exact"}):
        ds = gradlab.bias(model, x, wrt="encoder", **options, **more)
        assert float(ds.exact_norm.squeeze()[0]) > 0 if "exact_norm" in ds else ds.resolved.size
    assert gradlab.gap(model, x, draws=8).sizes["example"] == 5


def test_the_gradient_with_respect_to_the_encoder_is_that_of_plain_autograd():
    model, x, logits, losses = made("gaussian")
    ds = gradlab.bias(model, x, tf=0.9, wrt="encoder", draws=32)
    gradient = oracles.gradient_of_plain_code(logits, losses, 4, 0.9)
    parameters = dict(model.encoder.named_parameters())
    out = model.encoder(x).reshape(gradient.shape)
    wanted = torch.autograd.grad(out, list(parameters.values()), gradient / len(x))
    for name, g in zip(parameters, wanted, strict=True):
        assert float(ds.exact_norm.sel(parameter=name).squeeze()) == pytest.approx(float(g.norm()), rel=1e-9)


def test_float32_weights_and_x_agree_with_float64():
    _, _, logits, losses = made("bernoulli")
    wanted = oracles.gradient_of_plain_code(logits, losses, 4, 1.0)
    narrow = made("bernoulli", dtype=torch.float32)
    for x_dtype in (torch.float32, torch.float64):
        found = gradlab.exact_gradient(narrow[0], narrow[1].to(x_dtype))
        assert oracles.relative_error(found, wanted) < 1e-6
        gradlab.bias(narrow[0], narrow[1].to(x_dtype), draws=32)


def test_a_training_step_moves_encoder_and_decoder():
    model, x, logits, losses = made("bernoulli")
    estimator = estimators.get("rloo", tf=1.0)
    noise = model.kind.noise((estimator.noise_arrays, *logits.shape), dtype=torch.float64)
    loss, _ = gradlab.training.backward(model, estimator, x, noise)
    z = model.kind.hard(logits + noise)
    torch.testing.assert_close(loss, torch.stack([losses(each) for each in z[:2]]).mean().detach())
    assert all(p.grad is not None for p in model.parameters())


def test_integers_reach_the_decoder_as_they_are():
    class OfToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.of_code = nn.Embedding(9, 7), nn.Linear(6, 7)

        def forward(self, z, x):
            return self.table(x[:, 0]) * self.of_code(z.flatten(1))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 6)

        def forward(self, x):
            return self.table(x[:, 0])

    def next_token(o, x):
        return nn.functional.cross_entropy(o, x[:, 1] % 7, reduction="none")

    torch.manual_seed(0)
    encoder, decoder = Encoder(), OfToken()
    model = gradlab.LatentModel(
        encoder, decoder, latents=2, categories=3, likelihood=next_token, conditional=True
    ).double()
    x = torch.tensor([[1, 5], [8, 3], [4, 4]])
    logits = encoder(x).detach().reshape(3, 2, 3)
    wanted = oracles.gradient_of_plain_code(logits, lambda z: next_token(decoder(z, x), x), 3, 1.0)
    torch.testing.assert_close(gradlab.exact_gradient(model, x), wanted, rtol=1e-11, atol=1e-13)


def test_a_decoder_that_reads_rounded_labels_is_told():
    class OfLabel(Gated):
        def forward(self, z, x):
            return super().forward(z, x[:, :-1]) + x[:, -1:] % 5

    def first_pixels(o, x):
        return (o - x[:, :-1]).square().sum(1)

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(7, 6, bias=False))
    model = gradlab.LatentModel(
        encoder, OfLabel(6, 6), latents=2, categories=3, likelihood=first_pixels, conditional=True
    ).to(torch.bfloat16)
    with torch.no_grad():
        encoder[0].weight[:, -1] = 0.0
    x = torch.cat([torch.rand(3, 6), torch.tensor([[257.0], [1.0], [258.0]])], 1)
    with pytest.warns(UserWarning, match=r"x: the decoder reads 257 at index \(0, 6\) as 256"):
        gradlab.exact_gradient(model, x)


# --- refused ---


class Writes(Gated):
    def forward(self, z, x):
        return super().forward(z, x.mul_(0.5))


class Mixes(Gated):
    def forward(self, z, x):
        return super().forward(z, x - x.mean(0))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [(Writes, "decoder: expected one that leaves x as it is"), (Mixes, "decoder: .* rows that depend on others")],
)
def test_a_decoder_that_breaks_a_rule_is_named(decoder, message):
    model = gradlab.LatentModel(nn.Linear(6, 6), decoder(6, 6), latents=2, categories=3, conditional=True)
    with pytest.raises(ValueError, match=message):
        gradlab.bias(model, torch.rand(4, 6))


def test_a_decoder_of_other_arguments_is_refused_when_the_model_is_made():
    with pytest.raises(ValueError, match=r"decoder: expected a module that takes codes alone.*conditional=True"):
        gradlab.LatentModel(nn.Linear(6, 6), Gated(6, 6), latents=2, categories=3)
    with pytest.raises(ValueError, match=r"decoder: expected a module that takes \(codes, x\)"):
        gradlab.LatentModel(nn.Linear(6, 6), nn.Linear(6, 6), latents=2, categories=3, conditional=True)
    model = made("own")[0]
    with pytest.raises(ValueError, match="x: expected observations beside the codes"):
        model.decode(torch.zeros(1, 3, 4))
