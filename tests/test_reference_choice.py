"""Which reference is taken, and how many draws a precision asked for takes."""

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, networks
from gradlab.fidelity import reference
from gradlab.fidelity.reference import StoppingRule, rounded
from gradlab.fidelity.request import candidates, candidates_at

from . import problems

# --- the goal ---


def test_draws_are_added_until_the_interval_is_as_asked():
    p = problems.make("3x5-bernoulli-mlp")
    given = {"tf": [0.7, 1.6], "tb": [0.7, 1.3], "draws": 64}
    ds = gradlab.bias(p.model, p.x, **given, reference=gradlab.Sampled("rloo", precision=0.08))
    half = (ds.relative_bias_debiased_high - ds.relative_bias_debiased_low) / 2
    assert (half <= 0.08 * np.maximum(1, ds.relative_bias_debiased)).all()
    assert (ds.draws > 64).all()
    assert (ds.draws % 32 == 0).all()
    assert ds.attrs["precision"] == 0.08
    assert ds.attrs["draws"] == ds.draws.min()
    assert f"{int(ds.draws.max()):,} draws" in gradlab.plots.caption_of(gradlab.plots.auto(ds))
    alone = gradlab.bias(p.model, p.x, tf=0.7, tb=0.7, reference="rloo", draws=int(ds.draws.sel(tf=0.7, tb=0.7)))
    assert alone.cosine.item() == pytest.approx(ds.cosine.sel(tf=0.7, tb=0.7).item(), rel=1e-9)


def test_what_cannot_be_had_is_said():
    p = problems.make("3x5-bernoulli-mlp")
    with pytest.warns(UserWarning, match=r"precision: 1 of 1 points have wider intervals .* raise max_draws"):
        ds = gradlab.bias(
            p.model, p.x, tf=1.6, tb=0.7, draws=64, reference=gradlab.Sampled("rloo", precision=1e-4, max_draws=300)
        )
    assert ds.draws.item() == 288  # whole batches
    assert ds.attrs["max_draws"] == 300


def test_goals_grow_by_what_is_missed():
    rule = StoppingRule(64, 0.1, 10_000)
    assert rule.next(1000, 0.9) == 1000
    assert rule.next(1000, 1.01) == rounded(1500)
    assert rule.next(1000, 2.0) == rounded(2829)
    assert rule.next(1000, np.inf) == rounded(4000)
    assert rule.next(9000, 2.0) == 9984
    assert rule.next(10_000, 2.0) == 10_000
    assert [rounded(d) for d in (2, 64, 65, 1000)] == [64, 64, 96, 1024]


# --- the reference ---


@pytest.mark.parametrize(
    ("name", "spec"),
    [("3x5-bernoulli-mlp", "rloo"), ("binary6-bernoulli-mlp", "disarm"), ("binary6-bernoulli-mlp", "arms:n=4")],
)
def test_the_reference_itself_has_no_bias(name, spec):
    """Nor what rounding would leave of it; its variance is that which it has against another."""
    p = problems.make(name)
    given = {"tf": 0.7, "draws": 128, "estimator": estimators.parse(spec)}
    ds = gradlab.bias(p.model, p.x, reference=spec, **given).squeeze()
    for end in ("", "_low", "_high"):
        assert ds[f"squared_bias_debiased{end}"].item() == 0
        assert abs(ds[f"relative_bias_debiased{end}"].item()) < 1e-7
    assert ds.resolved.item() == 0
    assert ds.cosine.item() == pytest.approx(1, abs=1e-12)
    other = gradlab.bias(p.model, p.x, reference="rloo:n=3", **given).squeeze()
    assert ds.std_norm.item() == pytest.approx(other.std_norm.item(), rel=1e-6)


def test_the_reference_of_smallest_variance_is_taken(monkeypatch):
    p = problems.make("binary6-bernoulli-mlp")
    assert [e.name for e in candidates(p.model.kind)] == ["rloo", "disarm", "arms"]
    setup, among = problems.setup_of(p.model, p.x), candidates(p.model.kind)
    best, over = reference.choose(setup, [0.7, 1.6], among)
    assert over[best.label] == 1.0 == min(over.values())
    # that of a long run, by the variances of 4,000 draws at equal loss evaluations
    monkeypatch.setattr(reference, "PILOT", 4000)
    assert reference.choose(setup, [0.7, 1.6], among)[0] == best


def test_leg_is_a_candidate_where_a_precision_is_asked_and_a_draw_is_affordable():
    p = problems.make("3x5-bernoulli-mlp")
    logits = problems.setup_of(p.model, p.x).logits

    def names(logits, **asked):
        return [e.name for e in candidates_at(p.model.kind, logits, gradlab.Sampled(**asked))]

    assert names(logits) == ["rloo"]
    assert names(logits, precision=0.1) == ["rloo", "leg"]
    assert names(logits.new_zeros(1, 255, 2), precision=0.1) == ["rloo", "leg"]
    assert names(logits.new_zeros(1, 256, 2), precision=0.1) == ["rloo"]


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "8x4-bernoulli-mlp", "2x7-gaussian-conv"])
def test_the_choice_between_rloo_and_leg_is_that_of_a_long_run(name):
    p = problems.make(name)
    setup = problems.setup_of(p.model, p.x)
    among = candidates_at(p.model.kind, setup.logits, gradlab.Sampled(precision=0.1))
    best, _ = reference.choose(setup, [1.0], among)
    std = gradlab.bias(p.model, p.x, tf=1.0, estimator=among, draws=2000, seed=5).relative_std.squeeze().values
    costs = [e.evaluations_at(p.model.kind, setup.logits) * s**2 for e, s in zip(among, std, strict=True)]
    assert best == among[int(np.argmin(costs))]
    assert max(costs) > 1.2 * min(costs)  # far more than what 64 draws leave open


def test_leg_serves_as_a_reference():
    p = problems.make("3x5-bernoulli-mlp")
    given = {"tf": 1.4, "tb": 0.7, "draws": 512, "estimator": "decoupled-st-gs"}
    found = gradlab.bias(p.model, p.x, **given, reference="leg").squeeze()
    exact = gradlab.bias(p.model, p.x, **given).squeeze()
    assert found.attrs["reference"] == "leg"
    # the 95 % interval holds the value of the exact gradient, whose own noise is part of it
    assert found.relative_bias_debiased_low <= exact.relative_bias_debiased <= found.relative_bias_debiased_high


def test_large_spaces_take_a_reference_by_themselves():
    model = networks.build("categorical-vae", {"latents": 12, "categories": 16, "hidden": [8]}, seed=0)
    ds = gradlab.bias(model, torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)), draws=64)
    assert ds.attrs["reference"] == "rloo"
    assert "exact_gradient" not in ds
    small = problems.make("3x5-bernoulli-mlp")
    assert gradlab.bias(small.model, small.x, draws=64).attrs["reference"] == "exact"
    assert gradlab.bias(small.model, small.x, draws=64, reference=gradlab.Sampled()).attrs["reference"] == "rloo"
