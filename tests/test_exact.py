"""The exact gradient against brute-force float64 autograd over all configurations."""

import dataclasses
import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradlab
from gradlab import exact
from gradlab.errors import SpaceTooLarge

from . import oracles, problems

LAWS = [(0.4, "sampled"), (2.3, "sampled"), (2.3, "model")]


DEEP = pytest.param("8x4-bernoulli-mlp", *LAWS[1], marks=pytest.mark.deep)
LAWS_OF = {"8x4-gaussian-mlp": LAWS[:1], "8x4-bernoulli-mlp": LAWS[2:]}  # 4,096 configurations one after another


@pytest.mark.parametrize(
    ("name", "tf", "target"), [*((name, *law) for name in problems.EXACT for law in LAWS_OF.get(name, LAWS)), DEEP]
)
def test_agrees_with_brute_force(name, tf, target):
    problem = problems.make(name)
    found = gradlab.exact_gradient(problem.model, problem.x, tf=tf, target=target)
    wanted = oracles.exact_gradient(problem.model, problem.x, tf, target)
    assert found.dtype == torch.float64
    assert found.shape == (len(problem.x), *problem.model.code_shape)
    assert oracles.relative_error(found, wanted) < 1e-10


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "3x5-own-mlp", "2x7-gaussian-conv", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("memory", [1, 30_000, 100_000])
def test_blocks_do_not_change_the_result(name, memory):
    problem = problems.make(name)
    whole = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    assert (
        oracles.relative_error(gradlab.exact_gradient(problem.model, problem.x, tf=1.6, memory=memory), whole) < 1e-12
    )


@pytest.mark.parametrize("target", ["sampled", "model"])
@pytest.mark.parametrize("tf", [0.4, 2.3])
@pytest.mark.parametrize("name", problems.EXACT)
def test_float32_keeps_within_the_error_it_states(name, tf, target):
    problem = problems.make(name)
    given = {"tf": tf, "target": target, "return_error": True}
    wide, tiny = gradlab.exact_gradient(problem.model, problem.x, **given)
    found, bound = gradlab.exact_gradient(problem.model, problem.x, dtype=torch.float32, **given)
    error = (found - wide).flatten(1).norm(dim=1)
    assert found.dtype == bound.dtype == torch.float64
    assert bound.shape == (len(problem.x),)
    assert (error <= bound).all()
    assert (error > 1e-4 * bound).any()  # no bound that holds of anything
    assert (bound < 1e-4 * wide.norm()).all()
    # sums are float64 in both, and enter both
    assert (tiny >= bound * 2.0**-29).all()
    assert (tiny < 1e-6 * bound).all()


def test_float32_is_what_the_decoder_sees():
    problem = problems.make("3x5-bernoulli-mlp")
    wanted = gradlab.exact_gradient(problem.model, problem.x)
    seen = []
    hook = problem.model.decoder.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    gradlab.exact_gradient(problem.model, problem.x, dtype=torch.float32)
    assert torch.float32 in seen
    hook.remove()
    assert torch.equal(gradlab.exact_gradient(problem.model, problem.x), wanted)  # the model is as it was


def test_other_precisions_are_refused():
    problem = problems.make("3x5-bernoulli-mlp")
    with pytest.raises(ValueError, match=r"dtype: unknown name 'float16'; did you mean float64"):
        gradlab.exact_gradient(problem.model, problem.x, dtype=torch.float16)


def test_an_interrupted_enumeration_stops_at_once():
    problem = problems.make("3x5-bernoulli-mlp")
    before, seen = len(oracles.probed(problem.model, problem.x)), []

    def interrupt(module, given, output):
        seen.append(len(output))
        if len(seen) == before + 4:
            raise KeyboardInterrupt

    problem.model.decoder.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        gradlab.exact_gradient(problem.model, problem.x, memory=1)
    assert len(seen) == before + 4 < 100
    assert seen[-2:] == [3, 3]  # configurations


def test_small_memory_does_stream():
    """The block test above would pass on one block: count the decoder's calls."""
    problem = problems.make("3x5-bernoulli-mlp")
    before, rows = oracles.probed(problem.model, problem.x), []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    gradlab.exact_gradient(problem.model, problem.x, memory=1)
    assert rows[: len(before)] == before
    measured = rows[len(before) :]
    assert max(measured) == 3
    assert sum(measured) == 3**5 + 1  # each configuration once, and a row to count the activations


