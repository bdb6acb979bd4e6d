"""The metrics against their definitions, and the intervals' coverage."""

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import gradlab
from gradlab import metrics
from gradlab.metrics import registry, routes
from gradlab.statistics import coordinates, jackknife

from . import problems

RNG = np.random.default_rng
METRICS = registry.of_analysis("bias")
NOISY = {name for name, metric in METRICS.items() if metric.noisy}


def sampled(seed, draws, coordinates, bias=0.0, spread=1.0):
    """Estimates (draw, coordinate) with skewed, correlated noise about exact + bias."""
    rng = RNG(seed)
    exact = np.linspace(-1, 2, coordinates)
    mix = RNG(1).normal(size=(coordinates, coordinates)) / np.sqrt(coordinates)
    noise = rng.exponential(size=(draws, coordinates)) - 1
    return exact, exact * (1 + bias) + bias + spread * noise @ mix, spread**2 * np.square(mix).sum(0)


def batched(estimates, batches=32):
    parts = np.array_split(estimates, batches)
    count = np.array([len(p) for p in parts], float)
    return count, np.stack([p.mean(0) for p in parts]), np.stack([np.square(p - p.mean(0)).sum(0) for p in parts])


def measured(exact, parts):
    """{name: (values without each batch, low, high)} of all metrics, from count, mean and squares by batch."""
    n, means, variances = jackknife.leave_one_out(*parts)
    of = metrics.Norms(*coordinates.norms(exact, means))
    return {metric.name: found for metric, *found in routes.measured(METRICS, of, variances.sum(-1), n)}


def all_metrics(*of):
    """By name, of exact gradient, mean, variance and number of draws."""
    return routes.values(METRICS, routes.products_of(*of))


def test_metrics_are_their_definitions():
    exact, e, _ = sampled(0, 50, 7, bias=0.2)
    mean, variance = e.mean(0), e.var(0, ddof=1)
    found = all_metrics(exact, mean, variance, 50)
    norm = np.linalg.norm
    assert set(found) == set(METRICS)
    wanted = {
        "mean_norm": norm(mean),
        "std_norm": np.sqrt(variance.sum()),
        "bias_norm": norm(mean - exact),
        "squared_bias_debiased": norm(mean - exact) ** 2 - variance.sum() / 50,
        "relative_bias": norm(mean - exact) / norm(exact),
        "relative_std": np.sqrt(variance.sum()) / norm(exact),
        "cosine": mean @ exact / norm(mean) / norm(exact),
    }
    free = norm(mean) ** 2 - variance.sum() / 50  # |m|^2 without noise
    wanted |= {
        "mean_norm_debiased": np.sqrt(free),
        "cosine_debiased": mean @ exact / np.sqrt(free) / norm(exact),
        "matched_scale_debiased": mean @ exact / free,
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name
    squared_sine = 1 - wanted["cosine_debiased"] ** 2
    assert found["matched_bias_debiased"] == pytest.approx(np.sign(squared_sine) * np.sqrt(abs(squared_sine)))
    squared = wanted["squared_bias_debiased"]
    assert found["bias_norm_debiased"] == pytest.approx(np.sign(squared) * np.sqrt(abs(squared)))
    assert found["relative_bias_debiased"] == pytest.approx(found["bias_norm_debiased"] / norm(exact))


def test_matched_bias_is_the_minimum_over_scales():
    exact, e, _ = sampled(3, 20, 9, bias=-0.4)
    mean = e.mean(0)
    best = minimize_scalar(lambda a: np.linalg.norm(a * mean - exact) / np.linalg.norm(exact))
    found = all_metrics(exact, mean, e.var(0, ddof=1), 20)
    assert found["matched_bias"] == pytest.approx(best.fun, rel=1e-8)
    assert found["matched_scale"] == pytest.approx(best.x, rel=1e-6)
    assert all_metrics(exact, 3 * exact, 0 * exact, 20)["matched_bias"] == pytest.approx(0, abs=1e-15)


def test_debiased_metrics_are_signed_and_nan_where_noise_is_all_there_is():
    exact = np.array([3.0, 0.0, 4.0])
    found = all_metrics(exact, exact, np.array([5.0, 5.0, 5.0]), 10)  # |m|^2 = 25, noise 1.5
    assert found["cosine_debiased"] == pytest.approx(5 / np.sqrt(23.5))  # beyond 1
    assert found["matched_bias_debiased"] == pytest.approx(-np.sqrt(1.5 / 23.5))
    drowned = all_metrics(exact, exact, 10 * np.array([5.0, 50.0, 5.0]), 10)
    assert drowned["mean_norm_debiased"] == pytest.approx(-np.sqrt(35))
    for name in ("cosine_debiased", "matched_bias_debiased", "matched_scale_debiased"):
        assert np.isnan(drowned[name])


def test_debiased_square_has_no_noise_floor():
    """400 repetitions of 64 draws, true squared bias 0 and 3: mean within 5 standard errors; the raw square is not."""
    for bias in (0.0, 0.5):
        raw, debiased = [], []
        for seed in range(400):
            exact, e, _ = sampled(seed, 64, 12, spread=3.0)
            e = e + bias
            found = all_metrics(exact, e.mean(0), e.var(0, ddof=1), 64)
            raw.append(found["bias_norm"] ** 2)
            debiased.append(found["squared_bias_debiased"])
        true = 12 * bias**2
        for values, agrees in ((debiased, True), (raw, False)):
            score = (np.mean(values) - true) / (np.std(values) / 20)
            assert bool(abs(score) < 5) == agrees


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 100, 3200])
def test_quantiles_are_numpys(count):
    ratios = np.random.default_rng(count).exponential(size=(3, 4, count))
    ratios[0, 0, 0] = np.inf
    wanted = np.quantile(ratios, coordinates.QUANTILES, axis=-1, method="inverted_cdf")
    assert np.array_equal(coordinates.quantiles(ratios), np.moveaxis(wanted, 0, -1))
    before = coordinates.quantiles(ratios)
    ratios[1, 2, 0] = np.nan  # left out of all rows beside it
    found = coordinates.quantiles(ratios)
    assert np.array_equal(found[[0, 2]], before[[0, 2]])
    if count > 1:
        assert np.array_equal(found[1], coordinates.quantiles(ratios[1, :, 1:]))
    else:
        assert np.isnan(found[1]).all()
    assert np.array_equal(coordinates.quantiles(torch.from_numpy(ratios)), found, equal_nan=True)


