"""U-statistics against the loops that define them; intervals against a sampled reference hold at their rate."""

import itertools

import numpy as np
import pytest

import gradlab
from gradlab.fidelity import reference_metrics
from gradlab.metrics import registry, routes
from gradlab.statistics import inversion
from gradlab.statistics.u_statistics import u_statistics

from . import problems
from .test_reference import METRICS


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
