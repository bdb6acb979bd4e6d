"""gradlab.bias: the Dataset that others rely on."""

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, networks, sampling
from gradlab.fidelity import grid_accumulator
from gradlab.metrics import Norms, registry, routes

from . import oracles, problems

METRICS = registry.of_analysis("bias")
PER_COORDINATE = ("mean_gradient", "std_gradient")


@pytest.fixture(scope="module")
def problem():
    return problems.make("3x5-bernoulli-mlp")


@pytest.fixture(scope="module")
def grid(problem):
    return gradlab.bias(problem.model, problem.x, tf=[0.5, 1.0, 1.6], tb=[0.5, 1.3], draws=70)


def test_dims_of_a_grid(grid):
    assert grid.exact_gradient.dims == ("tf", "example", "latent", "category")
    for name in PER_COORDINATE:
        assert grid[name].dims == ("tf", "tb", "example", "latent", "category")
    for name in ("exact_norm", *METRICS):
        assert grid[name].dims == ("tf", "tb")
        if name != "exact_norm":
            assert (grid[f"{name}_low"] <= grid[name]).all()
            assert (grid[name] <= grid[f"{name}_high"]).all()
    assert dict(grid.sizes) | {"quantile": 5, "metric": 11, "batch": 32, "example_metric": 9} == {
        "tf": 3, "tb": 2, "example": 5, "latent": 5, "category": 3, "quantile": 5, "metric": 11, "batch": 32,
        "example_metric": 9,
    }  # fmt: skip
    np.testing.assert_array_equal(grid.tf, [0.5, 1.0, 1.6])


def test_a_point_keeps_its_dims(problem):
    ds = gradlab.bias(problem.model, problem.x, tf=1.6, tb=1.3, draws=8)
    assert ds.relative_bias.shape == (1, 1)


def test_every_variable_names_itself_and_its_unit(grid):
    for name, variable in grid.variables.items():
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"], name
    assert grid.bias_norm.attrs["units"] == "nats per logit"
    assert grid.relative_bias.attrs["units"] == "1"
    assert "example, latent and category" in grid.relative_bias.attrs["aggregation"]


def test_attributes_say_how_it_was_made(grid):
    wanted = {"gradlab", "torch", "date", "seed", "device", "dtype", "estimator", "estimator_parameters", "draws",
              "target", "data", "data_sha256", "checkpoint", "checkpoint_sha256", "command_line",
              "intervals"}  # fmt: skip
    assert wanted <= set(grid.attrs)
    assert grid.attrs["draws"] == 70
    assert grid.attrs["target"] == "sampled"


def test_metrics_follow_from_the_stored_arrays(grid):
    for tf in grid.tf.values:
        for tb in grid.tb.values:
            at = grid.sel(tf=tf, tb=tb)
            exact, mean = at.exact_gradient.values.ravel(), at.mean_gradient.values.ravel()
            variance = at.std_gradient.values.ravel() ** 2
            for name, value in routes.values(METRICS, routes.products_of(exact, mean, variance, 70)).items():
                assert float(at[name]) == pytest.approx(float(value), rel=1e-9), name


def test_exact_gradient_is_the_exact_gradient(problem, grid):
    for tf in (0.5, 1.6):
        wanted = oracles.exact_gradient(problem.model, problem.x, tf, "sampled")
        assert oracles.relative_error(torch.tensor(grid.exact_gradient.sel(tf=tf).values), wanted) < 1e-10


def test_a_grid_point_is_the_point_alone(problem, grid):
    """Common random numbers: what else is measured does not change a point."""
    point = gradlab.bias(problem.model, problem.x, tf=1.6, tb=0.5, draws=70)
    for name in ("mean_gradient", "std_gradient", "relative_bias", "cosine_low", "relative_std_high"):
        np.testing.assert_allclose(point[name].squeeze(), grid[name].sel(tf=1.6, tb=0.5), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("memory", "kl"), [(None, False), (400_000, False), (None, True)])