@pytest.mark.parametrize("zeros", [0, 1, 12])
def test_tensors_give_what_arrays_give(zeros):
    """Exact gradients of 0 among them, of single coordinates, of a whole example, and of all."""
    exact, e, _ = sampled(3, 64, 12, bias=0.3)
    exact[:zeros] = 0
    count, mean, squares = batched(e, 8)
    draws, means, variances = jackknife.leave_one_out(count, mean, squares)
    there = torch.from_numpy
    found = jackknife.means_without_each(count, there(mean))
    np.testing.assert_allclose(found, means, rtol=1e-13)
    arguments = exact, means, variances, draws
    wanted, found = all_metrics(*arguments), all_metrics(there(exact), there(means), variances, draws)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)
    for ratios, given in ((coordinates.per_example_ratios, [4]), (coordinates.elementwise_ratios, [])):
        wanted, found = ratios(exact, means, *given), ratios(there(exact), there(means), *given)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        np.testing.assert_allclose(coordinates.quantiles(found), coordinates.quantiles(wanted), rtol=1e-12)
        assert np.isnan(wanted).any() == (zeros >= (3 if given else 1))


def test_leave_one_out_is_recomputing_without_a_batch():
    _, e, _ = sampled(5, 70, 4)
    parts = np.array_split(e, 6)
    draws, means, variances = jackknife.leave_one_out(*batched(e, 6))
    np.testing.assert_allclose(means[0], e.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variances[0], e.var(0, ddof=1), rtol=1e-12)
    for j in range(6):
        rest = np.concatenate(parts[:j] + parts[j + 1 :])
        assert draws[1 + j] == len(rest)
        np.testing.assert_allclose(means[1 + j], rest.mean(0), rtol=1e-12)
        np.testing.assert_allclose(variances[1 + j], rest.var(0, ddof=1), rtol=1e-12)


