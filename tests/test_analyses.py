"""Changes between points and verdicts on trends."""

import itertools

import numpy as np
import pytest
import xarray as xr
from gradlab.analyses import figure5_gradient_gap, figure6_bias_variance, verdicts

import gradlab
from gradlab import metrics
from gradlab.fidelity import differences
from gradlab.sampling import batch_bounds

from . import problems


def planted(values, noise, seed=0, draws=640):
    """A Dataset whose figure is `values` along tb, measured as the mean of draws with a common and an own part."""
    rng = np.random.default_rng(seed)
    e = values + noise * rng.normal(size=(draws, 1)) + 0.1 * noise * rng.normal(size=(draws, len(values)))
    bounds = batch_bounds(draws)
    without = [np.delete(e, np.s_[a:b], 0).mean(0) for a, b in itertools.pairwise(bounds)]
    return xr.Dataset(
        {
            "mean_norm": (("tf", "tb"), e.mean(0)[None]),
            "replicates": (("metric", "batch", "tf", "tb"), np.array(without)[None, :, None]),
        },
        {"metric": ["mean_norm"], "tf": [1.6], "tb": 0.5 * np.arange(1, len(values) + 1)},
        {"draws": draws},
    )


def judge(values, noise=0.5, falls=True):
    ds = planted(np.array(values, float), noise)
    return verdicts.trend(ds, "claim", "mean_norm", "tb", {"tf": 1.6}, falls, {})


def test_change_uses_the_common_noise():
    """The common part of the noise, ten times the own one, cancels; coverage of the truth over 200 seeds is
    0.95 +- 0.015, 0.89 is 4 of these off."""
    inside, widths = [], []
    for seed in range(200):
        found = differences.change(planted(np.array([1.0, 3.0]), 1.0, seed), "mean_norm", {"tb": 0.5}, {"tb": 1.0})
        inside.append(found.low <= 2.0 <= found.high)
        widths.append(found.high - found.low)
    assert 0.89 <= np.mean(inside) <= 0.99
    assert np.mean(widths) == pytest.approx(4 * 0.1 * np.sqrt(2 / 640), rel=0.1)


def test_change_wants_every_dim_fixed_and_a_known_figure():
    ds = planted(np.array([1.0, 3.0]), 1.0)
    with pytest.raises(ValueError, match="mean_norm"):
        differences.change(ds, "mean_nrm", {"tb": 0.5}, {"tb": 1.0})
    with pytest.raises(ValueError, match="expected one point each"):
        differences.change(ds, "mean_norm", {"tf": 1.6}, {"tf": 1.6})


def test_verdicts():
    assert judge([4, 3, 2, 1]).verdict == "supported"
    assert judge([1, 2, 3, 4]).verdict == "contradicted"
    assert judge([1, 2, 3, 4], falls=False).verdict == "supported"
    turn = judge([4, 2, 1, 2, 3])
    assert turn.verdict == "contradicted"
    assert turn.against == [(1.5, 2.0), (2.0, 2.5)]
    assert turn.words == "contradicted: goes the other way from 1.5 to 2.5"
    assert turn.lowest_at == 1.5
    assert judge([1, 1, 1, 1]).verdict == "undetermined"


def test_a_single_noisy_step_is_no_contradiction():
    assert judge([4, 3, 3.001, 1], noise=2.0).verdict == "supported"


def test_a_valley_whose_steps_are_not_resolved_is_not_supported():
    """Six steps up, each 1.2 standard errors. Judged step by step this was supported in 206 of 300 seeds."""
    valley = [verdicts_of_noise([4, 3, 2, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], seed) for seed in range(25)]
    assert "supported" not in valley


def test_a_fall_is_supported_despite_noise_and_a_flat_end_where_it_is_known_well_enough():
    assert {verdicts_of_noise([4, 3.2, 2.4, 1.6, 0.8], seed) for seed in range(10)} == {"supported"}
    flat = [4, 3, 1, 1, 1]
    assert verdicts_of_noise(flat, 0, noise=3.0) == "supported"  # changes against it are below 5 % of 4
    assert verdicts_of_noise(flat, 0, noise=15.0) == "undetermined"