def test_figures_of_many_points_at_once_are_those_of_each(problem, memory, kl, monkeypatch):
    """As on a GPU: tensors, of all points at once or of those that fit; gradients of 0 among them at a small tf."""
    given = {"tf": [0.002, 1.0, 1.6], "tb": [0.5, 1.3], "draws": 70, "target": "both", "kl": kl}
    given["compute"] = gradlab.Compute(memory=memory)
    certain = "At tf = 0.002, 5 of 5 examples have every code certain"
    with pytest.warns(gradlab.cautions.SamplingWarning, match=certain):
        wanted = gradlab.bias(problem.model, problem.x, **given)
    assert (wanted.exact_gradient == 0).any() == (not kl)
    monkeypatch.setattr(grid_accumulator, "_on_cpu", lambda found: False)
    with pytest.warns(gradlab.cautions.SamplingWarning, match=certain):
        found = gradlab.bias(problem.model, problem.x, **given)
    for name, values in wanted.data_vars.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-11, err_msg=name)


def test_both_targets_in_one_call(problem, grid):
    both = gradlab.bias(problem.model, problem.x, tf=[0.5, 1.0, 1.6], tb=[0.5, 1.3], draws=70, target="both")
    assert list(both.target.values) == ["sampled", "model"]
    assert "target" not in both.mean_gradient.dims
    np.testing.assert_allclose(both.relative_bias.sel(target="sampled"), grid.relative_bias, rtol=1e-12)
    for target in ("sampled", "model"):
        alone = gradlab.bias(problem.model, problem.x, tf=1.6, tb=0.5, draws=70, target=target)
        of_target = both.sel(target=target, tf=[1.6], tb=[0.5])
        # what carries the gradient is judged by that of softmax(l/tf), where that is known
        rare = ("expected_count", "rare_examples") if target == "model" else ()
        for name in set(alone.data_vars) - set(rare):
            found, wanted = of_target[name].transpose(*alone[name].dims), alone[name]
            # slopes of the intervals over examples are taken by small steps
            rtol = 1e-6 if "population" in name else 1e-9
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-11, err_msg=f"{name} of {target}")
    at_model_temperature = both.exact_gradient.sel(tf=1.0)
    np.testing.assert_allclose(*(at_model_temperature.sel(target=t) for t in ("sampled", "model")), rtol=1e-12)


def test_several_estimators_give_a_dim_and_agree_with_each_alone(problem):
    chosen = ["ste", estimators.get("st-gs", convention="jang"), "gumbel-softmax", "ste-argmax"]
    many = gradlab.bias(problem.model, problem.x, tf=[0.7, 1.6], tb=1.3, draws=50, estimator=chosen)
    assert list(many.estimator.values) == ["ste", "st-gs(convention=jang)", "gumbel-softmax", "ste-argmax"]
    assert many.relative_bias.dims == ("estimator", "tf", "tb")
    for position, one in enumerate(chosen):
        alone = gradlab.bias(problem.model, problem.x, tf=[0.7, 1.6], tb=1.3, draws=50, estimator=one)
        assert "estimator" not in alone.dims
        of_one = many.isel(estimator=position)
        for name, wanted in alone.data_vars.items():
            rtol, atol = (1e-6, 1e-7) if "population" in name else (1e-9, 1e-11)
            np.testing.assert_allclose(of_one[name], wanted, rtol=rtol, atol=atol, err_msg=name)
    assert float(many.std_norm.sel(estimator="ste-argmax").max()) < 1e-14  # no noise, but rounding


def test_binary_has_no_category(problem):
    binary = problems.make("binary6-bernoulli-mlp")
    ds = gradlab.bias(binary.model, binary.x, tf=1.6, tb=1.3, draws=40)
    assert ds.mean_gradient.dims == ("tf", "tb", "example", "latent")
    assert np.isfinite(float(ds.relative_bias.squeeze()))


def test_kl_shifts_both_sides_alike(problem):
    plain, with_kl = (gradlab.bias(problem.model, problem.x, tf=1.6, tb=1.3, draws=40, kl=kl) for kl in (False, True))
    np.testing.assert_allclose(with_kl.bias_norm, plain.bias_norm, rtol=1e-10)
    np.testing.assert_allclose(with_kl.std_norm, plain.std_norm, rtol=1e-10)
    shift = (with_kl.exact_gradient - plain.exact_gradient).values
    assert np.abs(shift).max() > 1e-3
    np.testing.assert_allclose((with_kl.mean_gradient - plain.mean_gradient).values[:, 0], shift, rtol=1e-8, atol=1e-10)


