"""Intervals over examples, of the data distribution: against naive formulas, a known population, and their limits."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import gradlab
from gradlab.cautions import cautions
from gradlab.fidelity import reference
from gradlab.metrics import NONE, over_examples, registry
from gradlab.reports.prose import sureness
from gradlab.schema import upgraded

from . import populations
from .problems import make

RATIOS = [name for name in registry.names() if registry.get(name).unit == NONE]
POPULATION = ("_population_low", "_population_high")


@pytest.fixture(scope="module")
def problem():
    return make("3x5-bernoulli-mlp")


@pytest.fixture(scope="module")
def measured(problem):
    return gradlab.bias(problem.model, problem.x, tf=[0.8, 1.6], tb=1.3, draws=90, target="both")


def by_example(ds):
    """Squared norms of the exact gradient e and of the bias d, summed variances v and products c, of each example."""
    g, m = ds.exact_gradient, ds.mean_gradient
    products = g**2 + 0 * m, (m - g) ** 2, ds.std_gradient**2 + 0 * g, m * g, m**2 + 0 * g
    return [of.sum(("latent", "category")).transpose("tf", "target", "tb", "example").values for of in products]


def test_the_relative_bias_is_that_of_the_formula(measured):
    """R^2 = sum d / sum e, u = (d - R^2 e) / mean(e), Var R^2 = var(u) / B, Student's t, the root with its sign."""
    e, d, v, _, _ = (of.reshape(-1, 5) for of in by_example(measured))
    for k, (low, high) in enumerate(zip(*(_ends(measured, "relative_bias_debiased")), strict=True)):
        debiased = d[k] - v[k] / 90
        squared = debiased.sum() / e[k].sum()
        u = (debiased - squared * e[k]) / e[k].mean()
        half = stats.t.ppf(0.975, 4) * u.std(ddof=1) / np.sqrt(5)
        roots = [np.sign(end) * np.sqrt(abs(end)) for end in (squared - half, squared + half)]
        np.testing.assert_allclose([low, high], roots, rtol=1e-6)


def test_the_cosine_is_that_of_the_formula(measured):
    """c / sqrt(M e): u = (c_b / C - M_b / 2M - e_b / 2E) B cosine."""
    e, _, v, c, m = (of.reshape(-1, 5) for of in by_example(measured))
    for k, (low, high) in enumerate(zip(*(_ends(measured, "cosine_debiased")), strict=True)):
        debiased = m[k] - v[k] / 90
        cosine = c[k].sum() / np.sqrt(debiased.sum() * e[k].sum())
        u = 5 * cosine * (c[k] / c[k].sum() - debiased / debiased.sum() / 2 - e[k] / e[k].sum() / 2)
        half = stats.t.ppf(0.975, 4) * u.std(ddof=1) / np.sqrt(5)
        np.testing.assert_allclose([low, high], np.clip([cosine - half, cosine + half], -1, 1), rtol=1e-6)


def _ends(ds, name):
    return [ds[name + end].transpose("tf", "target", "tb").values.ravel() for end in POPULATION]


def test_the_order_of_the_oracle_is_that_of_the_points(measured):
    e, d, *_ = (of.sum(-1).ravel() for of in by_example(measured))
    wanted = measured.relative_bias.transpose("tf", "target", "tb").values.ravel()
    np.testing.assert_allclose(np.sqrt(d / e), wanted, rtol=1e-9)


def test_replicates_are_the_metrics_of_the_other_examples(problem):
    """Without draws, leaving an example out is measuring the others."""
    whole = gradlab.bias(problem.model, problem.x, tf=0.9, tb=[0.5, 2.0], moments="exact")
    for left_out in (0, 3):
        others = np.delete(np.arange(5), left_out)
        wanted = gradlab.bias(problem.model, problem.x[others], tf=0.9, tb=[0.5, 2.0], moments="exact")
        for name in whole.example_metric.values:
            found = whole.example_replicates.sel(example_metric=name, example=left_out)
            np.testing.assert_allclose(found.values, wanted[name].values, rtol=1e-6, err_msg=str(name))