def verdicts_of_noise(values, seed, noise=15.0):
    ds = planted(np.array(values, float), noise, seed)
    return verdicts.trend(ds, "claim", "mean_norm", "tb", {"tf": 1.6}, True, {}).verdict


def test_intervals_of_all_pairs_hold_together():
    """Four equal values: of 150 samples 95 % have no resolved pair; below 0.88 has a probability of 4e-4. Intervals of
    95 % each would hold together in some 80 %."""
    none = 0
    for seed in range(150):
        ds = planted(np.ones(4), 1.0, seed)
        found = differences.all_changes(ds, "mean_norm", [{"tb": t} for t in ds.tb.values])
        assert len(found) == 6
        none += all(one.sign == 0 for one in found.values())
    assert 0.88 <= none / 150 <= 0.99


def test_over_examples_a_change_is_wider_and_verdicts_use_it():
    problem = problems.make("3x5-bernoulli-mlp")
    ds = gradlab.bias(problem.model, problem.x, tf=[0.5, 1.5], tb=1.0, draws=2048)
    ends = {"tf": 0.5}, {"tf": 1.5}
    over = {by: differences.change(ds, "relative_std", *ends, over=by) for by in differences.OVER}
    assert over["draws"].value == over["examples"].value
    assert over["examples"].high - over["examples"].low > 2 * (over["draws"].high - over["draws"].low)
    judged = verdicts.trend(ds, "claim", "relative_std", "tf", {"tb": 1.0}, False, {})
    assert judged.over == "examples"
    assert judged.whole == over["examples"]
    with pytest.raises(ValueError, match=r"over: unknown name .images.; known: draws, examples"):
        differences.change(ds, "relative_std", *ends, over="images")
    with pytest.raises(ValueError, match="over: expected results with example_replicates"):
        differences.change(ds.drop_vars("example_replicates"), "relative_std", *ends, over="examples")


def test_figure6_measures_the_cross_and_judges_every_claim(monkeypatch):
    monkeypatch.setattr(figure6_bias_variance, "TEMPERATURES", [0.5, 3.0])
    problem = problems.make("3x5-bernoulli-mlp")
    ds = figure6_bias_variance.cross(problem.model, problem.x, draws=64)
    assert int(np.isfinite(ds.relative_bias.sel(target="model")).sum()) == 5
    found = figure6_bias_variance.Figure6().judge(ds)
    assert {v.claim[:3] for v in found} == {"(b)", "(c)", "(d)", "(e)"}
    assert len(found) == 18
    first = found[0]
    line = ds.relative_bias_debiased.sel(target="sampled", tf=1.6)
    assert first.whole.value == pytest.approx(float(line.sel(tb=3.0) - line.sel(tb=0.5)))
    assert set(metrics.names()) >= {v.figure for v in found}
    assert isinstance(gradlab.__version__, str)
    assert first.which == {"target": "sampled"}


def test_figure5_measures_the_grid_and_judges_the_claim_raw_and_relative(monkeypatch):
    monkeypatch.setattr(figure5_gradient_gap, "TB", [0.5, 1.0, 8.0])
    monkeypatch.setattr(figure5_gradient_gap, "TF", [0.3, 1.5, 3.0])
    problem = problems.make("binary6-bernoulli-mlp")
    ds = figure5_gradient_gap.grid(problem.model, problem.x, draws=64)
    assert ds.gap.shape == (2, 3, 3)
    found = figure5_gradient_gap.Figure5().judge(ds)
    assert len(found) == 3 * 2 * 3
    assert {v.figure for v in found} == {"gap", "relative_gap_pooled", "cosine"}
    one = next(v for v in found if v.figure == "cosine" and v.which == {"definition": "autodiff", "tf": "1.5"})
    line = ds.cosine.sel(definition="autodiff", tf=1.5)
    assert one.whole.value == pytest.approx(float(line.sel(tb=8.0) - line.sel(tb=0.5)))
    # a fall of the cosine is against the claim
    assert one.verdict == ("contradicted" if one.whole.high < 0 else one.verdict)
    raw = [v for v in found if v.figure == "gap" and v.which["definition"] == "shared-backward"]
    assert all(v.whole.high < 0 for v in raw)  # the 1/tb that the raw gap carries
    assert figure5_gradient_gap.Figure5().draw(ds).axes