def test_cross_measures_only_the_cross(problem, grid):
    cross = gradlab.bias(problem.model, problem.x, tf=[0.5, 1.0, 1.6], tb=[0.5, 1.3], draws=70, cross=(1.6, 1.3))
    on = (cross.tf == 1.6) | (cross.tb == 1.3)
    assert (np.isfinite(cross.relative_bias) == on).all()
    np.testing.assert_allclose(cross.relative_bias.where(on, 0), grid.relative_bias.where(on, 0), rtol=1e-9)
    assert (cross.attrs["tf_fixed"], cross.attrs["tb_fixed"]) == (1.6, 1.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_seed_same_numbers_whatever_the_chunks(dtype):
    problem = problems.make("8x4-bernoulli-mlp", dtype)
    a, b, c, d = (
        gradlab.bias(
            problem.model, problem.x, tf=1.6, tb=1.3, draws=100, seed=seed, compute=gradlab.Compute(memory=memory)
        )
        for seed, memory in ((3, 2**28), (3, 2**28), (3, 50_000), (4, 2**28))
    )
    for name in ("mean_gradient", "std_gradient", "relative_bias", "relative_bias_high"):
        assert np.array_equal(a[name], b[name])
        np.testing.assert_allclose(a[name], c[name], rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-11)
    assert not np.allclose(a.mean_gradient, d.mean_gradient)


def test_interval_covers_a_long_run(problem):
    """The debiased relative bias of 60,000 draws lies in the 95 % interval of 24 of 24 or 23, 22, 21, 20 of 24 seeds:
    fewer than 20 has probability 0.005 at 95 %."""
    at = {"tf": 1.6, "tb": 1.3}
    truth = float(
        gradlab.bias(problem.model, problem.x, draws=60_000, seed=1000, **at).relative_bias_debiased.squeeze()
    )
    inside = 0
    for seed in range(24):
        ds = gradlab.bias(problem.model, problem.x, draws=256, seed=seed, **at)
        inside += (
            float(ds.relative_bias_debiased_low.squeeze()) <= truth <= float(ds.relative_bias_debiased_high.squeeze())
        )
    assert inside >= 20


def test_replicates_give_the_stored_intervals(grid):
    """Recomputed from the stored replicates; shuffled among figures or points they would not fit."""
    bounds = np.asarray(sampling.batch_bounds(70))
    draws = np.concatenate([[70.0], 70.0 - np.diff(bounds)])
    for tf in grid.tf.values:
        for tb in grid.tb.values:
            at = grid.sel(tf=tf, tb=tb)
            squares = {
                name: np.square(np.concatenate([[float(at[name])], at.replicates.sel(metric=name).values]))
                for name in ("mean_norm", "bias_norm", "matched_bias", "std_norm")
            }
            exact = np.square(float(at.exact_norm))
            mean, bias = squares["mean_norm"], squares["bias_norm"]
            across = mean * squares["matched_bias"]
            norms = Norms(exact, mean, (exact + mean - bias) / 2, bias, across)
            for metric, values, *ends in routes.measured(METRICS, norms, squares["std_norm"], draws):
                name = metric.name
                np.testing.assert_allclose(at.replicates.sel(metric=name), values[1:], rtol=1e-7, err_msg=name)
                np.testing.assert_allclose(ends, [at[f"{name}_low"], at[f"{name}_high"]], rtol=1e-5, err_msg=name)


def test_float32_draws_agree_with_float64_ones():
    """Not the same noise bit for bit, so within the intervals' reach; the exact gradient to float32 of the logits."""
    single, double = problems.make("8x4-bernoulli-mlp", torch.float32), problems.make("8x4-bernoulli-mlp")
    a, b = (gradlab.bias(p.model, single.x.to(p.x), tf=1.6, tb=1.3, draws=2000) for p in (single, double))
    assert a.attrs["dtype"] == "float32"
    assert a.exact_gradient.dtype == np.float64
    assert abs(float(a.relative_bias.squeeze() - b.relative_bias.squeeze())) < 3 * float(
        (b.relative_bias_high - b.relative_bias_low).squeeze()
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"tf": 0}, "tf: expected .*, got 0"),
        ({"tf": [1.0, float("nan")]}, "tf: expected .*, got nan"),
        ({"tb": -1.0}, "tb: expected .*, got -1.0"),
        ({"tb": []}, "tb: expected at least one temperature, got an empty"),
        ({"tf": [1.0, 1.0]}, "tf: expected distinct temperatures"),
        ({"draws": 1}, "draws: expected .*, got 1"),
        ({"draws": 10.5}, "draws: expected .*, got 10.5"),
        ({"target": "modl"}, "did you mean model"),
        ({"estimator": "st-g"}, "did you mean st-gs"),
        ({"estimator": []}, "at least one"),
        ({"estimator": ["ste", "ste"]}, "each of them once"),
        ({"estimator": 3}, "estimator"),
        ({"moments": "exat"}, "moments"),
        ({"seed": -1}, "seed: expected .*, got -1"),
        ({"cross": (9.0, 9.0)}, "cross"),
    ],
)
def test_bad_input_is_named(problem, bad, message):
    with pytest.raises(ValueError, match=message):
        gradlab.bias(problem.model, problem.x, **({"tf": 1.6, "tb": 1.3} | bad))


