"""gradlab.bias(wrt="encoder", moments="exact") against draws, and against a loop over codes."""

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, moments

from . import problems
from .test_encoder_bias import exact_of, gradients_of


def measured(problem, **options):
    return gradlab.bias(problem.model, problem.x, **{"tf": 1.6, "tb": 0.8, "wrt": "encoder"} | options)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("estimator", ["ste", "rloo", "decoupled-st-gs"])
def test_figures_are_those_of_the_jacobian_and_the_covariance(name, estimator):
    """Variance of each parameter from all rows of J, one by one: Var G = (1/B^2) sum_b J_b^T C_b J_b."""
    p = problems.make(name)
    ds = measured(p, estimator=estimator, moments="exact", target="both").squeeze()
    setup = problems.setup_of(p.model, p.x)
    (found,) = moments.exact_moments(setup, [estimators.get(estimator).at(1.6, 0.8)], covariance=True)
    mean = gradients_of(p, found.mean[None])
    examples, size = found.covariance.shape[:2]
    basis = torch.eye(examples * size, dtype=torch.float64).reshape(-1, *setup.logits.shape)
    rows = gradients_of(p, basis)  # of the mean over examples: J_b / B
    for target in ("sampled", "model"):
        exact = exact_of(p, 1.6, target)
        for parameter in ds.parameter.values:
            at = ds.sel(parameter=parameter, target=target)
            j = rows[parameter].reshape(examples, size, -1)
            variance = sum(np.einsum("ip,ij,jp->p", j[b], found.covariance[b].numpy(), j[b]) for b in range(examples))
            assert float(at.std_norm) == pytest.approx(np.sqrt(variance.sum()), rel=1e-8)
            bias = np.linalg.norm(mean[parameter][0] - exact[parameter])
            assert float(at.bias_norm) == pytest.approx(bias, rel=1e-7)
            assert float(at.exact_norm) == pytest.approx(np.linalg.norm(exact[parameter]), rel=1e-9)
            assert float(at.relative_bias_low) <= float(at.relative_bias) <= float(at.relative_bias_high)


def test_draws_agree():
    """Within 2.5 half widths of 4,096 draws, some five standard errors: failure rate below 1e-4 over all of them."""
    p = problems.make("3x5-bernoulli-mlp")
    several = ["decoupled-st-gs", "reinmax", "rloo", "st-gs:convention=jang"]
    exact, drawn = (measured(p, estimator=several, **how) for how in ({"moments": "exact"}, {"draws": 4096}))
    for name in ("std_norm", "relative_std", "relative_bias_debiased", "cosine_debiased", "mean_norm_debiased"):
        value, low, high = (drawn[name + end].values for end in ("", "_low", "_high"))
        off = np.abs(value - exact[name].values)
        assert (off <= 2.5 * np.maximum(high - value, value - low) + 1e-9).all(), name


def test_ends_are_of_the_numerical_error():
    p = problems.make("3x5-bernoulli-mlp")
    coarse = measured(p, moments=gradlab.Integrated(tolerance=1e-2)).sel(parameter="all").squeeze()
    with pytest.warns(UserWarning, match="moments: expected a relative numerical error of 1e-08 at most, got 1.7e-06"):
        fine = measured(p, moments=gradlab.Integrated(tolerance=1e-8)).sel(parameter="all").squeeze()
    for name in ("relative_bias", "std_norm", "cosine"):
        assert coarse[f"{name}_low"] <= fine[name] <= coarse[f"{name}_high"]
        assert coarse[f"{name}_high"] - coarse[f"{name}_low"] > fine[f"{name}_high"] - fine[f"{name}_low"]
    assert "replicates" not in coarse
    assert 0 < coarse.mean_numerical_error < 1e-2
    code_only = measured(p, estimator="ste", moments="exact")
    assert (code_only.relative_bias_high == code_only.relative_bias_low).all()


def test_what_has_no_noise_has_no_variance():
    ds = measured(problems.make("3x5-bernoulli-mlp"), estimator="ste-argmax", moments="exact")
    assert (ds.std_norm == 0).all()
    assert (ds.relative_bias > 0).any()


def test_the_kl_term_moves_both_sides_alike():
    p = problems.make("3x5-bernoulli-mlp")
    plain, with_kl = (measured(p, moments="exact", kl=kl) for kl in (False, True))
    np.testing.assert_allclose(with_kl.bias_norm, plain.bias_norm, rtol=1e-7)
    np.testing.assert_allclose(with_kl.std_norm, plain.std_norm, rtol=1e-12)
    assert not np.allclose(with_kl.exact_norm, plain.exact_norm)


def test_it_is_drawn_and_saved(tmp_path):
    ds = measured(problems.make("3x5-bernoulli-mlp"), tb=[0.5, 0.8], moments="exact")
    gradlab.save_results(ds, tmp_path / "exact.h5")
    assert gradlab.open_results(tmp_path / "exact.h5").identical(ds)
    assert gradlab.plots.auto(ds) is not None
    gradlab.report(ds, tmp_path / "exact.html")
