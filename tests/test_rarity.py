"""Where sampling cannot see: known from the law beforehand, said in every place, and enumerated where that is cheap."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import plots
from gradlab.cautions import SamplingWarning, cautions
from gradlab.fidelity.rarity import rarity
from gradlab.latents import BINARY, CATEGORICAL
from gradlab.reports.prose import headline

from . import problems


class Table(nn.Module):
    """Logits by the number in an observation's first entry."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x):
        return self.logits[x[:, 0].long()]


def weighted(parameters, x):
    return ((parameters - x[:, 1:]) ** 2 * torch.arange(1.0, 6.0, dtype=x.dtype)).sum(1)


def problem(logits, binary=False):
    """A small decoder under these logits, (example, latent, category) or (example, unit)."""
    size = logits[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 5)).double()
        x = torch.rand(len(logits), 5, dtype=torch.float64)
    latents, categories = (size, 2) if binary else logits.shape[1:]
    model = gradlab.LatentModel(
        Table(logits), decoder, latents=latents, categories=categories, likelihood=weighted, binary=binary
    )
    return model, torch.cat([torch.arange(len(x), dtype=x.dtype)[:, None], x], 1)


def gapped(gap, examples=4, latents=3, categories=4):
    """One category of each latent ahead of the others by about `gap`."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.rand(examples, latents, categories, generator=rng, dtype=torch.float64)
    ahead = torch.randint(categories, (examples, latents, 1), generator=rng)
    return logits.scatter_add(-1, ahead, torch.full_like(logits, gap))


def said(measure, *given, **more):
    """The Dataset, and what was warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ds = measure(*given, **more)
    return ds, [str(w.message) for w in found if issubclass(w.category, SamplingWarning)]


# --- the count ---


def test_categories_of_equal_share_are_counted_together():
    """K - 1 rare categories of L latents in B examples, each of probability p: B L (K - 1) p a draw."""
    logits = torch.zeros(5, 3, 4, dtype=torch.float64)
    logits[..., 0] = 8.0
    p = float(torch.softmax(logits[0, 0], -1)[1])
    found = rarity(CATEGORICAL, logits, [1.0, 2.0])
    assert found.per_draw[0] == pytest.approx(5 * 3 * 3 * p, rel=1e-12)
    np.testing.assert_allclose(found.of_each[0], 3 * 3 * p, rtol=1e-12)
    assert found.per_draw[1] > found.per_draw[0]
    assert not found.certain.any()


def test_what_carries_the_gradient_is_counted():
    """Of two latents, one near-deterministic: the count is that of the one on which the loss depends."""
    logits = torch.tensor([[[12.0, 0.0, -1.0], [0.5, 0.0, 0.2]]], dtype=torch.float64)
    p = torch.softmax(logits, -1)
    for latent, few in ((0, True), (1, False)):
        losses = torch.zeros(1, 2, 3, dtype=torch.float64)
        losses[0, latent] = torch.tensor([1.0, 3.0, -2.0])
        g = CATEGORICAL.pullback(p, losses)
        found = rarity(CATEGORICAL, logits, [1.0], g[None])
        others = p[0, latent][p[0, latent] < p[0, latent].max()]
        assert found.per_draw[0] <= float(others.sum()) + 1e-12
        assert found.per_draw[0] >= float(others.min())
        assert bool(found.unseen(256)[0]) == few


def test_a_unit_is_the_pair_of_categories():
    units = torch.tensor([[7.0, -2.0, 0.3], [9.0, 11.0, -8.0]], dtype=torch.float64)
    pairs = torch.stack([units, torch.zeros_like(units)], -1)
    g = torch.tensor([[0.1, -0.2, 0.7], [1e-3, 2e-4, -1e-3]], dtype=torch.float64)
    one = rarity(BINARY, units, [0.7], g[None])
    other = rarity(CATEGORICAL, pairs, [0.7], torch.stack([g, -g], -1)[None])
    for name in ("per_draw", "of_each", "certain"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name))


def test_a_loss_that_does_not_depend_on_the_code_is_no_near_determinism():
    logits = torch.zeros(2, 3, 4, dtype=torch.float64)
    assert not rarity(CATEGORICAL, logits, [1.0], torch.zeros(1, 2, 3, 4).double()).unseen(64).any()


@pytest.mark.parametrize("gap", [40.0, 800.0, 1e6])
def test_certain_codes_are_certain_however_far_ahead(gap):
    found = rarity(CATEGORICAL, gapped(gap), [1.0], torch.zeros(1, 4, 3, 4).double())
    assert found.nothing_left.all()
    assert found.unseen(1e6).all()
    assert np.isfinite(found.per_draw).all()


def test_ordinary_models_are_not_warned_of():
    p = problems.make("3x5-bernoulli-mlp")
    for draws in (2, 8, 64):
        ds, warned = said(gradlab.bias, p.model, p.x, 1.0, estimator=["ste", "decoupled-st-gs"], draws=draws)
        assert not warned
        assert not cautions(ds)
        assert (ds.unseen == 0).all()
        assert "enumerated" not in ds
        assert (ds.expected_count > 3 * draws).all()