def test_a_path_in_place_of_a_model_is_named(problem):
    for measure in (gradlab.bias, gradlab.exact_gradient):
        with pytest.raises(ValueError, match=r"model: expected a gradlab.LatentModel, got a str .*gradlab.load"):
            measure("vae.safetensors", problem.x)


def test_a_decoder_without_derivative_is_refused_not_measured_as_zero(problem):
    class Detached(torch.nn.Module):
        def forward(self, z):
            return problem.model.decoder(z).detach()

    model = gradlab.LatentModel(problem.model.encoder, Detached(), latents=5, categories=3)
    with pytest.raises(ValueError, match="decoder: expected a loss that depends on the codes"):
        gradlab.bias(model, problem.x)


def test_temperatures_so_small_that_gradients_vanish_give_nan_and_are_warned_of(problem):
    """Saturated: exact gradient and estimates are 0, so that nothing is relative to them."""
    with pytest.warns(gradlab.cautions.SamplingWarning, match="At tf = 1e-305, 5 of 5 examples have every code cert"):
        ds = gradlab.bias(problem.model, problem.x, tf=[1e-305, 1.0], tb=[1e-305, 1.0], draws=8)
    assert float(ds.exact_norm.sel(tf=1e-305, tb=1.0)) == 0
    assert np.isnan(ds.relative_bias.sel(tf=1e-305)).all()
    assert np.isfinite(ds.bias_norm).all()
    assert float(ds.mean_norm.sel(tf=1.0, tb=1e-305)) == 0


def test_temperatures_that_overflow_are_refused(problem):
    with pytest.raises(ValueError, match="temperatures"):
        gradlab.bias(problem.model, problem.x, tf=1.0, tb=1e-322, draws=8)


