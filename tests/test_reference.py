"""Bias against an unbiased reference: draws, metrics against enumeration, and what it says where it cannot tell."""

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, networks
from gradlab.fidelity import reference_metrics
from gradlab.fidelity.differences import change
from gradlab.sampling import Noise, PairedDraws
from gradlab.setup import encode

from . import problems

METRICS = reference_metrics.metrics()


# --- draws ---


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_sums_are_those_of_a_loop_over_draws(name):
    p = problems.make(name)
    kind, logits = p.model.kind, encode(p.model, p.x)
    own = ["decoupled-st-gs", "gumbel-softmax", "reinmax", "rloo"] + (["disarm", "arms:n=3"] if p.model.binary else [])
    chosen = [estimators.parse(n).at(1.6, 0.7) for n in own]
    drawn = PairedDraws(
        problems.setup_of(p.model, p.x, logits, seed=7, memory=30_000), chosen, batches=4
    )  # several blocks
    drawn.add(3)
    drawn.add(2)
    arrays = max(e.noise_arrays for e in chosen)
    noise = Noise(kind, logits, arrays, 20, 7)
    for e, sums in zip(chosen, drawn.sums, strict=True):
        for b in range(4):
            found = []
            for d in range(b, 20, 4):
                g = noise.of(arrays, d, d + 1)
                points = e.points(kind, logits, g)
                pairs = [p.model.losses_and_derivatives(z, p.x) for z in points[:, 0]]
                loss, v = (torch.stack([pair[k] for pair in pairs])[:, None] for k in (0, 1))
                found.append(e.estimate(kind, logits, g, points, loss, v)[0])
            found = torch.stack(found)
            mean = found.mean(0)
            torch.testing.assert_close(sums.mean[b], mean, rtol=1e-10, atol=1e-12)
            squares = (found - mean).square().flatten(2).sum((0, 2))
            torch.testing.assert_close(sums.squares[b], squares, rtol=1e-10, atol=1e-12)


SAMPLES_FIRST = [name for name in estimators.names() if estimators.get(name).shared_points.sample_first]


@pytest.mark.parametrize("name", SAMPLES_FIRST)
def test_what_samples_first_does(name):
    """The first point of several is the code that noise array 0 samples: what spares decoding it twice."""
    cls = estimators.find(name)
    for kind in cls.kinds:
        p = problems.make("binary6-bernoulli-mlp" if kind == "binary" else "3x5-bernoulli-mlp")
        e, logits = cls(tf=0.7), encode(p.model, p.x)
        g = Noise(p.model.kind, logits, e.noise_arrays, 50, 0).of(e.noise_arrays, 0, 50)
        assert torch.equal(e.points(p.model.kind, logits, g)[0], p.model.kind.hard(logits / 0.7 + g[0]))


def test_codes_are_decoded_once_for_estimate_and_reference(monkeypatch):
    p = problems.make("3x5-bernoulli-mlp")
    rows = []
    decode = gradlab.LatentModel.decode
    monkeypatch.setattr(gradlab.LatentModel, "decode", lambda m, z, *x: (rows.append(len(z)), decode(m, z, *x))[1])
    logits = encode(p.model, p.x)
    rows.clear()
    chosen = [estimators.get("decoupled-st-gs", tb=tb) for tb in (0.5, 1.0, 2.0)] + [estimators.get("rloo")]
    drawn = PairedDraws(problems.setup_of(p.model, p.x, logits), chosen, batches=4)
    rows.clear()
    drawn.add(8)
    assert sum(rows) == 2 * 4 * 8 * len(p.x)  # the code, and rloo's second
    assert len(rows) == 2  # small batches are decoded together


# --- figures against enumeration ---


