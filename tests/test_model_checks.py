"""Models that break a rule, and falsify every figure without a sign, are named; those that merely look so pass."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradlab
from gradlab import model_checks

from . import problems

RANDOM, MIXES = "expected the same values for the same input", "depend on others"
STATE, TRAINING = "expected no change by a call, got another", "training mode"


class Layer(nn.Module):
    """A layer from a function of (layer, activations)."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function, self.calls, self.kept = function, 0, None
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, h):
        self.calls += 1
        return self.function(self, h)


def layer(function, **parts):
    return lambda: Layer(function, **parts)


class MonteCarloDropout(nn.Dropout):
    def forward(self, h):
        return functional.dropout(h, self.p, training=True)


class Statistics(nn.Module):
    """Batch norm whose statistics carry no derivative."""

    def forward(self, h):
        return h - h.detach().mean(0)


def in_training(module):
    return lambda: nn.Sequential(nn.Flatten(), module()).train()


def carried(self, h):
    rows = h.flatten(1).mean(0)
    self.kept = rows.detach() if self.kept is None else 0.5 * self.kept + rows.detach()
    return h + 0 * rows.sum() + self.kept.mean()


def hidden_carried(self, h):
    out, self.kept = self.rnn(h.flatten(1)[:, None], self.kept if len(h) == 256 else None)
    return out.flatten(1)


def attends(h):
    """Attention over the batch."""
    flat = h.flatten(1)
    return torch.softmax(flat @ flat.T, -1) @ flat


def from_own_generator(self, h):
    return h + 1e-3 * torch.randn(h.shape, generator=self.generator, dtype=h.dtype)


def cached(self, h):
    """Gives what it gave the last batch of equal size."""
    self.kept = self.kept or {}
    return self.kept.setdefault(len(h), h.detach().clone()) + 0 * h


BREAKERS = {
    "functional dropout": (layer(lambda self, h: functional.dropout(h, 0.2, True)), RANDOM),
    "rare functional dropout": (layer(lambda self, h: functional.dropout(h, 1e-3, True)), RANDOM),
    "Monte Carlo dropout": (lambda: MonteCarloDropout(0.3).eval(), f"{RANDOM}, got others, in 1, a MonteCarloDropout"),
    "noise": (layer(lambda self, h: h + torch.randn_like(h)), RANDOM),
    "noise in place": (layer(lambda self, h: h.add_(torch.randn_like(h))), RANDOM),
    "tiny noise": (layer(lambda self, h: h + 1e-15 * torch.randn_like(h)), RANDOM),
    "small noise of its own": (layer(from_own_generator, generator=torch.Generator()), RANDOM),
    "numpy noise": (layer(lambda self, h: h * (1 + 1e-3 * np.random.default_rng().normal())), RANDOM),
    "a counter": (layer(lambda self, h: h * (1 + 1e-6 * self.calls)), RANDOM),
    "a state": (layer(carried), RANDOM),
    "a hidden state": (lambda: nn.Sequential(nn.Flatten(), Layer(hidden_carried, rnn=nn.GRU(16, 16))), RANDOM),
    "a stochastic code": (layer(lambda self, h: torch.bernoulli(torch.sigmoid(h)) + 0 * h), RANDOM),
    "batch norm": (in_training(lambda: nn.BatchNorm1d(16)), f"BatchNorm1d.*{TRAINING}"),
    "batch norm without statistics": (
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False)).eval(),
        f"{MIXES} in the batch, in 1.1, a BatchNorm1d",
    ),
    "functional batch norm": (layer(lambda self, h: functional.batch_norm(h, None, None, training=True)), MIXES),
    "detached batch statistics": (Statistics, f"{MIXES} in the batch, in 1, a Statistics"),
    "attention over the batch": (layer(lambda self, h: attends(h)), MIXES),
    "faint attention over the batch": (layer(lambda self, h: h.flatten(1) + 1e-13 * attends(h)), MIXES),
    "neighbours": (layer(lambda self, h: h + 1e-10 * h.roll(1, 0)), MIXES),
    "the first row": (layer(lambda self, h: h - 1e-10 * h[:1]), MIXES),
    "pairs": (layer(lambda self, h: h + (h.flip(0) if len(h) == 2 else h.roll(2, 0))), MIXES),
    "from 3 rows on": (layer(lambda self, h: h - h.mean(0) if len(h) > 2 else h), MIXES),
    "from 200 rows on": (layer(lambda self, h: h - h.mean(0) if len(h) >= 200 else h), MIXES),
    "the number of rows": (layer(lambda self, h: h / len(h)), MIXES),
    "the largest row": (layer(lambda self, h: h / h.detach().abs().max()), MIXES),
    "a cache": (layer(cached), MIXES),
    "spectral norm": (
        in_training(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))),
        f"({RANDOM}|{STATE})",
    ),
    "running statistics": (
        in_training(lambda: nn.Sequential(nn.Unflatten(1, (4, 4)), nn.InstanceNorm1d(4, track_running_stats=True))),
        f"{STATE} .*running_mean",
    ),
    "dropout in a transformer": (
        in_training(lambda: nn.TransformerEncoderLayer(16, 2, 8, dropout=0.1)),
        TRAINING,
    ),
    "dropout in an LSTM": (in_training(lambda: First(nn.LSTM(16, 16, 2, dropout=0.1))), f"LSTM.*{TRAINING}"),
    "attention that takes rows for steps": (
        lambda: nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(16, 2, 8, dropout=0.0)).eval(),
        f"{MIXES}",
    ),
    "random leaks": (nn.RReLU, f"{RANDOM}, got others, in 1, a RReLU"),
}