def test_what_is_decoded_at_once_is_less_than_a_block(monkeypatch):
    """The parts of a block; the last is smaller."""
    problem = problems.make("3x5-bernoulli-mlp")
    whole = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    monkeypatch.setattr(exact, "_DECODED", 10_000)
    before, rows = oracles.probed(problem.model, problem.x), []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    found = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    measured = rows[len(before) :]
    assert sum(measured) == 3**5 + 1
    assert 1 < max(measured) < 3**4
    assert len({*measured} - {1}) == 2
    assert oracles.relative_error(found, whole) < 1e-14


def test_decoder_sees_each_configuration_once_whatever_the_images():
    problem = problems.make("2x7-gaussian-conv")
    before, rows = oracles.probed(problem.model, problem.x), []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    gradlab.exact_gradient(problem.model, problem.x.repeat(20, 1, 1, 1), tf=1.6)
    assert sum(rows[len(before) :]) == 2**7 + 1


def test_own_likelihood_equal_to_a_canonical_one_gives_the_same():
    canonical = problems.make("3x5-bernoulli-mlp")

    def bernoulli(parameters, x):
        loss = nn.functional.binary_cross_entropy_with_logits(parameters, x, reduction="none")
        return loss.flatten(1).sum(1)

    general = gradlab.LatentModel(
        canonical.model.encoder, canonical.model.decoder, latents=5, categories=3, likelihood=bernoulli
    )
    a = gradlab.exact_gradient(canonical.model, canonical.x, tf=0.7)
    b = gradlab.exact_gradient(general, canonical.x, tf=0.7, memory=20_000)
    assert oracles.relative_error(b, a) < 1e-12


def test_kl_adds_its_untempered_gradient():
    problem = problems.make("3x5-bernoulli-mlp")
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    leaf = logits.requires_grad_()
    p = torch.softmax(leaf, -1)
    (wanted,) = torch.autograd.grad((p * torch.log(p * 3)).sum(), leaf)
    plain = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    found = gradlab.exact_gradient(problem.model, problem.x, tf=1.6, kl=True) - plain
    assert oracles.relative_error(found, wanted) < 1e-9


def test_binary_is_the_pair_with_logits_l_and_0():
    problem = problems.make("binary6-bernoulli-mlp")

    class Paired(nn.Module):  # no registered parameters: the model takes x as it comes
        def forward(self, x):
            logits = problem.model.encoder(x)
            return torch.stack([logits, torch.zeros_like(logits)], -1)

    class FirstOfPair(nn.Module):
        def forward(self, z):
            return problem.model.decoder(z[..., 0])

    pair = gradlab.LatentModel(Paired(), FirstOfPair(), latents=6, categories=2)
    found = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    as_pair = gradlab.exact_gradient(pair, problem.x, tf=1.6)
    assert oracles.relative_error(found, as_pair[..., 0]) < 1e-12


def test_float32_model_is_enumerated_in_float64():
    """float32 losses are off by 1e-5 (planted below): the model's own precision must not be used."""
    problem = problems.make("8x4-bernoulli-mlp", torch.float32)
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    double = problems.make("8x4-bernoulli-mlp", torch.float32).model.double()
    double.encoder = nn.Sequential(nn.Flatten(), _Constant(logits.double()))
    wanted = oracles.exact_gradient(double, problem.x.double(), 1.6, "sampled")
    assert oracles.relative_error(gradlab.exact_gradient(problem.model, problem.x, tf=1.6), wanted) < 1e-10
    single = exact.conditional_losses(
        problems.setup_of(problem.model, problem.x), torch.softmax(logits / 1.6, -1)[None]
    )[0]
    p = torch.softmax(logits / 1.6, -1)
    assert oracles.relative_error(p * (single - (p * single).sum(-1, keepdim=True)) / 1.6, wanted) > 1e-8


class _Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value[: len(x)]


def test_saturated_logits_give_finite_gradients():
    problem = problems.make("3x5-bernoulli-mlp")
    problem.model.encoder = nn.Sequential(nn.Flatten(), _Constant(torch.tensor([[1e4, -1e4, 0.0] * 5] * 5).double()))
    found = gradlab.exact_gradient(problem.model, problem.x, tf=0.3)
    assert torch.isfinite(found).all()
    assert float(found.abs().max()) == 0.0


