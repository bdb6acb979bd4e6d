"""Bias against an unbiased reference: U-statistics, figures, draws, the goal, and what it says where it cannot tell."""

import itertools

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, networks
from gradlab.fidelity import inversion, reference, reference_metrics
from gradlab.fidelity.differences import change
from gradlab.fidelity.reference import StoppingRule, rounded
from gradlab.fidelity.request import candidates, candidates_at
from gradlab.fidelity.u_statistics import u_statistics
from gradlab.metrics import registry, routes
from gradlab.sampling import Noise, PairedDraws
from gradlab.setup import encode

from . import problems

# --- U-statistics, against the loops that define them ---

METRICS = reference_metrics.metrics()


def kernels(rng, batches=6, groups=3, means=0.3, coordinates=5):
    """Batch means e, r (batch, group, coordinate), and the kernels of <e, e>, <e, r>, and a mean of squares."""
    e, r = (means + rng.normal(size=(batches, groups, coordinates)) for _ in range(2))
    ee, er = np.einsum("bgi,cgi->gbc", e, e), np.einsum("bgi,cgi->gbc", e, r)
    s = np.square(e).sum(-1).T
    return e, r, np.stack([ee, (er + er.transpose(0, 2, 1)) / 2, (s[:, :, None] + s[:, None, :]) / 2])


def test_values_are_means_over_pairs_of_batches():
    e, r, k = kernels(np.random.default_rng(0))
    of = u_statistics(k)
    pairs = list(itertools.permutations(range(6), 2))
    assert of.value[0] == pytest.approx(np.mean([(e[b] * e[c]).sum() for b, c in pairs]), rel=1e-12)
    assert of.value[1] == pytest.approx(np.mean([(e[b] * r[c]).sum() for b, c in pairs]), rel=1e-12)
    assert of.value[2] == pytest.approx(np.square(e).sum((1, 2)).mean(), rel=1e-12)
    for gone in range(6):
        left = [(b, c) for b, c in pairs if gone not in (b, c)]
        assert of.without[gone, 1] == pytest.approx(np.mean([(e[b] * r[c]).sum() for b, c in left]), rel=1e-12)


@pytest.mark.parametrize("means", [0.0, 0.2])
def test_variances_are_unbiased_where_the_jackknife_is_not(means):
    """Over 4,000 repetitions: the standard error of the mean variance is some 1 %, that of a variance 2.2 %."""
    rng = np.random.default_rng(1)
    found = [u_statistics(kernels(rng, batches=8, groups=4, means=means)[2]) for _ in range(4000)]
    values = np.array([of.value for of in found])
    # linear and quadratic part without the clip at 0
    estimated = np.mean([np.diag((of.linear + of.quadratic).sum(0)) for of in found], 0)
    assert estimated == pytest.approx(values.var(0), rel=0.12)
    if means == 0:  # the quadratic part is all there is: the jackknife gives twice the variance of <e, e>
        jackknife = np.mean([7 / 8 * np.square(of.without - of.without.mean(0)).sum(0) for of in found], 0)
        assert jackknife[0] > 1.7 * values.var(0)[0]


def statistics_of(means, noise, seed=5):
    """U-statistics of 12 batches of estimate and reference about these means, (2, group, coordinate)."""
    e, r = np.random.default_rng(seed).normal(size=(2, 12, 3, 40))
    e, r = means[0] + noise * e, means[1] + noise * r
    ee, er, rr = (np.einsum("bgi,cgi->gbc", *pair) for pair in ((e, e), (e, r), (r, r)))
    s = np.ones((3, 12))
    kernels = np.stack([ee, (er + er.transpose(0, 2, 1)) / 2, rr, (s[:, :, None] + s[:, None, :]) / 2])
    return u_statistics(kernels)


def test_ends_are_where_the_test_rejects():
    """Of the ratio <e, r> / <e, e>, with the variance at the value that is tested, by the formula."""
    one, other = np.random.default_rng(0).normal(size=(2, 3, 40))
    of = statistics_of([one, one + 0.5 * other], noise=1.0)
    found = reference_metrics._estimated(of)
    low, high = inversion.ratio(found, inversion.ALONG, inversion.MEAN)
    along, mean = found.value[inversion.ALONG], found.value[inversion.MEAN]
    assert low < along / mean < high
    k = [inversion.ALONG, inversion.MEAN]
    linear, quadratic = (part[np.ix_(k, k)] for part in (found.linear, found.quadratic))
    t = found.quantile(np.array([0, -along / mean, 1.0, 0, 0, 0]))
    for rho in (low, high):
        weights = np.array([1, -rho * np.sqrt(along / rho / found.raw[inversion.MEAN])])
        plain = np.array([1, -rho])
        variance = weights @ linear @ weights + max(plain @ quadratic @ plain, 0)
        assert abs(along - rho * mean) == pytest.approx(t * np.sqrt(variance), rel=1e-4)


def test_a_ratio_over_what_may_be_0_has_no_ends():
    """<r, r> is noise alone: neither |g| nor anything over it is known."""
    means = np.stack([np.ones((3, 40)), np.zeros((3, 40))])
    for seed in range(5):
        of = statistics_of(means, 3.0, seed)
        found = reference_metrics.intervals(of, METRICS)
        assert found["exact_norm"][1] < 0 < found["exact_norm"][2]
        assert found["relative_bias_debiased"][2] == np.inf
        assert found["cosine"][1:] == (-1, 1) or found["cosine"][1] < 0 < found["cosine"][2]