class First(nn.Module):
    """The first output, of rows that are sequences of one step."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, h):
        return self.module(h[:, None])[0][:, 0]


def adds_up(self, h):
    self.total += 1  # an integer, and nothing depends on it
    return h


LAWFUL = {
    "dropout in evaluation": lambda: nn.Dropout(0.5).eval(),
    "dropout of nothing": layer(lambda self, h: functional.dropout(h, 0.0, True)),
    "noise for training alone": lambda: Layer(lambda self, h: h + torch.randn_like(h) * self.training).eval(),
    "batch norm in evaluation": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)).eval(),
    "spectral norm in evaluation": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)).eval(),
    "group norm": lambda: nn.GroupNorm(1, 1),
    "instance norm": lambda: nn.InstanceNorm2d(1),
    "layer norm": lambda: nn.LayerNorm(4),
    "in place": layer(lambda self, h: h.mul_(0.5)),
    "attention within a row": layer(lambda self, h: h.softmax(-1) @ h),
    "transformer over the steps of a row": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Unflatten(2, (2, 8)),
        nn.Flatten(0, 1),
        nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
    ).eval(),
    "an LSTM": lambda: nn.Sequential(nn.Flatten(), First(nn.LSTM(16, 16, 2, dropout=0.1, batch_first=True))).eval(),
    "a counter nobody reads": lambda: Layer(adds_up, total=nn.Buffer(torch.zeros(1, dtype=torch.long))),
    "an infinite derivative": layer(lambda self, h: h + torch.sqrt((h - h.detach()).abs())[..., :1].detach()),
    "a square root at 0": layer(lambda self, h: h + 0.1 * torch.sqrt(functional.relu(h))),
    "random numbers without effect": layer(lambda self, h: h + 0 * torch.randn_like(h)),
    "a fixed seed": layer(lambda self, h: h + torch.randn(h.shape[1:], generator=torch.Generator().manual_seed(1))),
    "fixed weights": lambda: nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False),
}


def with_layer(where, made):
    """The problem's model with a layer after its encoder or decoder, or before the encoder."""
    problem = problems.make("3x5-bernoulli-mlp")
    encoder, decoder = problem.model.encoder, problem.model.decoder
    if where == "encoder":
        encoder = nn.Sequential(nn.Flatten(), made, nn.Flatten(), *encoder[1:])
    else:
        decoder = nn.Sequential(decoder, made)
    model = gradlab.LatentModel(encoder, decoder, latents=5, categories=3)
    return model, problem.x


