"""gradlab.bias(wrt="encoder") against a sampled reference: a plain loop over draws, and the enumerated gradient."""

import itertools

import numpy as np
import pytest
import torch

import gradlab
import gradlab.networks
from gradlab import estimators
from gradlab.fidelity import encoder_gradients

from . import problems
from .test_encoder_bias import draws_of, gradients_of

DRAWS = 96


def measured(problem, **options):
    given = {"tf": 1.6, "tb": 0.5, "draws": DRAWS, "wrt": "encoder", "reference": "rloo"} | options
    return gradlab.bias(problem.model, problem.x, **given)


def products_without_noise(a, b):
    """Mean over all pairs of different batches of the inner products of their means, by a double loop."""
    pairs = [(i, j) for i, j in itertools.product(range(len(a)), repeat=2) if i != j]
    return np.mean([a[i] @ b[j] for i, j in pairs])


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("memory", [None, 40_000])
def test_figures_are_those_of_a_loop_over_draws(name, memory):
    """Also with memory for some of the examples of one draw, and for one row of parameters, at a time."""
    p = problems.make(name)
    ds = measured(p, target="both", compute=gradlab.Compute(memory=memory)).isel(tf=0, tb=0)
    e = gradients_of(p, draws_of(p, estimators.get("decoupled-st-gs", tf=1.6, tb=0.5), DRAWS))
    for target, tf in (("sampled", 1.6), ("model", 1.0)):
        r = gradients_of(p, draws_of(p, estimators.get("rloo", tf=tf), DRAWS))
        for parameter in ds.parameter.values:
            # draw i is in batch i mod 32
            means_e, means_r = (np.stack([of[parameter][b::32].mean(0) for b in range(32)]) for of in (e, r))
            squared = products_without_noise(means_e, means_e) + products_without_noise(means_r, means_r)
            squared -= 2 * products_without_noise(means_e, means_r)
            at = ds.sel(parameter=parameter, target=target)
            assert at.squared_bias_debiased == pytest.approx(squared, rel=1e-8, abs=1e-12)
            exact_norm = products_without_noise(means_r, means_r)
            assert np.sign(at.exact_norm) * at.exact_norm**2 == pytest.approx(exact_norm, rel=1e-8, abs=1e-12)
            within = [np.square(part - part.mean(0)).sum() / (len(part) - 1) for part in
                      (e[parameter][b::32] for b in range(32))]  # fmt: skip
            assert at.std_norm == pytest.approx(np.sqrt(np.mean(within)), rel=1e-8)


def test_figures_agree_with_the_enumerated_gradient():
    """Within 2.5 half widths, some five standard errors: failure rate below 1e-4 over all figures and tensors."""
    p = problems.make("3x5-bernoulli-mlp")
    ds = measured(p, estimator=["decoupled-st-gs", "reinmax"], draws=2048)
    exact = measured(p, estimator=["decoupled-st-gs", "reinmax"], draws=2**16, reference="exact")
    for name in ("exact_norm", "relative_bias_debiased", "relative_std", "cosine_debiased", "mean_norm_debiased"):
        value, low, high = (ds[name + end].values for end in ("", "_low", "_high"))
        off = np.abs(value - exact[name].values)
        assert (off <= 2.5 * np.maximum(high - value, value - low)).all(), name
    assert (ds.resolved.sel(estimator="decoupled-st-gs", parameter="all") == 1).all()  # it can fail


def test_a_reference_against_itself_has_no_bias():
    ds = measured(problems.make("3x5-bernoulli-mlp"), estimator="rloo").squeeze()
    assert (ds.squared_bias_debiased == 0).all()
    assert (ds.resolved == 0).all()


def test_spaces_too_large_to_enumerate_are_measured():
    model = gradlab.networks.build("binary-autoencoder", {"width": 2, "depth": 0}, seed=0)
    x = gradlab.datasets.load("mnist-sample").first(2).floats()
    ds = gradlab.bias(model, x, tf=0.5, tb=[0.5, 3.0], draws=64, wrt="encoder")
    assert ds.attrs["reference"] in ("rloo", "disarm", "arms(n=4)")
    assert np.isfinite(ds.relative_std.sel(parameter="all")).all()
    assert gradlab.plots.auto(ds) is not None


def test_precision_is_that_of_all_tensors_together():
    p = problems.make("3x5-bernoulli-mlp")
    ds = measured(p, draws=64, reference=gradlab.Sampled("rloo", precision=0.1)).sel(parameter="all")
    half = (ds.relative_bias_debiased_high - ds.relative_bias_debiased_low) / 2
    assert (half <= 0.1 * np.maximum(1, ds.relative_bias_debiased)).all()
    assert (ds.draws > 64).all()


@pytest.mark.parametrize("rows", [2, 5, 100])
def test_products_of_all_rows_do_not_depend_on_the_blocks(rows):
    p = problems.make("3x5-bernoulli-mlp")
    pull_back = encoder_gradients.PullBack(p.model, p.x, 2**28)
    pull_back.rows = rows
    vectors = torch.randn(7, *pull_back.logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = gradients_of(p, vectors)
    found = pull_back.gram(vectors)
    for i, name in enumerate(pull_back.names):
        np.testing.assert_allclose(found[..., i], wanted[name] @ wanted[name].T, rtol=1e-9, atol=1e-12)
