"""Fidelity along trainings against their loss: the error, the rank correlations, the choice; on made-up sweeps."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from gradlab.analyses import fidelity_and_loss, figure3_vae_8x4

from gradlab import plots, sweeps

from .figures import misplaced_texts
from .made_up_sweeps import swept

TF = TB = figure3_vae_8x4.BUDGETS["paper"].tf
EPOCHS = [1, 5, 20, 160]
DRAWS = 1024
VALLEY = np.abs(np.log(np.array(TB)[None] / (0.6 * np.array(TF)[:, None])))  # (tf, tb)


def measured(loss, angle, noise=1.0, seeds=4, seed=0, **about):
    """A sweep with these final losses (tf, tb), and along it mean estimates at this angle to gradients of norm 2."""
    rng = np.random.default_rng(seed)
    losses = loss[..., None] + 0.1 * rng.normal(size=(7, 7, seeds))
    ds = swept(losses, TF, TB, loss_without_code=206.0, bias_draws=DRAWS, **about)
    dims = ("tf", "tb", "seed", "tracked_epoch")
    angles = angle[..., None, None] + 0.01 * rng.uniform(size=(7, 7, seeds, len(EPOCHS)))
    std = noise * np.ones_like(angles)
    values = {
        "exact_norm": 2 * np.ones_like(angles),
        "mean_norm": np.sqrt(1 + std**2 / DRAWS),
        "std_norm": std,
    }
    values["cosine"] = np.cos(angles) / values["mean_norm"]
    ds = ds.assign({name: (dims, of) for name, of in values.items()}).assign_coords(tracked_epoch=EPOCHS)
    for name, temperature in (("tf", "forward"), ("tb", "backward")):
        ds[name].attrs = {"long_name": f"{temperature} temperature", "units": "1"}
    ds.final_validation_loss.attrs = {"long_name": "validation loss", "units": "nats"}
    return fidelity_and_loss.with_relations(ds)


def verdicts(ds, averaged="100", epoch="20"):
    of = {"estimates averaged": averaged, "epoch": epoch}
    return {v.claim[:3]: v for v in fidelity_and_loss.FidelityAndLoss().judge(ds) if v.which == of}


# --- the error ---


@pytest.mark.parametrize("averaged", [1.0, 100.0, np.inf])
def test_the_matched_error_is_the_least_over_all_scales(averaged):
    """Minimised numerically, for estimates of mean m and summed variances V, in six coordinates."""
    rng = np.random.default_rng(3)
    g, m, variances = rng.normal(size=6), rng.normal(size=6), rng.uniform(1, 5, size=6)
    m += g

    def error(a):
        return (a**2 * (m @ m + variances.sum() / averaged) - 2 * a * (m @ g) + g @ g) / (g @ g)

    least = scipy.optimize.minimize_scalar(error).fun
    ds = measured(100 + VALLEY, VALLEY)
    norm = np.sqrt(m @ m + variances.sum() / DRAWS)  # E of the squared norm of a mean of so many draws
    values = {
        "exact_norm": np.sqrt(g @ g),
        "mean_norm": norm,
        "std_norm": np.sqrt(variances.sum()),
        "cosine": m @ g / (norm * np.sqrt(g @ g)),
    }
    one = ds.assign({name: ds[name] * 0 + value for name, value in values.items()})
    found = fidelity_and_loss.matched_error(one).sel(averaged=averaged)
    np.testing.assert_allclose(found, np.sqrt(least), rtol=1e-9)


def test_an_error_that_is_not_resolved_is_1_and_one_not_measured_nan():
    ds = measured(100 + VALLEY, VALLEY)
    ds.mean_norm[0, 0, 0, 0] = 0.5 * ds.std_norm[0, 0, 0, 0] / np.sqrt(DRAWS)  # less than noise alone gives
    ds.cosine[0, 1, 0, 0] = np.nan  # no gradient
    for name in ("mean_norm", "std_norm", "cosine", "exact_norm"):
        ds[name][0, 2, 0, 0] = np.nan
    found = fidelity_and_loss.matched_error(ds).sel(averaged=np.inf)[0, :, 0, 0]
    assert found.values[:2].tolist() == [1.0, 1.0]
    assert np.isnan(found.values[2])
    assert np.isfinite(found.values[3:]).all()


# --- rank correlations ---


def test_rank_correlations_are_spearmans():
    rng = np.random.default_rng(0)
    error, loss = rng.normal(size=(2, 5, 7, 7)).round(1)  # with ties
    wanted = [scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(error, loss, strict=True)]
    np.testing.assert_allclose(fidelity_and_loss.over_all(error, loss), wanted)
    lines = [
        np.mean([scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
        for a, b in zip(error, loss, strict=True)
    ]
    np.testing.assert_allclose(fidelity_and_loss.along_tb(error, loss), lines)
    some = error.copy()
    some[0, 0, :5] = np.nan  # two entries are left of a line, and no correlation
    rest = np.mean([scipy.stats.spearmanr(x, y).statistic for x, y in zip(error[0, 1:], loss[0, 1:], strict=True)])
    assert fidelity_and_loss.along_tb(some, loss)[0] == pytest.approx(rest)
    assert fidelity_and_loss.spearman(np.ones(7), loss[0, 0]) == 0.0
    assert np.isnan(fidelity_and_loss.spearman(np.array([1.0, np.nan, 2.0]), np.arange(3.0)))


def test_an_error_that_ranks_as_the_loss_supports_all():
    found = verdicts(measured(100 + 30 * VALLEY, 0.1 + 0.3 * VALLEY))
    assert {name: v.verdict for name, v in found.items()} == dict.fromkeys(("(r)", "(s)", "(t)"), "supported")
    assert found["(r)"].whole.value > 0.95
    assert found["(t)"].whole.value == pytest.approx(0.0, abs=0.3)
    assert "tf 1: tb 0.6 for 0.6" in found["(t)"].note
    assert {v.paper for v in found.values()} == {""}


def test_an_error_that_ranks_the_other_way_contradicts_all():
    found = verdicts(measured(130 - 10 * VALLEY, 0.1 + 0.3 * VALLEY))
    assert {name: v.verdict for name, v in found.items()} == dict.fromkeys(("(r)", "(s)", "(t)"), "contradicted")
    assert found["(r)"].whole.value < -0.95
    # at each tf the worst tb for the best
    worst = VALLEY.max(1) - VALLEY.min(1)
    assert found["(t)"].whole.value == pytest.approx(10 * worst.mean(), abs=0.3)


def test_noise_counts_at_one_estimate_only():
    """Bias along the valley, noise the other way: one estimate is judged by its noise, many by their bias."""
    ds = measured(100 + 30 * VALLEY, 0.1 + 0.3 * VALLEY, noise=20 * np.exp(-VALLEY)[..., None, None])
    assert verdicts(ds, "1")["(r)"].whole.value < 0
    assert verdicts(ds, "inf")["(r)"].whole.value > 0.95


# --- the choice of tb ---


def test_the_best_loss_is_chosen_on_other_seeds():
    """Losses are noise: no tb is better, and over 300 sweeps the choice costs 0 within 4 standard errors. Chosen on the
    seed that it is compared on, the least of seven losses looks over a standard deviation better."""
    rng = np.random.default_rng(0)
    ds = measured(100 + VALLEY, VALLEY, seeds=3)
    found, naive = [], []
    for _ in range(300):
        loss = 100 + rng.normal(size=(3, 7, 7))
        error = rng.uniform(size=(3, 7, 7))
        found.append(fidelity_and_loss._choice(ds, {}, error, loss).whole.value)
        naive.append((loss.mean(-1) - loss.min(-1)).mean())
    assert abs(np.mean(found)) <= 4 * np.std(found) / np.sqrt(300)
    assert np.mean(naive) > 1


def test_failed_and_collapsed_trainings():
    ds = measured(100 + 30 * VALLEY, 0.1 + 0.3 * VALLEY)
    ds.final_validation_loss[0, 6, 1], ds.status[0, 6, 1] = np.nan, "failed"
    ds.final_validation_loss[3, 3, 2] = 206.1
    found = verdicts(ds)
    assert found["(r)"].verdict == "supported"  # the failed one counts as one without a code, and has the worst error
    assert "failed seeds: (0.3, 3.0) 1" in found["(r)"].note
    assert "without the 1 collapsed trainings" in found["(r)"].note
    assert sweeps.collapsed(ds).sum() == 1


def test_below_the_papers_budget_nothing_is_decided():
    found = verdicts(measured(100 + 30 * VALLEY, 0.1 + 0.3 * VALLEY, images=10_000))
    assert {v.verdict for v in found.values()} == {"not tested at this budget"}


# --- what it costs, and the figure ---


def test_epochs_and_costs():
    paper = fidelity_and_loss.BUDGETS["paper"]
    assert paper.epochs == (1, 5, 20, 160)
    assert fidelity_and_loss.BUDGETS["quick"].epochs == (1, 5, 8)
    assert "fidelity on 100 images with 1,024 draws after 4 epochs of each" in fidelity_and_loss.FidelityAndLoss().cost(
        "paper"
    )


def test_the_figure_shows_errors_correlations_and_choices():
    ds = measured(100 + 30 * VALLEY, 0.1 + 0.3 * VALLEY)
    figure = plots.auto(ds)
    left, middle, right = figure.axes
    points = [line for line in left.lines if line.get_label().startswith("tf ")]
    assert len(points) == 7
    np.testing.assert_array_equal(
        points[2].get_xdata(), ds.matched_error.sel(tf=1.0, tracked_epoch=5, averaged=100).values.ravel()
    )
    np.testing.assert_array_equal(points[2].get_ydata(), ds.final_validation_loss.sel(tf=1.0).values.ravel())
    drawn = [line.get_ydata() for line in middle.lines if len(line.get_xdata()) == 4]
    np.testing.assert_array_equal(drawn[2], ds.rank_correlation.sel(averaged=100))
    np.testing.assert_array_equal(drawn[3], ds.rank_correlation_along_tb.sel(averaged=100))
    chosen = {line.get_label(): line.get_ydata().tolist() for line in right.lines}
    assert chosen["loss"] == ds.tb_of_least_loss.values.tolist() == chosen["error, 20 epochs"]
    assert misplaced_texts(figure) == []
    with pytest.raises(ValueError, match="expected a Dataset of fidelity-and-loss, got one without rank_correlation"):
        plots.fidelity_and_loss(ds.drop_vars("rank_correlation"))