def test_jackknife_error_of_a_mean_is_the_standard_error():
    values = RNG(0).normal(size=(40, 1))
    for batches in (40, 8, 7):  # 7 batches of unequal size
        draws, means, _ = jackknife.leave_one_out(*batched(values, batches))
        found = jackknife.standard_error(means[:, 0], draws)
        assert found == pytest.approx(values.std(ddof=1) / np.sqrt(40), rel=1e-9 if batches == 40 else 0.5)
    equal = jackknife.standard_error(
        *[v if v.ndim == 1 else v[:, 0] for v in jackknife.leave_one_out(*batched(values, 8))[1::-1]]
    )
    assert equal == pytest.approx(values.reshape(8, 5).mean(1).std(ddof=1) / np.sqrt(8), rel=1e-9)


@functools.cache
def repeated(draws, repetitions, bias):
    """{name: (value at the true mean and variance, low and high ends (repetition,))} of all metrics."""
    ends = []
    for seed in range(repetitions):
        exact, e, variance = sampled(seed, draws, 12, bias=bias)
        ends.append({name: found[1:] for name, found in measured(exact, batched(e)).items()})
    true = all_metrics(exact, exact * (1 + bias) + bias, variance, np.inf)
    return {name: (true[name], *np.array([found[name] for found in ends]).T) for name in true}


def covered(name, draws, repetitions, bias, shrink=1.0):
    """How often the interval of a metric holds what the metric is at the true mean and variance."""
    true, low, high = repeated(draws, repetitions, bias)[name]
    middle, half = (low + high) / 2, (high - low) / 2 * shrink
    return np.mean((middle - half <= true) & (true <= middle + half))


COVERED = [name for name, metric in METRICS.items() if not metric.noisy]


@pytest.mark.parametrize("name", COVERED)
def test_intervals_cover_at_their_rate(name):
    """250 repetitions of 64 draws: 95 % is 0.95 +- 0.0138; 0.89 and 0.992 are 4.4 and 3 of these off. Intervals of
    half the length (coverage 67 %) are found out."""
    assert 0.89 <= covered(name, 64, 250, bias=0.3) <= 0.992
    assert covered(name, 64, 250, bias=0.3, shrink=0.5) < 0.82


# at no bias, of two squares only: what is across g then has no bias either
@pytest.mark.parametrize("name", ["squared_bias_debiased", "matched_bias_debiased", "cosine_debiased"])
def test_intervals_cover_no_bias(name):
    """As above; at the end of what they can be, 1, cosines miss on one side only."""
    assert covered(name, 64, 250, bias=0.0) >= 0.89


@pytest.mark.parametrize("name", ["bias_norm", "relative_bias", "matched_bias"])
def test_noise_included_is_not_what_the_estimator_has(name):
    """Without bias all there is is noise: the interval is that of the metric with noise, and misses 0."""
    assert name in NOISY
    assert covered(name, 64, 250, bias=0.0) < 0.5


@pytest.mark.deep
@pytest.mark.parametrize(("name", "bias"), [(name, bias) for name in COVERED for bias in (0.05, 0.3, 2.0)])
def test_intervals_cover_deep(name, bias):
    """4,000 repetitions: 95 % is 0.95 +- 0.0034; the band allows for skew, 0.02 to 0.03."""
    assert 0.93 <= covered(name, 1024, 4000, bias=bias) <= 0.98


@pytest.mark.parametrize("draws", [2, 3, 40])
def test_values_lie_in_their_intervals_which_lie_where_they_can(draws):
    exact, e, _ = sampled(11, draws, 5)
    for name, (values, low, high) in measured(exact, batched(e, min(draws, 32))).items():
        metric = METRICS[name]
        if draws == 2 and name in ("std_norm", "relative_std"):  # of one draw there is no variance, so no interval
            assert np.isnan([low, high]).all()
            continue
        if np.isnan(values[0]):  # of two draws there is nothing but noise
            assert draws < 40
            assert low <= high
            continue
        assert low <= values[0] <= high, name
        assert metric.bounds[0] <= low or low == values[0]
        assert high <= metric.bounds[1] or high == values[0]


def test_no_noise_no_width():
    exact = np.array([1.0, 2.0])
    for name, (values, low, high) in measured(exact, batched(np.tile([1.5, 2.0], (64, 1)))).items():
        assert high - low <= 1e-12 * max(1, abs(values[0])), name