MEASURES = {
    "bias": lambda model, x: gradlab.bias(model, x, draws=2),
    "gap": lambda model, x: gradlab.gap(model, x, draws=2),
}
every_measure = pytest.mark.parametrize("measure", MEASURES)


@every_measure
@pytest.mark.parametrize("case", BREAKERS)
def test_a_decoder_that_breaks_a_rule_is_named(case, measure):
    torch.manual_seed(0)
    made, message = BREAKERS[case]
    model, x = with_layer("decoder", made().double())
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message) as error:
        MEASURES[measure](model, x)
    assert "decoder" in str(error.value)
    assert "\n" not in str(error.value)
    assert torch.equal(before, torch.random.get_rng_state())


# x has 5 rows, and nothing below 0, so that these break no rule there
NOT_IN_ENCODERS = {"from 200 rows on", "a hidden state", "random leaks"}


@pytest.mark.parametrize("case", sorted(set(BREAKERS) - NOT_IN_ENCODERS))
def test_an_encoder_that_breaks_a_rule_is_named(case):
    torch.manual_seed(0)
    made, message = BREAKERS[case]
    model, x = with_layer("encoder", made().double())
    with pytest.raises(ValueError, match=message.split(", in ")[0]) as error:
        gradlab.gap(model, x, draws=2)
    assert "encoder" in str(error.value)


@pytest.mark.parametrize("case", LAWFUL)
def test_a_decoder_that_looks_so_passes(case):
    torch.manual_seed(0)
    model, x = with_layer("decoder", LAWFUL[case]().double())
    for measure in MEASURES.values():
        measure(model, x)


def squared(o, x):
    return (o - x).square().flatten(1).mean(1)


LIKELIHOODS = {
    "noise": (lambda o, x: squared(o, x) + 1e-12 * torch.randn(len(o)), RANDOM),
    "dropout": (lambda o, x: squared(functional.dropout(o, 0.1, True), x), RANDOM),
    "mean over the batch": (lambda o, x: squared(o, x).mean().expand(len(o)), MIXES),
    "centred by the batch": (lambda o, x: squared(o, x) - 1e-9 * squared(o, x).mean(), MIXES),
    "scaled by the batch of x": (lambda o, x: squared(o, x) / x.mean(), MIXES),
    "contrast against the batch": (
        lambda o, x: functional.cross_entropy(o.flatten(1) @ x.flatten(1).T, torch.arange(len(o)), reduction="none"),
        MIXES,
    ),
}


@every_measure
@pytest.mark.parametrize("case", LIKELIHOODS)
def test_a_likelihood_that_breaks_a_rule_is_named(case, measure):
    problem = problems.make("3x5-bernoulli-mlp")
    likelihood, message = LIKELIHOODS[case]
    model = gradlab.LatentModel(
        problem.model.encoder, problem.model.decoder, latents=5, categories=3, likelihood=likelihood
    )
    with pytest.raises(ValueError, match=f"likelihood: .*{message}"):
        MEASURES[measure](model, problem.x)


def test_a_likelihood_that_is_a_module_is_looked_into():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = MonteCarloDropout(0.5)

        def forward(self, o, x):
            return squared(self.drop(o), x)

    problem = problems.make("3x5-bernoulli-mlp")
    of = problem.model
    model = gradlab.LatentModel(of.encoder, of.decoder, latents=5, categories=3, likelihood=Noisy())
    with pytest.raises(ValueError, match=r"likelihood: expected .*, got others, in drop, a MonteCarloDropout"):
        gradlab.bias(model.eval(), problem.x)