def test_every_metric_is_the_definition_at_moments_without_noise():
    rng = np.random.default_rng(6)
    e, g, variance = rng.normal(size=7), rng.normal(size=7), 3.7
    products = routes.products_of(g, e[None], np.array([[variance]]), np.inf)
    exact = routes.values(registry.of_analysis("bias"), products)
    found = reference_metrics.values(np.array([e @ e, e @ g, g @ g, variance]), METRICS)
    for name in set(METRICS) - {"exact_norm"}:
        assert found[name] == pytest.approx(exact[name][0], rel=1e-12), name
    assert found["exact_norm"] == pytest.approx(np.linalg.norm(g))


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


# --- intervals hold at their rate ---


@pytest.mark.parametrize("scale", [0.0, pytest.param(0.1, marks=pytest.mark.deep), 0.5])
def test_intervals_of_squares_and_ratios_cover_at_their_rate(scale):
    """1,000 repetitions, of 20 groups: 95 % within 2.5 % but for once in 3,000, 3 % more for being wide near 0."""
    rng = np.random.default_rng(8)
    mean_e, mean_r = scale * np.linspace(-1, 2, 100).reshape(20, 5), np.full((20, 5), 0.5)
    held = []
    for _ in range(1000):
        shared = rng.normal(size=(16, 20, 5))
        e, r = mean_e + shared, mean_r + 0.5 * shared + rng.normal(size=(16, 20, 5))
        ee, er, rr = (np.einsum("bgi,cgi->gbc", *pair) for pair in ((e, e), (e, r), (r, r)))
        nothing = np.zeros_like(ee)
        of = u_statistics(np.stack([ee, (er + er.transpose(0, 2, 1)) / 2, rr, nothing]))
        found = reference_metrics._estimated(of)
        norm, ratio = (
            inversion.squared_norm(found, inversion.MEAN),
            inversion.ratio(found, inversion.MEAN, inversion.EXACT),
        )
        low, high = zip(norm, ratio, strict=True)
        truth = np.array([(mean_e**2).sum(), (mean_e**2).sum() / (mean_r**2).sum()])
        held.append((low <= truth) & (truth <= high))
    rates = np.mean(held, 0)
    assert ((rates >= 0.925) & (rates <= 0.985)).all(), rates


def covered(problem, truth, seeds, estimator="decoupled-st-gs", **given):
    """Share of seeds whose interval of relative_bias_debiased holds the truth, and whose bias is resolved."""
    held, resolved = [], []
    for seed in range(seeds):
        ds = gradlab.bias(problem.model, problem.x, seed=seed, estimator=estimator, **given).squeeze()
        held.append(float(ds.relative_bias_debiased_low) <= truth <= float(ds.relative_bias_debiased_high))
        resolved.append(bool(ds.resolved))
    return np.mean(held), np.mean(resolved)


@pytest.mark.parametrize(
    ("estimator", "seeds", "held", "least", "most"),
    [("decoupled-st-gs", 25, 0.8, 0.9, 1.0), pytest.param("reinforce", 100, 0.88, 0.0, 0.08, marks=pytest.mark.deep)],
)
def test_a_bias_is_resolved_and_no_bias_is_not(estimator, seeds, held, least, most):
    """Intervals of 95 %: of 25, six or more miss the bias once in 800 times; of 100, thirteen or more once in 700.

    Without a bias, 2.5 % are above 0: of 100, more than 8 once in 1,000 times.
    """
    p = problems.make("3x5-bernoulli-mlp")
    exact = gradlab.bias(p.model, p.x, tf=0.7, tb=3.0, estimator=estimator, moments="exact")
    truth = exact.relative_bias.item() if estimator != "reinforce" else 0.0
    rate, resolved = covered(p, truth, seeds, estimator, tf=0.7, tb=3.0, draws=64, reference="rloo")
    assert rate >= held
    assert least <= resolved <= most


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore:precision")
@pytest.mark.parametrize(
    ("name", "estimator", "given"),
    [
        ("bundled", "decoupled-st-gs", {}),
        ("bundled", "decoupled-st-gs", {"precision": 0.1, "draws": 64}),
        ("bundled", "reinforce", {}),
        ("3x5-bernoulli-mlp", "decoupled-st-gs", {"precision": 0.1, "max_draws": 4096}),
        ("binary6-bernoulli-mlp", "decoupled-st-gs", {"precision": 0.1, "max_draws": 4096}),
    ],
)
def test_intervals_cover_at_their_rate(name, estimator, given):
    """200 seeds: between 92 % and 98 %, two standard errors of 95 %, so a sound rate fails once in 20 times.

    Without bias at all intervals are too wide rather than too narrow (see u_statistics), so that their rate has no
    upper bound; what is asked there is that a bias be found in 2.5 % of the seeds at most, within three errors.
    """
    if name == "bundled":
        images = gradlab.datasets.load("mnist-sample").first(20)
        p = problems.Problem(name, gradlab.bundled("vae-8x4-mnist"), images.floats())
    else:
        p = problems.make(name)
    exact = gradlab.bias(p.model, p.x, tf=1.6, tb=1.3, estimator=estimator, moments="exact")
    truth = 0.0 if estimator == "reinforce" else exact.relative_bias_debiased.item()
    given = {"tf": 1.6, "tb": 1.3, "reference": "rloo", "draws": 256} | given
    rate, resolved = covered(p, truth, 200, estimator, **given)
    print(f"\n{name}, {estimator}, {given}: coverage {rate:.3f}, resolved {resolved:.3f}")
    assert 0.92 <= rate <= (1.0 if estimator == "reinforce" else 0.98)
    assert resolved > 0.9 if estimator == "decoupled-st-gs" else resolved <= 0.07


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
