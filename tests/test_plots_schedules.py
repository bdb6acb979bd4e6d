"""Figures of schedules and of training curves."""

import numpy as np
from matplotlib.colors import to_hex

from gradlab import plots, sweeps

from .drawn_sweeps import BLUE, FAILED, RED, SEEDS, TRAINED, final, means_of, planted, points_of, rows, scheduled, swept
from .figures import band, caption, curves, legend, segments


def test_schedules_are_sorted_by_their_mean_the_lowest_on_top():
    ds = scheduled()
    figure = plots.schedules(ds)
    ax = figure.axes[0]
    order = sorted(TRAINED, key=lambda at: final(ds).values[at])
    assert rows(figure) == [TRAINED[at] for at in order]
    assert ax.yaxis_inverted()
    shown = {
        y: x for line in means_of(ax).values() for x, y in zip(*line.get_data(), strict=True) if line.get_ls() == "None"
    }
    assert shown == {row: final(ds).values[at] for row, at in enumerate(order)}
    ends = {row: [final(ds, part).values[at] for part in ("_low", "_high")] for row, at in enumerate(order)}
    assert {s[0, 1]: s[:, 0].tolist() for s in segments(ax)} == ends
    points = points_of(ax)
    for row, at in enumerate(order):
        line = points[RED if at == (0, 0) else BLUE]
        assert line.get_xdata()[line.get_ydata() == row].tolist() == ds.final_validation_loss.values[at].tolist()
    assert ax.get_xlabel() == "validation loss (nats)"


def test_the_fixed_pair_is_highlighted():
    ds = scheduled()
    figure = plots.schedules(ds)
    ax = figure.axes[0]
    value = final(ds).values[0, 0]
    assert means_of(ax)[RED].get_xdata() == [value]
    (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert (list(line.get_xdata()), to_hex(line.get_color())) == ([value, value], RED)
    assert legend(figure) == ["schedule", "both fixed", "single seeds"]


def test_pairs_that_failed_stand_last_and_those_with_fewer_seeds_say_so():
    failed = {(0, 1, seed): FAILED for seed in range(SEEDS)} | {(1, 1, 2): FAILED}
    figure = plots.schedules(scheduled(without=failed))
    assert rows(figure)[-1] == "tf 0.3, tb 1 → 2 (failed)"
    assert "tf 1 → 0.3, tb 1 → 2 (2 of 3 seeds)" in rows(figure)
    assert "4 trainings failed" in caption(figure)
    low, high = sorted(figure.axes[0].get_ylim())
    assert low < 0 < 3 < high


def test_pairs_of_numbers_can_stand_below_each_other():
    figure = plots.schedules(swept())
    assert len(rows(figure)) == 12
    assert "tf 1.6, tb 0.3" in rows(figure)
    assert legend(figure) == ["both fixed", "single seeds"]
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]


def test_schedules_alone_have_no_reference():
    ds = scheduled().sel(tf=["1:0.3", "1:2:cosine"])
    assert legend(plots.schedules(ds)) == ["schedule", "single seeds"]


# training curves


def test_training_curves_are_of_the_lowest_the_diagonal_and_the_highest():
    ds = planted(swept(), (1, 1), (2, 0))
    ds["final_validation_loss"][0, 3] = 1000
    ds = sweeps.with_means(ds)
    figure = plots.training_curves(ds)
    whole, half = figure.axes
    assert legend(figure) == ["lowest: tf 1.6, tb 0.3", "lowest of tf = tb: tf 1, tb 1", "highest: tf 0.3, tb 3"]
    for line, at in zip(curves(whole), [(2, 0), (1, 1), (0, 3)], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), ds.epoch)
        np.testing.assert_array_equal(line.get_ydata(), ds.validation_loss_mean.values[at])
    corners = band(whole).get_paths()[0].vertices
    for k, epoch in enumerate(ds.epoch.values):
        ends = [ds[f"validation_loss_mean_{part}"].values[2, 0, k] for part in ("low", "high")]
        edge = corners[corners[:, 0] == epoch, 1]
        assert [edge.min(), edge.max()] == ends
    assert [line.get_xdata().tolist() for line in curves(half)] == [[6, 7, 8, 9, 10]] * 2
    assert "right: second half, without the highest" in caption(figure)
    assert whole.get_ylabel() == "validation loss (nats)"
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch"] * 2


def test_short_trainings_have_one_panel():
    figure = plots.training_curves(swept(epochs=7))
    assert len(figure.axes) == 1
    assert "second half" not in caption(figure)
    assert len(plots.training_curves(swept(epochs=8)).axes) == 2


def test_a_pair_that_is_two_of_them_is_drawn_once():
    ds = planted(swept(), (1, 1))
    assert legend(plots.training_curves(ds))[0] == "lowest and lowest of tf = tb: tf 1, tb 1"
    assert len(curves(plots.training_curves(ds).axes[0])) == 2
    ds = planted(swept(tf=[1.0], tb=[1.0, 3.0]), (0, 1))
    assert legend(plots.training_curves(ds)) == ["lowest: tf 1, tb 3", "lowest of tf = tb and highest: tf 1, tb 1"]
    alone = plots.training_curves(swept(tf=[1.0], tb=[3.0]))
    assert legend(alone) == ["lowest: tf 1, tb 3"]
    assert [len(curves(ax)) for ax in alone.axes] == [1, 1]
    assert "highest" not in caption(alone)


def test_training_curves_of_schedules_are_labelled_so():
    ds = scheduled()
    at = min(TRAINED, key=lambda at: final(ds).values[at])
    assert legend(plots.training_curves(ds))[0] == f"lowest: {TRAINED[at]}"