def test_equal_cost_divides_the_variance_by_the_draws_that_the_dearest_pays_for(problem):
    """rloo with n = 4 costs 4 evaluations, st-gs one: four draws of it make an estimate."""
    chosen = ["st-gs", estimators.get("rloo", n=4)]
    plain = gradlab.bias(problem.model, problem.x, tf=1.6, tb=1.3, estimator=chosen, draws=256)
    equal = gradlab.bias(
        problem.model,
        problem.x,
        tf=1.6,
        tb=1.3,
        estimator=chosen,
        moments=gradlab.MonteCarlo(draws=256, equal_cost=True),
    )
    more = gradlab.bias(problem.model, problem.x, tf=1.6, tb=1.3, estimator="st-gs", draws=1024)
    dear = {"estimator": "rloo(n=4)"}
    for name in ("mean_gradient", "std_gradient", "relative_bias_debiased", "relative_std_low"):
        np.testing.assert_array_equal(equal[name].sel(dear), plain[name].sel(dear))
    cheap = equal.sel(estimator="st-gs")
    np.testing.assert_allclose(cheap.mean_gradient, more.mean_gradient, rtol=1e-12)
    np.testing.assert_allclose(cheap.std_gradient, more.std_gradient / 2, rtol=1e-12)
    for name in ("bias_norm", "squared_bias_debiased", "relative_bias_debiased_low", "cosine", "matched_bias_high"):
        np.testing.assert_allclose(cheap[name], more[name], rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(cheap.relative_std_high, more.relative_std_high / 2, rtol=1e-9)
    assert equal.attrs["evaluations"] == [1, 4]
    assert equal.attrs["equal_cost"] == 1
    assert "the same number of loss evaluations" in equal.std_gradient.attrs["long_name"]


def test_equal_cost_is_exact_at_numbers_that_do_not_divide(problem):
    """Three evaluations against two: 1.5 draws an estimate. The variance per evaluation is that of one draw."""
    chosen = ["rebar", "rloo"]
    equal = gradlab.bias(
        problem.model, problem.x, tf=1.0, estimator=chosen, moments=gradlab.MonteCarlo(draws=100, equal_cost=True)
    )
    alone = gradlab.bias(problem.model, problem.x, tf=1.0, estimator="rloo", draws=150)
    np.testing.assert_allclose(equal.std_norm.sel(estimator="rloo") ** 2, alone.std_norm**2 / 1.5, rtol=1e-9)


def test_equal_cost_refuses_what_makes_no_sense(problem):
    with pytest.raises(ValueError, match=r"draws: expected at least 32 for equal cost, .*got 8"):
        gradlab.bias(
            problem.model, problem.x, estimator=["ste", "rloo"], moments=gradlab.MonteCarlo(draws=8, equal_cost=True)
        )
    large = networks.build("categorical-vae", {"latents": 7, "categories": 4}, seed=0)
    x = gradlab.datasets.load("mnist-sample").first(1).floats()
    with pytest.raises(ValueError, match=r"equal_cost: .* 16,384 of the cheapest"):
        gradlab.bias(large, x, estimator=["ste", "exact"], moments=gradlab.MonteCarlo(draws=32, equal_cost=True))


def test_estimators_without_noise_have_no_variance(problem):
    ds = gradlab.bias(problem.model, problem.x, tf=[0.7, 1.6], tb=1.3, estimator=["exact", "ste-argmax"], draws=40)
    assert float((ds.std_norm / ds.mean_norm).max()) < 1e-14  # rounding
    exact = ds.sel(estimator="exact")
    assert float(exact.relative_bias.max()) < 1e-9
    np.testing.assert_allclose(exact.mean_gradient.isel(tb=0), exact.exact_gradient, rtol=1e-8, atol=1e-10)
    assert float(ds.relative_bias.sel(estimator="ste-argmax").min()) > 0.1


def test_a_loss_without_derivative_is_no_matter_to_a_score_function(problem):
    class Steps(torch.nn.Module):
        def forward(self, codes):
            return problem.model.decoder(codes).detach().round()

    m = problem.model
    model = gradlab.LatentModel(m.encoder, Steps(), latents=m.latents, categories=m.categories, likelihood="gaussian")
    ds = gradlab.bias(model, problem.x, estimator="rloo", draws=400)
    off, low, high = (ds[f"squared_bias_debiased{end}"].item() for end in ("", "_low", "_high"))
    assert abs(off) < high - low  # four standard errors
    assert high - low < 0.1 * ds.exact_norm.item() ** 2
    with pytest.raises(ValueError, match="depends on the codes differentiably"):
        gradlab.bias(model, problem.x, estimator="ste", draws=4)


def test_a_running_mean_baseline_does_not_depend_on_the_chunks(problem):
    estimator = estimators.get("reinforce", baseline="running-mean", decay=0.9)
    found = [
        gradlab.bias(problem.model, problem.x, estimator=estimator, draws=70, compute=gradlab.Compute(memory=memory))
        for memory in (1, 2**28)
    ]
    np.testing.assert_allclose(found[0].mean_gradient, found[1].mean_gradient, rtol=1e-9)
    np.testing.assert_allclose(found[0].std_gradient, found[1].std_gradient, rtol=1e-9)
    without = gradlab.bias(problem.model, problem.x, estimator="reinforce", draws=70)
    assert found[0].std_norm.item() < without.std_norm.item()


# --- moments without draws ---


@pytest.fixture(scope="module")
def without_draws(problem):
    chosen = ["decoupled-st-gs", "reinmax", "rloo"]
    return gradlab.bias(problem.model, problem.x, tf=[0.7, 1.6], tb=[0.5, 1.3], estimator=chosen, moments="exact")


def test_exact_moments_have_the_dims_and_figures_of_sampled_ones(problem, without_draws):
    sampled = gradlab.bias(problem.model, problem.x, tf=1.6, tb=1.3, estimator=["ste", "zgr"], draws=4)
    for name in sampled.data_vars:
        of_ratios = "per_example" in name or "elementwise" in name
        if name == "replicates" or (of_ratios and name.endswith(("_low", "_high"))):
            assert name not in without_draws
        else:
            assert without_draws[name].dims == sampled[name].dims, name
    for variable in without_draws.variables.values():
        assert {"long_name", "units"} <= set(variable.attrs)
    assert without_draws.attrs["moments"] == "exact"
    assert "draws" not in without_draws.attrs
    assert "numerical error" in without_draws.attrs["intervals"]


def test_exact_moments_agree_with_draws(problem, without_draws):
    """Per coordinate within 5.5 standard errors: of 900 coordinates one fails by chance with probability 3e-5."""
    chosen = ["decoupled-st-gs", "reinmax", "rloo"]
    n = 20_000
    ds = gradlab.bias(problem.model, problem.x, tf=[0.7, 1.6], tb=[0.5, 1.3], estimator=chosen, draws=n)
    error = ds.std_gradient / np.sqrt(n)
    off = np.abs(ds.mean_gradient - without_draws.mean_gradient)
    assert bool((off < 5.5 * error + 1e-3 * np.abs(without_draws.mean_gradient) + 1e-12).all())
    np.testing.assert_allclose(without_draws.std_norm, ds.std_norm, rtol=0.03)
    for name in ("relative_bias_debiased", "cosine", "relative_std"):
        width = ds[f"{name}_high"] - ds[f"{name}_low"]
        assert bool((np.abs(ds[name] - without_draws[name]) < 2 * width + 1e-3).all()), name
    np.testing.assert_allclose(without_draws.relative_bias.sel(estimator="rloo"), 0, atol=1e-9)


def test_numerical_errors_are_reported_and_small(without_draws):
    for name in ("mean_numerical_error", "std_numerical_error"):
        assert without_draws[name].dims == ("estimator", "tf", "tb")
        assert float(without_draws[name].max()) < 1e-3
        assert float(without_draws[name].sel(estimator=["reinmax", "rloo"]).max()) == 0
    assert (without_draws.bias_norm_low <= without_draws.bias_norm).all()
    assert (without_draws.bias_norm <= without_draws.bias_norm_high).all()


def test_exact_moments_round_trip_draw_and_change(without_draws, tmp_path):
    from gradlab.fidelity.differences import change

    gradlab.save_results(without_draws, tmp_path / "exact.h5")
    again = gradlab.open_results(tmp_path / "exact.h5")
    assert gradlab.plots.bias_trends(again).axes
    one = again.sel(estimator="decoupled-st-gs")
    found = change(one, "relative_bias", {"tf": 0.7, "tb": 0.5}, {"tf": 0.7, "tb": 1.3})
    line = one.relative_bias.sel(tf=0.7).values
    assert found.value == pytest.approx(line[1] - line[0])
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 0.01
    with pytest.raises(ValueError, match="fix each dim"):
        change(one, "relative_bias", {"tf": 0.7}, {"tf": 1.6})


def test_exact_moments_of_what_has_none_are_refused(problem):
    with pytest.raises(ValueError, match="moments: expected 'monte-carlo' for rebar"):
        gradlab.bias(problem.model, problem.x, estimator="rebar", moments="exact")


def test_a_float32_exact_gradient_states_its_error():
    problem = problems.make("3x5-bernoulli-mlp")
    given = {"tf": [0.5, 1.6], "tb": 1.3, "draws": 4, "target": "both"}
    wide = gradlab.bias(problem.model, problem.x, **given)
    ds = gradlab.bias(problem.model, problem.x, **given, reference=gradlab.Enumerated(dtype=torch.float32))
    assert "exact_gradient_error" not in wide
    assert (wide.attrs["exact_dtype"], ds.attrs["exact_dtype"]) == ("float64", "float32")
    assert ds.exact_gradient_error.dims == ("target", "tf")
    difference = np.sqrt(np.square(ds.exact_gradient - wide.exact_gradient).sum(("example", "latent", "category")))
    assert (difference > 0).all()
    assert (difference <= ds.exact_gradient_error).all()
    with pytest.raises(ValueError, match=r"dtype: unknown name 'int64'; did you mean float64"):
        gradlab.bias(problem.model, problem.x, **given, reference=gradlab.Enumerated(dtype=torch.int64))