@pytest.fixture(scope="module")
def measured():
    """Problem, reference and the two Datasets: by enumeration without draws, and by reference."""
    found = {}
    for name, reference_ in (("3x5-bernoulli-mlp", "rloo"), ("binary6-bernoulli-mlp", "auto")):
        p = problems.make(name)
        given = {"tf": [0.7, 1.6], "tb": [0.5, 1.3], "estimator": ["decoupled-st-gs", "reinmax"], "target": "both"}
        exact = gradlab.bias(p.model, p.x, **given, moments="exact")
        found[name] = exact, gradlab.bias(p.model, p.x, **given, draws=2048, reference=gradlab.Sampled(reference_))
    return found


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_metrics_agree_with_enumeration(measured, name):
    """Within 2.5 half widths, some five standard errors: failure rate below 1e-3 over all metrics and points."""
    exact, ds = measured[name]
    for metric in METRICS:
        value, low, high = (ds[metric + end].values for end in ("", "_low", "_high"))
        assert np.isfinite(high - low).all(), metric
        off = np.abs(value - exact[metric].transpose(*ds[metric].dims).values)
        assert (off <= 2.5 * np.maximum(high - value, value - low)).all(), metric


def test_intervals_are_sharp_enough_to_find_a_bias(measured):
    for _, ds in measured.values():
        bias = ds.sel(estimator="decoupled-st-gs", tf=1.6, tb=0.5, target="sampled")
        assert bias.resolved == 1
        assert bias.relative_bias_debiased_high - bias.relative_bias_debiased_low < 0.2 * bias.relative_bias_debiased


def test_the_result_is_labelled_and_survives_a_file(measured, tmp_path):
    for exact, ds in measured.values():
        assert exact.attrs["reference"] == "exact"
        assert ds.attrs["analysis"] == "bias"
        assert ds.attrs["draws"] == 2048
        assert dict(ds.sizes) == {
            "estimator": 2, "target": 2, "tf": 2, "tb": 2, "metric": len(METRICS), "batch": 32,
            "example": 5, "example_metric": len(METRICS),
        }  # fmt: skip
        assert all({"long_name", "units"} <= set(v.attrs) for v in ds.variables.values())
        gradlab.save_results(ds, tmp_path / "r.h5")
        assert gradlab.open_results(tmp_path / "r.h5").identical(ds)
    assert {ds.attrs["reference"] for _, ds in measured.values()} <= {"rloo", "disarm", "arms(n=4)"}
    assert len(ds.attrs["reference_candidates"]) == 3
    assert "sampled" in str(gradlab.plots.auto(ds).axes[0].get_legend() or "sampled")


def test_changes_use_the_common_noise(measured):
    _, ds = measured["3x5-bernoulli-mlp"]
    one = ds.sel(estimator="decoupled-st-gs", target="sampled", tf=1.6)
    found = change(one, "relative_bias_debiased", {"tb": 0.5}, {"tb": 1.3})
    ends = [one.sel(tb=tb).relative_bias_debiased.item() for tb in (0.5, 1.3)]
    assert found.value == pytest.approx(ends[1] - ends[0])
    apart = sum((one.sel(tb=tb).relative_bias_debiased_high - ends[i]).item() for i, tb in enumerate((0.5, 1.3)))
    assert 0 < found.high - found.value < apart


def test_the_same_seed_gives_the_same_numbers_whatever_the_memory():
    p = problems.make("3x5-bernoulli-mlp")
    given = {"tf": [0.7, 1.6], "tb": [0.7, 1.3], "reference": "rloo", "draws": 64, "seed": 3}
    state = torch.get_rng_state()
    once = gradlab.bias(p.model, p.x, **given)
    again = gradlab.bias(
        p.model, p.x, **given, compute=gradlab.Compute(memory=1000)
    )  # one row, and one estimator, at a time
    assert torch.equal(state, torch.get_rng_state())
    for metric in METRICS:
        assert once[metric].values == pytest.approx(again[metric].values, rel=1e-9)
    other = gradlab.bias(p.model, p.x, **given | {"seed": 4})
    assert not np.allclose(once.relative_std, other.relative_std)


def test_kl_moves_both_sides_alike():
    p = problems.make("3x5-bernoulli-mlp")
    given = {"tf": 1.6, "tb": 0.7, "reference": "rloo", "draws": 256}
    without, with_kl = (gradlab.bias(p.model, p.x, **given, kl=kl) for kl in (False, True))
    assert with_kl.squared_bias_debiased.item() == pytest.approx(without.squared_bias_debiased.item(), rel=1e-9)
    exact = gradlab.bias(p.model, p.x, tf=1.6, tb=0.7, draws=64, kl=True)
    off = abs(with_kl.exact_norm - exact.exact_norm).item()
    assert off < 2.5 * (with_kl.exact_norm_high - with_kl.exact_norm).item()
    assert abs(with_kl.exact_norm - without.exact_norm).item() > off


