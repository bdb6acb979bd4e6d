"""Layers as strangers write them: check_layer says the right thing about each, or refuses it in one sentence."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab
from gradlab.estimators import LayerWarning, from_layer
from gradlab.inspection import checking, laws

from .own_layers import gumbel, one_hot, straight_through

JANG = ["st-gs(convention=jang) at tf=1, tb=0.7"]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(laws, "DRAWS", 6000)
    monkeypatch.setattr(checking, "BIAS_DRAWS", 200)


def soft(logits, tau, eps=1e-20):
    u = torch.rand_like(logits)
    return torch.softmax((logits - torch.log(-torch.log(u + eps) + eps)) / tau, -1)


def hard_of(spelling):
    """Straight-through Gumbel-softmax whose hard part is spelt in one of the usual ways."""

    def layer(logits, tau):
        y = soft(logits, tau)
        return spelling(y)

    return layer


class HandedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return one_hot(y)

    @staticmethod
    def backward(ctx, v):
        return v


def with_data(y):
    z = y.clone()
    z.data = one_hot(y)
    return z


def scattered(y):
    flat = torch.zeros_like(y).view(-1, y.shape[-1])
    return (flat.scatter_(1, y.max(-1)[1].view(-1, 1), 1).view_as(y) - y).detach() + y


SPELLINGS = {
    "hard - soft.detach() + soft": lambda y: one_hot(y) - y.detach() + y,
    "(hard - soft).detach() + soft": lambda y: (one_hot(y) - y).detach() + y,
    "equal to the largest": lambda y: y + ((y == y.max(-1, keepdim=True).values).to(y.dtype) - y).detach(),
    "rows of eye": lambda y: torch.eye(y.shape[-1])[y.argmax(-1)] + y - y.detach(),
    "scattered": scattered,
    "data": with_data,
    "function": HandedOn.apply,
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_the_straight_through_trick_is_recognised_and_measured(spelling):
    report = gradlab.check_layer(hard_of(spelling), tb=0.7)
    assert (report.same_as, report.problems) == (JANG, [])
    assert len(report.bias) == 2


def test_a_layer_whose_ties_are_no_codes_is_an_estimator():
    """With noise of zeros, all entries are the largest."""
    model, x = gradlab.bundled("vae-8x4-mnist"), torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    mine = from_layer(hard_of(SPELLINGS["equal to the largest"]), law="model")
    ds = gradlab.bias(model, x, 1.0, 0.7, estimator=[mine, "st-gs:convention=jang"], draws=16)
    one, other = ds.mean_gradient.values
    assert abs(one - other).max() < 1e-4 * abs(other).max()


class Annealed(nn.Module):
    def __init__(self):
        super().__init__()
        self.tau = 1.0

    def forward(self, logits):
        self.tau = max(0.9 * self.tau, 0.1)
        return F.gumbel_softmax(logits, self.tau, hard=True)


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = None

    def forward(self, logits):
        if self.noise is None or self.noise.shape != logits.shape:
            self.noise = gumbel(logits)
        return straight_through(one_hot(logits + self.noise), torch.softmax(logits + self.noise, -1))


class Sampling(nn.Module):
    """Samples in training mode only."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, logits):
        return F.gumbel_softmax(self.dropout(logits), hard=True) if self.training else one_hot(logits)


def cached_by_shape(kept):
    def layer(logits):
        g = kept.setdefault(logits.shape, gumbel(logits).detach())
        return straight_through(one_hot(logits + g), torch.softmax(logits, -1))

    return layer


def seeded_in_every_call(logits):
    torch.manual_seed(0)
    return F.gumbel_softmax(logits, hard=True)


def generator_in_every_call(logits):
    u = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    return straight_through(one_hot(logits - torch.log(-torch.log(u))), torch.softmax(logits, -1))


def numpy_in_every_call(logits):
    g = torch.from_numpy(np.random.default_rng(0).gumbel(size=tuple(logits.shape)))
    return straight_through(one_hot(logits + g), torch.softmax(logits, -1))


def in_place(logits, tau):
    logits += gumbel(logits)
    return straight_through(one_hot(logits), torch.softmax(logits / tau, -1))


def top_two(logits):
    p = torch.softmax(logits, -1)
    code = torch.zeros_like(p).scatter_(-1, (logits + gumbel(logits)).topk(2, -1).indices, 1.0)
    return straight_through(code, p)


def among_the_top_two(logits, tau):
    mask = torch.full_like(logits, -math.inf).scatter_(-1, logits.topk(2, -1).indices, 0.0)
    return F.gumbel_softmax(logits + mask, tau, hard=True)


def noise_twice(logits, tf, tb):
    return straight_through(one_hot(logits / tf + gumbel(logits)), torch.softmax(logits / tb + gumbel(logits), -1))


def narrow(dtype):
    return lambda logits, tau: F.gumbel_softmax(logits.to(dtype), tau, hard=True)