@pytest.mark.parametrize("moments", ["monte-carlo", "exact"])
def test_every_ratio_has_an_interval_around_it(problem, moments):
    ds = gradlab.bias(problem.model, problem.x, tf=[0.5, 1.5], tb=[0.7, 1.3], moments=moments, cross=(0.5, 0.7))
    there = ds.relative_bias.notnull()
    for name in RATIOS:
        low, high = (ds[name + end] for end in POPULATION)
        assert ((low <= ds[name]) & (ds[name] <= high)).values[there.values].all(), name
        assert low.isnull().values[~there.values].all(), name
        assert "data distribution" in low.attrs["long_name"]
        assert low.attrs["units"] == "1"
    assert "Student's t" in ds.attrs["population_intervals"]
    assert not any(name + POPULATION[0] in ds for name in ("std_norm", "bias_norm_debiased"))


def test_the_noise_of_draws_is_in_it(problem):
    """With few draws it is wider than without any, where only the scatter of the examples is left."""
    few = gradlab.bias(problem.model, problem.x, tf=1.0, tb=1.0, draws=256, estimator="rloo")
    none = gradlab.bias(problem.model, problem.x, tf=1.0, tb=1.0, moments="exact", estimator="rloo")
    width = [
        float((ds.cosine_debiased_population_high - ds.cosine_debiased_population_low).squeeze()) for ds in (few, none)
    ]
    assert width[1] < 1e-4 < width[0]  # an unbiased estimator has the cosine 1 at every example


def test_a_sampled_reference_gives_the_same_interval(problem):
    """Ends within a tenth of their distance: 16,384 draws leave them 0.02 of it off."""
    how = {"tf": 1.2, "tb": 0.8, "estimator": "st-gs", "draws": 2**14}
    exact = gradlab.bias(problem.model, problem.x, **how)
    sampled = gradlab.bias(problem.model, problem.x, **how, reference="rloo:n=8")
    for name in ("relative_bias_debiased", "relative_std", "cosine_debiased", "matched_bias_debiased"):
        (low, high), (other_low, other_high) = (
            [float(ds[name + end].squeeze()) for end in POPULATION] for ds in (exact, sampled)
        )
        assert abs(other_low - low) < 0.1 * (high - low), name
        assert abs(other_high - high) < 0.1 * (high - low), name
    np.testing.assert_allclose(sampled.effective_examples, exact.effective_examples, rtol=0.05)