def test_a_binary_autoencoder_is_measured():
    model = networks.build("binary-autoencoder", {"width": 2, "depth": 0}, seed=0)
    x = gradlab.datasets.load("mnist-sample").first(2).floats()
    ds = gradlab.bias(model, x, tf=0.5, tb=[0.5, 3.0], draws=128)
    assert ds.attrs["reference"] in ("rloo", "disarm", "arms(n=4)")
    assert np.isfinite(ds.relative_bias_debiased.values).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reference": "rlo"}, "reference: unknown name 'rlo'; did you mean rloo"),
        ({"reference": "ste"}, r"reference: expected an unbiased estimator \(auto, exact, rloo\), got ste"),
        ({"reference": 3}, "reference: expected an unbiased estimator .* got 3"),
        ({"reference": "disarm"}, "reference: expected one for categorical latents .*, got disarm"),
        ({"reference": gradlab.Enumerated(max_configurations=100)}, "at most 100 configurations to enumerate, got 3"),
        ({"reference": "rloo", "moments": "exact"}, "moments: expected 'monte-carlo' beside a sampled reference"),
        ({"reference": gradlab.Sampled("rlo")}, "reference: unknown name 'rlo'; did you mean rloo"),
        (
            {"reference": "rloo", "moments": gradlab.MonteCarlo(equal_cost=True)},
            "equal_cost: expected False beside a sampled reference",
        ),
        ({"reference": "rloo", "moments": gradlab.MonteCarlo(decoder="table")}, "decoder: expected 'draws' or 'auto'"),
        ({"reference": "rloo", "estimator": "exact"}, "estimator: .* got exact, which enumerates the codes"),
        (
            {"reference": "rloo", "estimator": estimators.get("reinforce", baseline="running-mean")},
            r"estimator: .* got reinforce\(.*depends on the draws before",
        ),
        ({"reference": estimators.get("reinforce", baseline="running-mean")}, "reference: .*got reinforce"),
    ],
)
def test_rubbish_is_named(given, message):
    p = problems.make("3x5-bernoulli-mlp")
    with pytest.raises(ValueError, match=message):
        gradlab.bias(p.model, p.x, **given)


def test_gradients_that_vanish_are_said_to_be_unresolved():
    """A decoder that takes no notice of the codes: nothing to tell from 0."""
    p = problems.make("3x5-bernoulli-mlp")
    flat = gradlab.LatentModel(p.model.encoder, Constant(), latents=5, categories=3, likelihood="gaussian")
    ds = gradlab.bias(flat, p.x, tf=1.0, reference="rloo", draws=64).squeeze()
    assert ds.resolved == 0
    assert np.isnan(ds.cosine)
    assert (ds.relative_bias_debiased_low, ds.relative_bias_debiased_high) == (-np.inf, np.inf)


class Constant(torch.nn.Module):
    def forward(self, z):
        return torch.zeros(len(z), 16, dtype=z.dtype) + 0 * z.sum((1, 2))[:, None]


def test_estimates_that_are_not_finite_are_named():
    p = problems.make("3x5-bernoulli-mlp")
    broken = torch.nn.Sequential(p.model.decoder, Infinite())
    model = gradlab.LatentModel(p.model.encoder, broken, latents=5, categories=3)
    with pytest.raises(ValueError, match=r"finite estimates, got others at tf = 1.6, tb = 0.7; .* finite losses"):
        gradlab.bias(model, p.x, tf=1.6, tb=0.7, reference="rloo", draws=64)


class Infinite(torch.nn.Module):
    """Where all is well for the codes that a model is tried with beforehand, but not for all."""

    def forward(self, o):
        return torch.where(o.mean((1, 2, 3), keepdim=True) > 0, torch.inf, o)