SAID = {  # layer -> same_as, words of the problem, words of the note
    "annealed in forward": (Annealed(), ["st-gs(convention=jang) at tf=1, tb=0.9"], "", "It changes tau when it is"),
    "noise kept": (Cached(), None, "Two calls, one after the other, give the same codes", ""),
    "noise kept by shape": (cached_by_shape({}), [], "keeps from an earlier call", ""),
    "seeded": (seeded_in_every_call, None, "it seeds its random numbers in every call", ""),
    "generator in the call": (generator_in_every_call, None, "it seeds its random numbers in every call", ""),
    "numpy with a seed": (numpy_in_every_call, [], "draws from numpy with the same seed", ""),
    "in place": (in_place, JANG, "", "It changes its logits in place"),
    "noise drawn twice": (noise_twice, [], "st-gs at tf=1, tb=0.7 at other random numbers than", ""),
    "evaluation mode": (Sampling().eval(), [], "got codes without one", "It is in evaluation mode"),
    "dropout": (Sampling(), [], "do not follow softmax(l/t)", "contains Dropout, whose random numbers"),
    "float16": (narrow(torch.float16), [], "", "st-gs(convention=jang) at tf=1, tb=0.7 within"),
    "bfloat16": (narrow(torch.bfloat16), [], "", "it computes in bfloat16"),
    "float32": (narrow(torch.float32), JANG, "", ""),
    "large eps": (lambda logits, tau: soft(logits, tau, 1e-3), [], "", "Its gradient is that of gumbel-softmax at tf"),
    "two of them": (top_two, [], "Its codes are 2-hot", ""),
    "of the top two": (among_the_top_two, [], "are never drawn (a mask", ""),
    "noise of no effect": (
        lambda l: straight_through(one_hot(l + 0 * gumbel(l)), l.softmax(-1)),
        None,
        "not sample",
        "",
    ),
    "log-softmax first": (lambda l, tau: F.gumbel_softmax(F.log_softmax(l, -1), tau, hard=True), JANG, "", ""),
}


@pytest.mark.parametrize(("layer", "same_as", "problem", "note"), SAID.values(), ids=SAID)
def test_what_a_layer_does_is_said(layer, same_as, problem, note):
    report = gradlab.check_layer(layer, tb=0.7)
    assert same_as is None or report.same_as == same_as
    assert [problem in sentence for sentence in report.problems] == [True] * bool(problem)
    assert not note or any(note in sentence for sentence in report.notes)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda logits: {"z": F.gumbel_softmax(logits)}, "got a dict with 'z'; give a function that returns the codes"),
        (lambda logits: (F.gumbel_softmax(logits), logits), "lambda logits: layer(logits)[0]"),
        (lambda logits: torch.distributions.Categorical(logits=logits).sample(), "numbers of categories"),
        (lambda p: F.gumbel_softmax(torch.log(p + 1e-8), hard=True), "does it take probabilities?"),
    ],
)
def test_what_is_no_layer_is_refused_with_its_cure(layer, words):
    with pytest.raises(ValueError, match=r"^layer: ") as refused:
        gradlab.check_layer(layer)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


class Sampler(nn.Module):
    def forward(self, logits, tau: float = 1.0):
        y = torch.softmax((logits - torch.log(-torch.log(torch.rand_like(logits)))) / tau, -1)
        return F.one_hot(y.argmax(-1), y.shape[-1]).to(y.dtype) - y.detach() + y


def test_wrapped_layers_are_called_as_their_authors_do():
    """A compiled module takes any arguments, a partial has no name."""
    for layer, name in ((torch.compile(Sampler()), "Sampler"), (functools.partial(Sampler(), tau=0.7), "Sampler")):
        report = gradlab.check_layer(layer, tb=0.7)
        assert (report.name, report.same_as, report.problems) == (name, JANG, [])


def test_what_was_not_measured_is_not_said():
    report = gradlab.check_layer(lambda logits: F.gumbel_softmax(logits.detach(), hard=True))
    assert not report.measured
    rows = dict(report.rows())
    assert [rows[name] for name in ("codes follow", "is", "without effect", "bias")] == ["not measured"] * 4
    assert gradlab.check_layer(lambda logits: F.gumbel_softmax(logits, hard=True)).measured


def test_a_generator_of_its_own_is_left_alone():
    generator = torch.Generator().manual_seed(7)

    def layer(logits):
        u = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
        return straight_through(one_hot(logits - torch.log(-torch.log(u))), torch.softmax(logits, -1))

    before = generator.get_state()
    assert gradlab.check_layer(layer).problems == []
    assert torch.equal(generator.get_state(), before)


def test_an_estimator_of_k_hot_codes_is_refused_by_name():
    model, x = gradlab.bundled("vae-8x4-mnist"), torch.zeros(2, 1, 28, 28)
    with pytest.raises(ValueError, match="got k-hot ones, of 2 categories in each latent"):
        gradlab.bias(model, x, estimator=from_layer(top_two), draws=16)


def test_an_estimator_of_a_layer_with_a_state_or_a_seed_warns():
    model, x = gradlab.bundled("vae-8x4-mnist"), torch.zeros(2, 1, 28, 28)
    for layer, words in ((Annealed(), "it changes tau"), (seeded_in_every_call, "it seeds its random numbers")):
        with pytest.warns(LayerWarning, match=words):
            gradlab.bias(model, x, estimator=from_layer(layer), draws=16)