# --- near-deterministic: enumerated where the estimate is a function of the code, warned of elsewhere ---


def test_moments_of_code_only_estimators_are_enumerated_where_draws_would_miss_them():
    """256 draws of gaps of 16 show one code: the figure had no width, and was wrong."""
    model, x = problem(gapped(16.0))
    given = {"tf": [0.5, 1.0, 8.0], "tb": 1.3, "estimator": ["reinmax", "decoupled-st-gs"], "draws": 256}
    ds, warned = said(gradlab.bias, model, x, **given)
    exact, _ = said(gradlab.bias, model, x, **given | {"moments": "exact", "draws": None, "estimator": ["reinmax"]})
    found = ds.sel(estimator="reinmax")
    assert found.enumerated.values.ravel().tolist() == [1, 1, 0]
    for name in ("mean_gradient", "std_gradient", "relative_bias_debiased", "relative_std", "cosine", "bias_norm_low"):
        wanted = exact[name].sel(estimator="reinmax", tf=[0.5, 1.0])
        np.testing.assert_allclose(found[name].sel(tf=[0.5, 1.0]), wanted, rtol=1e-9, err_msg=name)
    assert (found.relative_std.sel(tf=[0.5, 1.0]) > 10).all()
    # and stands for its replicates: a difference to a point that is drawn has that one's interval
    for name in ("relative_bias_debiased", "std_norm"):
        assert (found.replicates.sel(metric=name, tf=1.0) == found[name].sel(tf=1.0)).all()
    assert ds.attrs["moments_enumerated"] == "reinmax at tf = 0.5, 1"
    assert any("moments of reinmax are enumerated" in line for line in cautions(ds))
    # at tf = 0.5 all is certain to 1e-13, at 1.0 to 1e-6
    certain, rare = warned
    assert certain.startswith("At tf = 0.5, 4 of 4 examples have every code certain: relative metrics have no meaning")
    assert rare.startswith("At tf = 1, 4 of 4 examples are near-deterministic: in")
    assert "in 256 draws" in rare
    assert "use moments='exact'" in rare
    assert "a larger tf" in rare


def test_equal_cost_divides_enumerated_variances_too():
    model, x = problem(gapped(14.0))
    given = {"tf": 1.0, "tb": 1.0, "estimator": ["reinmax", "rloo"]}
    equal, plain = (
        said(gradlab.bias, model, x, **given, moments=gradlab.MonteCarlo(draws=64, equal_cost=on))[0]
        for on in (True, False)
    )
    ratio = (plain.std_norm / equal.std_norm).sel(estimator="reinmax").item() ** 2
    assert ratio == pytest.approx(2.0)  # rloo evaluates two losses
    assert equal.mean_norm.sel(estimator="reinmax") == plain.mean_norm.sel(estimator="reinmax")


def test_more_configurations_than_few_are_drawn(monkeypatch):
    from gradlab.fidelity import enumerated_analysis

    monkeypatch.setattr(enumerated_analysis, "FEW_CONFIGURATIONS", 63)
    model, x = problem(gapped(16.0))
    ds, warned = said(gradlab.bias, model, x, estimator="reinmax", draws=64)
    assert "enumerated" not in ds
    assert ds.unseen.item() == 1
    assert len(warned) == 1


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("given", [{}, {"reference": "rloo"}, {"wrt": "encoder"}, {"target": "model"}])
def test_near_determinism_is_said_on_every_route(binary, given):
    logits = torch.tensor([[14.0, -15.0, 16.0], [-17.0, 14.0, 15.0]]).double() if binary else gapped(16.0)
    model, x = problem(logits, binary)
    ds, (warning,) = said(gradlab.bias, model, x, draws=64, **given)
    assert f"{len(x)} of {len(x)} examples are near-deterministic" in warning
    assert (ds.unseen == 1).all()
    assert (ds.rare_examples == len(x)).all()
    assert ("moments='exact'" in warning) == (not {"reference", "wrt"} & set(given))
    assert warning in cautions(ds)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "given", [{}, {"reference": "rloo"}, {"reference": gradlab.Sampled("rloo", precision=0.1)}, {"wrt": "encoder"}]
)
def test_collapse_is_named_in_place_of_figures(binary, given, tmp_path):
    logits = 60 * torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]]).double() if binary else gapped(60.0)
    model, x = problem(logits, binary)
    ds, (warning,) = said(gradlab.bias, model, x, draws=64, **given)
    words = f"At tf = 1, {len(x)} of {len(x)} examples have every code certain: relative metrics have no meaning"
    assert warning.startswith(words)
    assert headline(ds).startswith(words)
    for name in ("relative_bias_debiased", "relative_std", "cosine_debiased", "matched_bias_debiased"):
        for end in ("", "_low", "_high"):
            assert ds[name + end].isnull().all()
    assert np.isfinite(ds.bias_norm_debiased).all()
    if "reference" in given:
        assert ds.resolved.item() == 0
        assert ds.draws.item() == 64  # more would tell no more
    gradlab.save_results(ds, tmp_path / "r.h5")
    assert cautions(gradlab.open_results(tmp_path / "r.h5")) == cautions(ds)