@pytest.mark.parametrize("name", problems.EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_named_problems_pass_in_low_precision(name, dtype):
    problem = problems.make(name, torch.float32)
    model = problem.model.to(dtype)
    gradlab.setup.encode(model, problem.x.to(dtype))


def test_a_probe_is_small_where_layers_are_large():
    wide = nn.Linear(4, 2**20)
    assert model_checks.rows_of(wide, lambda: wide(torch.zeros(2, 4)), 2) == 32
    assert model_checks.rows_of(nn.Linear(4, 4), lambda: None, 2) == model_checks.MOST_ROWS


# --- stacks of layers that need no probe ---


PLAIN = sorted(model_checks._BY_ROW - {nn.Sequential, nn.Linear, nn.Flatten}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", PLAIN)
def test_layers_that_are_not_probed_pass_the_probe(kind):
    layer = nn.Unflatten(1, (3, 4)) if kind is nn.Unflatten else kind()
    encoder, decoder = (
        nn.Sequential(nn.Flatten(), nn.Linear(n, 12), layer, nn.Flatten(), nn.Linear(12, 6)) for n in (5, 6)
    )
    model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3)
    x = torch.rand(7, 6 - 1)
    assert model_checks.by_row(encoder)
    model_checks.check(model, x, x, model.logits(x).detach())


def test_the_bundled_vae_is_not_probed_what_differs_in_anything_is(monkeypatch):
    probed = []
    monkeypatch.setattr(model_checks, "check", lambda model, *given: probed.append(model))

    class Own(nn.Linear):
        pass

    def model(change=lambda decoder: None, likelihood="bernoulli", cls=gradlab.LatentModel):
        encoder, decoder = (nn.Sequential(nn.Flatten(), nn.Linear(6, 6)) for _ in range(2))
        return cls(encoder, change(decoder) or decoder, latents=2, categories=3, likelihood=likelihood)

    def hooked(decoder):
        decoder[1].register_forward_hook(lambda *given: None)

    def patched(decoder):
        decoder[1].forward = lambda h: h

    def listed(decoder):
        decoder[1].kept = {"of it": [torch.zeros(1)]}

    x = torch.rand(4, 6)
    for plain in (model(), gradlab.bundled("vae-8x4-mnist")):
        gradlab.setup.encode(plain, x if plain.latents == 2 else torch.rand(2, 1, 28, 28))
    assert probed == []
    others = [
        model(hooked),
        model(patched),
        model(listed),
        model(lambda decoder: decoder.append(nn.Dropout(0.1).eval())),
        model(lambda decoder: nn.Sequential(nn.Flatten(), Own(6, 6))),
        model(lambda decoder: nn.Sequential(nn.Flatten(-2), nn.Linear(6, 6))),
        model(lambda decoder: nn.utils.parametrizations.weight_norm(decoder[1]) and None),
        model(likelihood=lambda o, x: (o - x).abs().sum(1)),
        model(cls=type("Mine", (gradlab.LatentModel,), {})),
    ]
    for other in others:
        gradlab.setup.encode(other, x)
    assert probed == others


def test_a_compiled_decoder_is_measured_like_the_module_it_was_made_of():
    """It takes no hooks, with which layers are counted and named."""
    problem = problems.make("3x5-bernoulli-mlp")
    wanted = gradlab.exact_gradient(problem.model, problem.x)
    latents, categories = problem.model.latents, problem.model.categories
    with torch.no_grad():
        traced = torch.jit.trace(problem.model.decoder, torch.rand(2, latents, categories, dtype=torch.float64))
    compiled = gradlab.LatentModel(problem.model.encoder, traced, latents=latents, categories=categories)
    torch.testing.assert_close(gradlab.exact_gradient(compiled, problem.x), wanted, rtol=1e-12, atol=0)