def test_statistics_of_examples_sum_to_those_of_all(problem):
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(32, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    squares = torch.rand(32, 5, generator=generator, dtype=torch.float64)
    estimate, other = (gradlab.sampling.Sums(mean, squares) for mean in batches)
    found = reference.statistics(estimate, other, torch.zeros(5, 3, 4, dtype=torch.float64), 128)
    np.testing.assert_allclose(found.of_examples.sum(-1), found.value)


def test_effective_examples(measured):
    e = by_example(measured)[0]
    wanted = (e.sum(-1) ** 2 / (e**2).sum(-1)).squeeze(-1)
    found = measured.effective_examples.transpose("tf", "target").values
    np.testing.assert_allclose(found, wanted)
    assert (found >= 1).all()
    assert (found <= 5).all()


def test_the_gap_is_that_of_the_formula(problem):
    """Root of sum gap^2 / sum |d|^2, from measurements of one example each, whose noise is that of the same example."""
    ds = gradlab.gap(problem.model, problem.x, 1.2, [0.6, 1.5], draws=40)
    gap = ds.gap_per_example
    low, high = (ds["gap" + end] for end in POPULATION)
    half = stats.t.ppf(0.975, 4) * gap.std("example", ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(low, np.maximum(ds.gap - half, 0), rtol=1e-6)
    np.testing.assert_allclose(high, ds.gap + half, rtol=1e-6)
    squared = {}
    for name in ("squared_gap", "discrete_norm"):
        without = ds.example_replicates.sel(example_metric=name)
        squared[name] = 5 * ds[name] - 4 * without  # a mean: what the example adds
        assert float(abs(squared[name].mean("example") - ds[name]).max()) < 1e-9
    pooled = ds.relative_gap_pooled**2
    ratio = ds.example_replicates.sel(example_metric="relative_gap_pooled") ** 2
    rest = (5 * ds.squared_gap - squared["squared_gap"]) / 4
    discrete = rest / ratio  # mean |d|^2 of the others
    all_discrete = ds.squared_gap / pooled
    u = (squared["squared_gap"] - pooled * (5 * all_discrete - 4 * discrete)) / all_discrete
    half = stats.t.ppf(0.975, 4) * u.std("example", ddof=1) / np.sqrt(5)
    for end, wanted in zip(POPULATION, (pooled - half, pooled + half), strict=True):
        wanted = np.sign(wanted) * np.sqrt(abs(wanted))
        np.testing.assert_allclose(ds[f"relative_gap_pooled{end}"], wanted.clip(0).transpose(*ds.gap.dims), rtol=1e-6)


def test_95_percent_of_the_intervals_hold_the_figure_of_the_population():
    """300 samples of 100 examples, 1,024 draws: at their true rate of 0.93 to 0.94 (2,000 samples) a figure is below
    0.89 with a probability of 0.004. The interval over draws alone holds it in a quarter of them at most."""
    rates = populations.coverage(100, 1024, 300)
    for name in populations.NAMES:
        assert 0.89 <= rates["examples", name] <= 0.98, name
        assert rates["draws", name] < 0.35, name


def test_one_example_has_no_interval_and_a_reason(problem):
    x = problem.x[:1]
    for ds in (
        gradlab.bias(problem.model, x, tf=1.0, tb=1.0, draws=40),
        gradlab.bias(problem.model, x, tf=1.0, tb=1.0, draws=64, reference="rloo"),
        gradlab.bias(problem.model, x, tf=1.0, tb=1.0, moments="exact"),
        gradlab.gap(problem.model, x, 1.0, 1.0, draws=8),
    ):
        ends = [name for name in ds.data_vars if name.endswith(POPULATION)]
        assert len(ends) >= 12
        assert all(ds[name].isnull().all() for name in ends)
        assert ds.attrs["population_intervals"] == "none: one example has no spread"
        if ds.attrs.get("moments") != "exact":
            assert "no interval over examples: one example has no spread." in sureness(ds)


def test_identical_examples_leave_the_noise_of_draws(problem):
    x = problem.x[:1].repeat(6, *[1] * (problem.x.ndim - 1))
    exact = gradlab.bias(problem.model, x, tf=1.0, tb=1.5, moments="exact")
    drawn = gradlab.bias(problem.model, x, tf=1.0, tb=1.5, draws=64)
    for name in RATIOS:
        width = [float((ds[name + POPULATION[1]] - ds[name + POPULATION[0]]).squeeze()) for ds in (exact, drawn)]
        assert width[0] < 1e-6, name
        assert width[1] > 1e-3, name
    np.testing.assert_allclose(exact.effective_examples, 6)
    assert any("All examples give the same values" in line for line in cautions(exact))
    assert not any("All examples" in line for line in cautions(drawn))


def test_the_encoder_has_none_and_says_why(problem):
    ds = gradlab.bias(problem.model, problem.x, tf=1.0, tb=1.0, draws=32, wrt="encoder")
    assert not any(name.endswith(POPULATION) for name in ds.data_vars)
    assert "depends on their number" in ds.attrs["population_intervals"]
    assert "no interval over examples: the norm of a gradient that is a mean" in sureness(ds)


def test_a_bias_of_0_has_ends_of_both_signs(problem):
    """Of 20 seeds 13 % miss 0, as five examples are few and squares skew; more than 8 of 20: probability 4e-4."""
    held = 0
    for seed in range(20):
        ds = gradlab.bias(problem.model, problem.x, tf=1.0, estimator="rloo", draws=32, seed=seed)
        low, high = (ds[f"relative_bias_debiased{end}"].item() for end in POPULATION)
        held += low < 0 < high
    assert held >= 12


class _OneLarge(nn.Module):
    """Makes the first example's loss, and with it its gradient, 1,000 times as steep."""

    def forward(self, parameters, x):
        weight = torch.where(x.flatten(1)[:, :1] > 2, 1000.0, 1.0)
        return (weight * (parameters.flatten(1) - x.flatten(1)) ** 2).mean(1)


def test_one_example_that_carries_everything_is_named(problem):
    x = problem.x.clone()
    x[0] = 3.0
    large = gradlab.LatentModel(
        problem.model.encoder, problem.model.decoder, latents=3, categories=5, likelihood=_OneLarge()
    )
    for ds in (
        gradlab.bias(large, x, tf=1.0, tb=1.0, draws=64),
        gradlab.bias(large, x, tf=1.0, tb=1.0, draws=64, reference="rloo"),
        gradlab.gap(large, x, 1.0, 1.0, draws=64),
    ):
        assert float(ds.effective_examples.max()) < 1.5  # a sampled reference knows it with noise
        assert any("one example carries most" in line for line in cautions(ds))
    for ds in (gradlab.bias(problem.model, problem.x, tf=1.0, tb=1.0, draws=64), gradlab.gap(problem.model, problem.x)):
        assert not any("carries" in line for line in cautions(ds))


def test_one_batch_of_draws_that_carries_the_variance_is_named(measured):
    """The variance without one of 32 batches is a tenth of the whole."""
    rare = measured.copy(deep=True)
    rare.replicates.loc[{"metric": "std_norm", "batch": 3, "tf": 1.6}] = rare.std_norm.sel(tf=1.6) * 0.1**0.5
    (told,) = (line for line in cautions(rare) if "carries" in line)
    assert told.startswith("At tf = 1.6, one batch")
    assert "90% of the variance" in told
    assert not any("carries" in line for line in cautions(measured))


def test_nothing_is_relative_to_a_gradient_of_almost_0(problem):
    collapsed = gradlab.LatentModel(
        _Scaled(problem.model.encoder), problem.model.decoder, latents=3, categories=5, likelihood="bernoulli"
    ).double()
    with pytest.warns(gradlab.cautions.SamplingWarning):
        ds = gradlab.bias(collapsed, problem.x, tf=0.01, tb=1.0, draws=16)
    assert all(ds[name + end].isnull().all() for name in RATIOS for end in POPULATION)


class _Scaled(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return 50 * self.encoder(x)


def test_your_own_metric_has_one(problem, monkeypatch):
    ratio = gradlab.metrics.Metric(
        name="energy", long_name="|m|^2 / |g|^2", unit=NONE, value=lambda p: p.norms.mean / p.norms.exact
    )
    monkeypatch.setattr(registry, "_BIAS", dict(registry._BIAS))
    gradlab.metrics.register(ratio)
    ds = gradlab.bias(problem.model, problem.x, tf=1.0, tb=1.0, draws=64)
    assert ds.energy_population_low.item() < ds.energy.item() < ds.energy_population_high.item()


def test_a_file_keeps_them(measured, tmp_path):
    gradlab.save_results(measured, tmp_path / "a.h5")
    read = gradlab.open_results(tmp_path / "a.h5", trusted=True)
    assert upgraded(read).identical(measured)


def test_effective_of_nothing_is_nothing():
    assert np.isnan(over_examples.effective(np.zeros(3)))
    np.testing.assert_allclose(over_examples.effective(np.array([1e-300, 1e-300, 0.0])), 2.0)


@pytest.mark.deep
def test_the_bundled_images_hold_the_claim_of_the_specification():
    """Ten disjoint sets of 100 of the 1,000 images, seven points: the interval over examples holds the value of all
    1,000 in at least 62 of 70 (at 95 %, and as independent, below 62 has a probability of 0.02; 66 were measured), the
    one over draws in less than half."""
    model = gradlab.bundled("vae-8x4-mnist")
    x = gradlab.datasets.load("mnist-sample", "test").first(1000).floats()
    how = {"tf": [0.6, 1.0, 1.6, 2.4], "tb": [0.6, 1.3, 2.0, 2.7], "cross": (1.6, 1.3), "draws": 1024}
    name = "relative_bias_debiased"
    whole = gradlab.bias(model, x, **how)[name]
    assert int(whole.notnull().sum()) == 7
    held = dict.fromkeys(("", "_population"), 0)
    for start in range(0, 1000, 100):
        ds = gradlab.bias(model, x[start : start + 100], **how, seed=start)
        for over in held:
            inside = (ds[f"{name}{over}_low"] <= whole) & (whole <= ds[f"{name}{over}_high"])
            held[over] += int(inside.sum())
    assert held["_population"] >= 62
    assert held[""] < 35