def test_a_resolved_bias_never_stands_beside_what_is_not_known():
    """A straight-through estimate that is the same at each draw, against a reference that is 0 at each."""
    model, x = problem(gapped(16.0))
    ds, _ = said(gradlab.bias, model, x, estimator="ste", tb=8.0, draws=64, reference="rloo")
    assert ds.bias_norm_debiased_low.item() > 0
    assert ds.relative_bias_debiased.isnull().item()
    assert ds.resolved.item() == 0


def test_the_gap_says_it_too():
    for gap, words in ((16.0, "what carries the gap is expected"), (60.0, "have every code certain")):
        model, x = problem(gapped(gap))
        ds, (warning,) = said(gradlab.gap, model, x, 1.0, [1.0, 2.0], draws=64)
        assert "4 of 4 examples" in warning
        assert words in warning
        assert cautions(ds) == [warning]
    assert not said(gradlab.gap, *problem(gapped(1.0)), 1.0, draws=64)[1]


@pytest.mark.parametrize("tf", [1.0, [1.0, 2.0]])
def test_a_gap_of_0_everywhere_is_shown_and_reported(tf, tmp_path):
    """Nothing is relative to it: `show` and `report` ended with numpy's "argmin of an empty sequence"."""
    ds, _ = said(gradlab.gap, *problem(gapped(1e6)), tf, draws=16)
    assert ds.relative_gap.isnull().all()
    assert headline(ds).startswith("Gap over ")
    assert "nan" not in headline(ds)
    gradlab.report(ds, tmp_path / "page.html")


def test_half_of_the_examples_are_enough_for_the_gap_which_is_a_mean_over_them():
    for few, count in ((gapped(16.0, examples=1), 0), (gapped(16.0, examples=4), 1)):
        model, x = problem(torch.cat([few, gapped(1.0)]))
        ds, warned = said(gradlab.gap, model, x, 1.0, draws=64)
        assert len(warned) == count
        assert (ds.rare_examples == len(few)).all()


def test_of_a_mixture_the_rare_examples_are_counted_and_the_rest_carries_the_figures():
    logits = torch.cat([gapped(30.0), gapped(1.0)])
    model, x = problem(logits)
    ds, warned = said(gradlab.bias, model, x, draws=256)
    assert not warned
    assert (ds.rare_examples.item(), ds.certain_examples.item(), ds.unseen.item()) == (4, 4, 0)
    truth = gradlab.bias(model, x, moments="exact")
    for name in ("relative_bias_debiased", "relative_std"):
        off = abs(ds[name] - truth[name]).item()
        assert off < 2 * (ds[f"{name}_high"] - ds[f"{name}_low"]).item()  # some 8 standard errors


# --- where it is read ---


def test_show_json_report_and_figure_say_it(run, tmp_path):
    model, x = problem(gapped(16.0))
    ds, (warning,) = said(gradlab.bias, model, x, tf=1.0, tb=1.3, draws=64)
    gradlab.save_results(ds, "near.h5")
    shown = run("show", "near.h5")
    assert "4 of 4 examples are near-deterministic" in " ".join(shown.out.split())
    told = json.loads(run("show", "near.h5", "--json").out)
    assert told["cautions"] == [warning]
    assert told["points"][0]["metrics"]["unseen"] == {"value": 1.0}
    run("report", "near.h5", "--out", "page.html")
    assert "4 of 4 examples are near-deterministic" in (tmp_path / "page.html").read_text()
    caption = " ".join(plots.caption_of(plots.auto(ds)).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "4 of 4 examples are near-deterministic" in caption


def test_checkpoints_joined_say_it_of_any():
    from gradlab.results import join_checkpoints

    both = [said(gradlab.bias, *problem(gapped(gap)), tf=1.0, draws=64)[0] for gap in (1.0, 16.0)]
    joined = join_checkpoints([ds.assign_attrs(checkpoint=f"{k}.safetensors") for k, ds in enumerate(both)])
    assert any("4 of 4 examples are near-deterministic" in line for line in cautions(joined))


def test_a_negative_interval_is_worded_as_what_it_is():
    p = problems.make("3x5-bernoulli-mlp")
    ds = gradlab.bias(p.model, p.x, draws=64)
    for end, value in (("", -0.3), ("_low", -0.4), ("_high", -0.1)):
        ds[f"relative_bias_debiased{end}"][:] = value
    assert "its square is estimated below 0, which sampling noise alone does: no bias resolved" in headline(ds)
    (caution,) = cautions(ds)
    assert caution.startswith("Relative bias: the whole interval is below 0.")
    assert "not resolved from 0" in caution