def test_one_draw_among_zeros_has_no_direction():
    """|m|^2 is V / N then; rounding of their difference gave a cosine of 9e7 and a scale of 9e14."""
    gradient = np.array([0.3, -0.7])
    for n in range(3, 40):
        estimates = np.zeros((n, 2))
        estimates[1] = [0.1 * n, -1.3]
        found = of_products(gradient, batched(estimates, min(n, 32)))
        assert found["mean_norm_debiased"][0] == 0
        for name in ("cosine_debiased", "matched_bias_debiased", "matched_scale_debiased"):
            assert np.isnan(found[name][0]), (name, n, found[name])
        assert np.abs(found["mean_norm"][0] - np.linalg.norm(estimates[1]) / n) < 1e-12


def test_exact_gradient_of_zero_gives_nan_not_a_crash():
    found = all_metrics(np.zeros(3), np.ones(3), np.ones(3), 10)
    assert np.isnan(found["cosine"])
    assert not np.isfinite(found["relative_bias"])
    assert found["bias_norm"] == pytest.approx(np.sqrt(3))


def test_ratios_are_quantiles_and_skip_zeros():
    exact = np.array([0.0, 1.0, 2.0, -4.0])
    mean = np.array([5.0, 1.5, 2.0, -3.0])
    np.testing.assert_allclose(coordinates.elementwise_ratios(exact, mean), [np.nan, 0.5, 0, 0.25])
    np.testing.assert_allclose(coordinates.quantiles(coordinates.elementwise_ratios(exact, mean)[None])[0, 2], 0.25)
    np.testing.assert_allclose(coordinates.per_example_ratios(exact, mean, 2), [np.sqrt(25.25), 1 / np.sqrt(20)])
    assert np.isnan(coordinates.quantiles(coordinates.elementwise_ratios(np.zeros(3), np.ones(3))[None])).all()


# --- without draws ---


@pytest.mark.parametrize(("bias", "error", "std_error"), [(0.3, 1e-3, 1e-3), (-2.0, 0.05, 0.0), (0.0, 1e-3, 0.1)])
def test_ends_without_draws_hold_what_the_metric_is_within_the_error(bias, error, std_error):
    """10,000 means at the distance `error` in random directions: changes up to half the half width, some near it."""
    rng = RNG(5)
    exact = np.linspace(-1, 2, 3)
    mean, variance = exact * (1 + bias) + [0.1, -0.2, 0.05], np.array([0.5, 1.0, 2.0])
    products = routes.products_of(exact, mean, variance, np.inf)
    ends = {metric.name: three for metric, *three in routes.without_draws(METRICS, products, error, std_error)}
    step = rng.normal(size=(10_000, 3))
    means = mean + error * step / np.linalg.norm(step, axis=1, keepdims=True)
    std = np.sqrt(variance.sum()) + std_error * rng.choice([-1, 1], size=(10_000, 1))
    found = all_metrics(exact, means, std**2, np.inf)
    for name, (value, low, high) in ends.items():
        assert value == pytest.approx(all_metrics(exact, mean, variance, np.inf)[name], rel=1e-12)
        change, half = np.abs(found[name] - value).max(), max(high - value, value - low)
        assert change <= 1.003 * half / 2, name
        assert change >= 0.95 * half / 2, name


def test_moments_without_error_have_ends_without_width():
    exact, mean = np.array([1.0, 2.0, 0.5]), np.array([1.5, 2.0, 0.1])
    products = routes.products_of(exact, mean, np.ones(3), np.inf)
    for metric, value, low, high in routes.without_draws(METRICS, products, 0.0, 0.0):
        assert low == value == high, metric.name


# --- from inner products ---


def of_products(exact, parts):
    """Metrics from inner products of g, m, d and each batch's mean less m alone."""
    count, mean, squares = parts
    m = count @ mean / count.sum()
    fixed, off = np.stack([exact, m, m - exact]), mean - m
    norms = routes.norms_without_each(count, fixed @ fixed.T, off @ fixed.T, np.square(off).sum(1))
    n, variance = jackknife.variances_without_each(count, squares.sum(1)[:, None], np.square(off).sum(1)[:, None])
    return routes.values(METRICS, metrics.Products(norms, variance[:, 0], n))


