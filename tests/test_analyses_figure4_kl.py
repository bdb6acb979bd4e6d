"""Figure 4 under three KL terms: the misfit from the published heatmap, and what is made of it."""

import itertools

import numpy as np
import pytest
from gradlab.analyses import figure4_kl, trainings
from gradlab.analyses.published import FIGURE4, FIGURE4_ROWS, WHOLE_ROWS

from gradlab import choices, plots, sweeps

from .figures import caption, misplaced_texts
from .made_up_sweeps import swept

PAPER = figure4_kl.BUDGETS["paper"]
COLUMNS = (0, 1, 3, 4, 5, 6, 8)  # of the nine published, where our seven temperatures are put


def heatmap(offset=0.0):
    """Losses (tf, tb) of which two tf are published rows, `offset` off; the others lie far away."""
    means = 120.0 + 5.0 * np.arange(49).reshape(7, 7)
    means[2] = np.array(WHOLE_ROWS[0])[list(COLUMNS)] + offset
    means[5] = np.array(WHOLE_ROWS[1])[list(COLUMNS)] - offset
    return means


def sweep_of(means, seeds=4, noise=0.05, **about):
    losses = means[..., None] + noise * np.random.default_rng(0).normal(size=(7, 7, seeds))
    return swept(losses, PAPER.tf, PAPER.tb, loss_without_code=206.0, **about)


def three(none, model, sampled, **about):
    """The Dataset of the analysis with these means under the three KL terms."""
    each = [sweep_of(means, **about) for means in (none, model, sampled)]
    ds = trainings._joined(each, choices.KL_TERMS)
    return ds.assign(published=("published_cell", np.array(FIGURE4), {"units": "nats"}))


def test_what_is_published():
    assert len(FIGURE4) == 63
    assert (FIGURE4[0], FIGURE4[-1]) == (83.74, 91.34)
    assert [len(row) for row in WHOLE_ROWS] == [9, 9]
    assert max(map(len, FIGURE4_ROWS)) == 9


def test_the_misfit_is_the_least_over_all_assignments():
    """By loops over everything that is not known: which line, row or column, direction, and columns."""
    means = 85 + np.random.default_rng(0).normal(size=(7, 7))
    total = 0.0
    for row in WHOLE_ROWS:
        least = np.inf
        for table, line, step in itertools.product((means, means.T), range(7), (1, -1)):
            for inner in itertools.combinations(range(1, 8), 5):
                taken = [row[::step][i] for i in (0, *inner, 8)]
                least = min(least, sum((a - b) ** 2 for a, b in zip(taken, table[line], strict=True)) / 7)
        total += least
    assert figure4_kl.misfit(means) == pytest.approx(np.sqrt(total / 2))


@pytest.mark.parametrize("turn", [lambda m: m, lambda m: m.T, lambda m: m[:, ::-1], lambda m: m.T[::-1]])
def test_it_is_0_for_the_published_rows_wherever_they_stand(turn):
    assert figure4_kl.misfit(turn(heatmap())) == pytest.approx(0.0, abs=1e-12)
    assert figure4_kl.misfit(turn(heatmap(0.5))) == pytest.approx(0.5, abs=0.1)


def test_the_kl_term_with_the_least_misfit_is_supported():
    found = {
        v.which["KL"]: v
        for v in figure4_kl.Figure4ByKL().judge(three(heatmap(0.1), heatmap(80.0), heatmap(1.0)))
        if "(q)" in v.claim
    }
    assert {kl: v.verdict for kl, v in found.items()} == {
        "none": "supported",
        "model": "contradicted",
        "sampled": "contradicted",
    }
    assert found["none"].whole.value == pytest.approx(0.1 - 1.0, abs=0.15)
    assert found["none"].whole.low <= found["none"].whole.value <= found["none"].whole.high
    assert "cells at 0%, 25%, 50%, 75%, 100%: 84.0 (published 83.7)" in found["none"].note
    assert found["model"].claim == "(q) the published heatmap is of trainings with KL(softmax(l))"


def test_two_that_fit_as_well_leave_it_open():
    found = {v.which["KL"]: v.verdict for v in figure4_kl._published(three(heatmap(0.3), heatmap(9.0), heatmap(0.3)))}
    assert found == {"none": "undetermined", "model": "contradicted", "sampled": "undetermined"}


def test_claims_of_figure_4_are_judged_under_each_term_at_the_papers_budget_only():
    ds = three(heatmap(), heatmap(), heatmap())
    found = figure4_kl.Figure4ByKL().judge(ds)
    assert sorted({(v.claim[:3], v.which["KL"]) for v in found}) == sorted(
        itertools.product(("(f)", "(g)", "(h)", "(q)"), choices.KL_TERMS)
    )
    assert "not tested at this budget" not in {v.verdict for v in found}
    short = figure4_kl.Figure4ByKL().judge(three(heatmap(), heatmap(), heatmap(), images=10_000))
    assert {v.verdict for v in short} == {"not tested at this budget"}


def test_failed_seeds_are_left_out_of_the_means():
    losses = np.array([[1.0, np.nan], [3.0, np.nan]])
    assert figure4_kl._mean(losses).tolist() == [2.0, np.inf]
    ds = three(heatmap(), heatmap(), heatmap())
    ds.final_validation_loss[0, 0, 0] = np.nan
    assert all(v.whole.sign == 0 for v in figure4_kl._published(ds) if v.which["KL"] == "none")


def test_the_figure_shows_each_term_and_the_published_cells():
    ds = three(heatmap(), heatmap(60.0), heatmap(1.0))
    words = {"long_name": "validation loss", "units": "nats"}
    ds["final_validation_loss"] = ds.final_validation_loss.assign_attrs(words)
    ds["validation_loss"] = ds.final_validation_loss.expand_dims(epoch=[160]).assign_attrs(words)
    figure = plots.auto(sweeps.with_means(ds))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [
        "trained without KL",
        "trained with KL(softmax(l))",
        "trained with KL(softmax(l/tf))",
    ]
    assert figure.axes[3].get_xlabel() == "share of the cells, from the lowest"
    lines = {
        line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.lines if "(" in str(line.get_label())
    }
    assert set(lines) == {"without KL (49)", "KL(softmax(l)) (49)", "KL(softmax(l/tf)) (49)", "published (63)"}
    np.testing.assert_array_equal(lines["published (63)"], FIGURE4)
    means = ds.final_validation_loss.sel(kl="sampled").mean("seed").values
    np.testing.assert_allclose(lines["KL(softmax(l/tf)) (49)"], np.sort(means.ravel()))
    assert "whose tf and tb are not known" in caption(figure)
    assert misplaced_texts(figure) == []