def test_too_large_a_space_is_refused_with_its_size_and_a_way_out():
    model = gradlab.LatentModel(nn.Identity(), nn.Identity(), latents=12, categories=16)
    with pytest.raises(SpaceTooLarge, match=re.escape("16^12 = 2.815e+14")) as caught:
        gradlab.exact_gradient(model, torch.rand(2, 192))
    assert "16,777,216" in str(caught.value)
    assert "gap" in str(caught.value)


def test_limit_can_be_set():
    problem = problems.make("3x5-bernoulli-mlp")
    with pytest.raises(SpaceTooLarge, match="243"):
        gradlab.exact_gradient(problem.model, problem.x, max_configurations=242)
    gradlab.exact_gradient(problem.model, problem.x, max_configurations=243)


def test_losses_that_are_not_finite_are_named_with_the_first_index():
    problem = problems.make("3x5-own-mlp")

    def broken(parameters, x):
        loss = problems.heavy_tailed(parameters, x)
        return torch.where(x.flatten(1)[:, 0] == problem.x[3].flatten()[0], torch.nan, loss)

    model = gradlab.LatentModel(
        problem.model.encoder, problem.model.decoder, latents=5, categories=3, likelihood=broken
    )
    with pytest.raises(ValueError, match=re.escape("got nan at example 3, configuration (0, 0, 0, 0, 0)")):
        gradlab.exact_gradient(model, problem.x)


@pytest.mark.deep
def test_a_million_configurations():
    """4^10 against the same expectation by another route: each latent's c from draws of nothing, all from one table."""
    torch.manual_seed(0)
    encoder, decoder = (
        nn.Linear(6, 40).double(),
        nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.Tanh(), nn.Linear(8, 6)),
    )
    model = gradlab.LatentModel(encoder, decoder.double(), latents=10, categories=4)
    x = torch.rand(2, 6, dtype=torch.float64)
    found = gradlab.exact_gradient(model, x, tf=1.3)
    with torch.no_grad():
        logits = model.logits(x)
    leaf = logits.requires_grad_()
    p = torch.softmax(leaf / 1.3, -1)
    joint = p[:, 0]
    for latent in range(1, 10):
        joint = (joint[:, :, None] * p[:, latent, None]).flatten(1)
    indices = gradlab.latents.configurations(10, 4, 0, 4**10)
    with torch.no_grad():
        o = model.decode(gradlab.latents.codes_at(indices, 4, False, torch.float64))
    f = torch.stack([model.losses_of(o, row.expand_as(o)) for row in x])
    (wanted,) = torch.autograd.grad((joint * f).sum(), leaf)
    assert oracles.relative_error(found, wanted) < 1e-10


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.bytes = max(self.bytes, found.untyped_storage().nbytes())
        return found


def test_tables_of_many_laws_and_examples_are_divided():
    """300 tf on 1,000 images took 4 GB at a memory of 64 MiB: 8^3 configurations for each law and example."""
    problem = problems.make("8x4-bernoulli-mlp")
    x = problem.x.repeat(20 // len(problem.x) + 1, *[1] * (problem.x.ndim - 1))[:20]
    x = x * torch.linspace(0.5, 1, 20, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    laws = [(t, "sampled") for t in torch.linspace(0.5, 3, 20).tolist()]
    whole = exact.exact_gradients(problems.setup_of(problem.model, x), laws)
    setup = dataclasses.replace(problems.setup_of(problem.model, x), memory=2**18)
    with _Largest() as largest:
        divided = exact.exact_gradients(setup, laws)
    assert largest.bytes <= 2**20
    torch.testing.assert_close(divided, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "4x1-own-mlp", "binary6-bernoulli-mlp"])
def test_laws_and_examples_one_by_one_are_those_together(monkeypatch, name):
    problem = problems.make(name)
    setup, laws = problems.setup_of(problem.model, problem.x), [(t, "sampled") for t in (0.5, 1.0, 2.0)]
    whole = exact.exact_gradients(setup, laws)
    monkeypatch.setattr(exact, "_TABLES", 1)
    alone = exact.exact_gradients(dataclasses.replace(setup, memory=1), laws)
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-12)