@pytest.mark.parametrize(("bias", "spread"), [(0.3, 1.0), (0.0, 1.0), (-2.0, 0.01), (1e-4, 1e-4)])
@pytest.mark.parametrize("batches", [32, 7])
def test_inner_products_give_the_metrics_of_the_arrays(bias, spread, batches):
    exact, e, _ = sampled(4, 100, 9, bias, spread)
    parts = batched(e, batches)
    n, means, variances = jackknife.leave_one_out(*parts)
    found = of_products(exact, parts)
    assert set(found) == set(METRICS)
    for name, wanted in all_metrics(exact, means, variances, n).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-10, atol=1e-14, err_msg=name)


def test_a_bias_that_is_all_scale_is_matched_up_to_a_root_of_rounding():
    exact = np.linspace(-1, 2, 9)
    found = of_products(exact, batched(np.tile(3 * exact, (64, 1))))
    assert found["matched_bias"].max() < 1e-7
    np.testing.assert_allclose(found["matched_scale"], 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(found["std_norm"], 0, atol=1e-14)


def test_inner_products_of_an_exact_gradient_of_zero_give_nan_not_a_crash():
    found = of_products(np.zeros(3), batched(sampled(1, 64, 3)[1]))
    assert np.isnan(found["cosine"]).all()
    assert np.isfinite(found["bias_norm"]).all()


@pytest.mark.parametrize("size", [1e-120, 1e-170, 1e120])
@pytest.mark.parametrize("moments", ["monte-carlo", "exact"])
@pytest.mark.parametrize("wrt", ["logits", "encoder"])
def test_figures_follow_the_size_of_the_loss(wrt, moments, size):
    """At 1e-170 squares are 0: so was the exact norm, and what is relative to it was NaN. Variances are not known."""

    def measured(factor):
        problem = problems.make("4x1-own-mlp")
        own = problem.model.likelihood
        model = gradlab.LatentModel(
            problem.model.encoder,
            problem.model.decoder,
            latents=problem.model.latents,
            categories=problem.model.categories,
            likelihood=lambda parameters, x: factor * own(parameters, x),
        )
        return gradlab.bias(model, problem.x, 1.0, [1.0, 2.0], estimator=["ste", "reinmax"], wrt=wrt, moments=moments)

    wanted, found = measured(1.0), measured(size)
    lost = size < 1e-140
    of_mean = ("exact_norm", "mean_norm", "bias_norm", "relative_bias", "cosine", "matched_bias", "matched_scale")
    for name in of_mean if lost else ("exact_norm", *METRICS):
        power = {"1": 0}.get(wanted[name].units, 2 if "^2" in wanted[name].units else 1)
        for end in ("", "_low", "_high") if name != "exact_norm" else ("",):
            at_size = found[name + end].values / size if power else found[name + end].values
            at_size = at_size / size if power == 2 else at_size
            np.testing.assert_allclose(at_size, wanted[name + end].values, rtol=1e-7, atol=1e-9)
    if wrt == "logits":
        of_each = (each.relative_bias_per_example.values for each in (found, wanted))
        np.testing.assert_allclose(*of_each, rtol=1e-9)
    if lost:
        assert found.relative_std.isnull().all()
        assert found.relative_bias_debiased.isnull().all()


@pytest.mark.parametrize("size", [2.0**-100, 2.0**80])
@pytest.mark.parametrize("reference", ["exact", "rloo"])
@pytest.mark.parametrize("wrt", ["logits", "encoder"])
def test_variances_in_single_precision_follow_the_size_of_the_loss(wrt, reference, size):
    """Squares of deviations below 1e-19 were 0, so was relative_std, and those above 1e19 infinite."""
    problem = problems.make("3x5-bernoulli-mlp")
    own, encoder, decoder = problem.model.likelihood, problem.model.encoder.float(), problem.model.decoder.float()

    def measured(factor):
        model = gradlab.LatentModel(
            encoder, decoder, latents=3, categories=5, likelihood=lambda parameters, x: factor * own(parameters, x)
        )
        chosen = ["decoupled-st-gs", "reinmax"]
        return gradlab.bias(model, problem.x.float(), draws=64, estimator=chosen, wrt=wrt, reference=reference)

    wanted, found = measured(1.0), measured(size)
    for name in ("relative_std", "relative_bias_debiased", "cosine_debiased"):
        for end in ("", "_low", "_high"):
            np.testing.assert_allclose(found[name + end], wanted[name + end], rtol=1e-4, err_msg=name + end)
    assert float(found.relative_std.min()) > 0.1
