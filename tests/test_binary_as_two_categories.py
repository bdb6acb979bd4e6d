"""A binary unit is the pair of categories with logits (l, 0): both kinds of latents give the same numbers.

The pair's estimate is (e, -e) where the unit's is e, so its norms are sqrt(2) of the unit's, and ratios are equal.
"""

import math

import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators
from gradlab.cautions import SamplingWarning
from gradlab.estimators.evaluation import estimate_of, points_of
from gradlab.latents import BINARY, CATEGORICAL

from .catalogue import CASES

BOTH = sorted(
    {text for text, kind in CASES if kind == "binary"} & {text for text, kind in CASES if kind == "categorical"}
)
# what hands on v itself is (v, 0) of the pair, and no (v, -v)
IDENTITY = [text for text in BOTH if text.startswith("ste-identity")]
SAMPLED = [text for text in BOTH if text.startswith(("gumbel-softmax", "rebar", "double-cv", "mve", "reinmax-"))]
POINTS = [(1.6, 0.7), (0.3, 2.0)]
CLOSE = {"rtol": 1e-10, "atol": 1e-14}


class Pair(nn.Module):
    """Logits (l, 0) of an encoder of units."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        logits = self.encoder(x)
        return torch.stack([logits, torch.zeros_like(logits)], -1)


class First(nn.Module):
    """A decoder of units on the first of each two categories."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        return self.decoder(z[..., 0])


def models(scale=3.0):
    """Units, the same as pairs, and observations."""
    generator = torch.Generator().manual_seed(0)
    encoder = nn.Linear(5, 3).double()
    decoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            parameter.uniform_(-1, 1, generator=generator)
        encoder.weight.mul_(scale)
    x = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    units = gradlab.LatentModel(encoder, decoder, latents=3, binary=True, likelihood="bernoulli")
    pairs = gradlab.LatentModel(Pair(encoder), First(decoder), latents=3, categories=2, likelihood="bernoulli")
    return units, pairs, x


@pytest.mark.parametrize("target", ["sampled", "model"])
@pytest.mark.parametrize("scale", [3.0, 100.0])
def test_exact_gradients_are_equal(target, scale):
    units, pairs, x = models(scale)
    one, two = (gradlab.exact_gradient(model, x, tf=1.6, target=target) for model in (units, pairs))
    for sign, category in ((1, 0), (-1, 1)):
        torch.testing.assert_close(sign * two[..., category], one, rtol=1e-10, atol=1e-13 * float(one.abs().max()))


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")
@pytest.mark.parametrize(("tf", "tb"), POINTS)
@pytest.mark.parametrize("text", [text for text in BOTH if text not in SAMPLED and "running-mean" not in text])
def test_exact_moments_are_equal(text, tf, tb):
    units, pairs, x = models()
    one, two = (gradlab.bias(m, x, tf, tb, estimator=text, moments="exact") for m in (units, pairs))
    for name in ("mean_gradient", "std_gradient"):
        found, wanted = (torch.as_tensor(ds[name].values.squeeze()) for ds in (two, one))
        torch.testing.assert_close(found[..., 0], wanted, **CLOSE)
        if text not in IDENTITY:
            torch.testing.assert_close(found[..., 1], wanted if name == "std_gradient" else -wanted, **CLOSE)
    if text in IDENTITY:
        return
    for name in ("relative_bias", "relative_std", "cosine", "matched_bias", "matched_scale"):
        assert two[name].item() == pytest.approx(one[name].item(), rel=1e-10, abs=1e-10), name
    for name in ("exact_norm", "mean_norm", "std_norm", "bias_norm"):
        assert two[name].item() == pytest.approx(math.sqrt(2) * one[name].item(), rel=1e-10, abs=1e-13), name


@pytest.mark.parametrize(("tf", "tb"), POINTS)
@pytest.mark.parametrize(
    "text", ["gumbel-softmax", "st-gs:convention=jang", "decoupled-st-gs", "reinmax", "zgr", "gst"]
)
def test_draws_are_equal_where_the_noise_is(text, tf, tb):
    """The logistic noise of a unit is the difference of the pair's two Gumbels."""
    units, pairs, x = models()
    g = CATEGORICAL.noise((1, 50, 3, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for model, kind, noise in ((units, BINARY, g[..., 0] - g[..., 1]), (pairs, CATEGORICAL, g)):
        logits = model.logits(x[:1]).detach().expand(50, *model.code_shape)
        entry = estimators.parse(text).at(tf, tb)
        points = points_of(entry, kind, logits, noise)
        _, v = model.losses_and_derivatives(points[0], x[:1].expand(50, 5))
        found.append((points[0], estimate_of(entry, kind, logits, noise, points, None, v[None])))
    (units_z, of_units), (pairs_z, of_pairs) = found
    torch.testing.assert_close(pairs_z[..., 0], units_z, **CLOSE)
    torch.testing.assert_close(of_pairs[..., 0], of_units, **CLOSE)
    torch.testing.assert_close(of_pairs[..., 1], -of_units, **CLOSE)


def test_sampled_moments_agree():
    """Means of 4,096 draws differ by less than 6 standard errors: by chance not in one of a million seeds. Both have
    the same standard deviation, to 10 % of it."""
    units, pairs, x = models()
    for text in SAMPLED:
        one, two = (gradlab.bias(m, x, 1.6, 0.7, estimator=text, draws=4096) for m in (units, pairs))
        mean, std = (ds.squeeze() for ds in (one, two)), (one.std_gradient.values, two.std_gradient.values[..., 0])
        first, second = mean
        error = ((std[0] ** 2 + std[1] ** 2) / 4096) ** 0.5
        off = abs(first.mean_gradient.values - second.mean_gradient.values[..., 0])
        assert (off < 6 * error.squeeze()).all(), text
        assert two.relative_std.item() == pytest.approx(one.relative_std.item(), rel=0.1), text


def test_gaps_agree():
    """Ratios are equal, norms sqrt(2) times as large, within the 99.9999 % intervals of 2,048 draws."""
    units, pairs, x = models()
    one, two = (gradlab.gap(model, x, 1.6, 0.7, draws=2048) for model in (units, pairs))
    for name, factor in (("gap", 2**0.5), ("squared_gap", 2.0), ("relative_gap", 1.0), ("cosine", 1.0)):
        for definition in one.definition.values:
            of_units, of_pairs = (
                ds[[name, f"{name}_low", f"{name}_high"]].sel(definition=definition) for ds in (one, two)
            )
            widths = [
                float((ds[f"{name}_high"] - ds[f"{name}_low"]).squeeze()) / 2 / 1.96 for ds in (of_units, of_pairs)
            ]
            error = math.hypot(factor * widths[0], widths[1])
            assert abs(of_pairs[name].item() - factor * of_units[name].item()) < 5 * error, (name, definition)


def test_a_caution_is_the_same():
    units, pairs, x = models(scale=300.0)
    said = []
    for model in (units, pairs):
        with pytest.warns(SamplingWarning) as caught:
            gradlab.bias(model, x, 0.3, 0.7, estimator="ste", draws=16)
        said.append([str(one.message) for one in caught])
    assert said[0] == said[1]
