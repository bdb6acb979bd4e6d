"""Figures of a sweep: the heatmap of losses and the lines beside it."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_hex
from matplotlib.patches import Rectangle

from gradlab import plots, sweeps

from .drawn_sweeps import (
    BEST,
    BLUE,
    FAILED,
    MISSING,
    RED,
    SEEDS,
    TBS,
    TFS,
    final,
    means_of,
    planted,
    points_of,
    swept,
)
from .figures import caption, cell_texts, legend, overlaps, segments


def outlined(ax, colour=None):
    """Cells (tf, tb), by position, with an outline of this colour, or thin."""
    found = [p for p in ax.patches if isinstance(p, Rectangle)]
    found = [p for p in found if (to_hex(p.get_edgecolor()) == colour if colour else p.get_linewidth() < 1)]
    return sorted((round(p.get_center()[0]), round(p.get_center()[1])) for p in found)


def dotted(ax):
    """Cells (tf, tb) with a dot in their corner."""
    (line,) = ax.lines
    return sorted(zip(np.floor(line.get_xdata() + 0.5).astype(int), np.floor(line.get_ydata() + 0.5), strict=True))


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# losses: the heatmap


def test_seeds_that_collapsed_are_counted_and_their_medians_drawn():
    """Of tf = tb = 1 all three seeds, of (1, 0.3) one, end no better than without a code."""
    ds = swept()
    ds["final_validation_loss"].values[1, 1] = [205.0, 206.0, 207.0]
    ds["final_validation_loss"].values[1, 0, 2] = 206.0
    ds = sweeps.with_means(ds.assign_attrs(loss_without_code=206.0))
    figure = plots.losses(ds)
    left, right = figure.axes[:2]
    counts = {text.get_text(): text.get_position() for text in left.texts if text.get_fontsize() < 5}
    assert counts == {"3": (pytest.approx(0.58), pytest.approx(1.42)), "1": (pytest.approx(0.58), pytest.approx(0.42))}
    assert "corner: seeds of 3 that collapsed" in caption(figure)
    assert {"medians", "without a code"} <= set(entries(right))
    medians = [line.get_ydata() for line in right.lines if line.get_markerfacecolor() == "white"]
    assert [value for line in medians for value in line if np.isfinite(value)] == [206.0]  # (1, 0.3) is no best pair
    assert overlaps(figure) == []
    without = plots.losses(swept())
    assert "collapsed" not in caption(without)
    assert "medians" not in entries(without.axes[1])


def test_the_heatmap_shows_means_over_seeds_tb_upwards():
    ds = swept()
    left, right, bar = plots.losses(ds).axes
    (image,) = left.images
    np.testing.assert_array_equal(image.get_array(), final(ds).transpose("tb", "tf"))
    assert image.origin == "lower"
    assert [t.get_text() for t in left.get_xticklabels()] == ["0.3", "1", "1.6"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["0.3", "1", "1.3", "3"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("forward temperature tf", "backward temperature tb")
    assert left.get_title() == right.get_ylabel() == "validation loss (nats)"
    assert bar.get_position().x0 > left.get_position().x1
    assert outlined(left) == [(0, 0), (1, 1)]


def test_the_lowest_pair_is_outlined_and_named():
    figure = plots.losses(planted(swept(), (1, 3), (2, 0)))
    assert outlined(figure.axes[0], BEST) == [(2, 0)]
    assert "thick outline: lowest mean, tf 1.6, tb 0.3;" in caption(figure)
    assert "chosen on the seeds shown: with new seeds their loss is likely higher" in caption(figure)


def test_a_pair_with_fewer_seeds_has_a_dot_and_is_never_the_lowest():
    """Its worst seeds may be those that failed."""
    ds = planted(swept(without={(2, 0, 1): FAILED, (0, 2, 0): MISSING}), (1, 3), (2, 0))
    figure = plots.losses(ds)
    left, right, _ = figure.axes
    assert outlined(left, BEST) == [(1, 3)]
    assert dotted(left) == [(0, 2), (2, 0)]
    assert 1.6 in means_of(right)[BLUE].get_xdata()
    assert final(ds).values[2, 0] not in means_of(right)[BLUE].get_ydata()
    assert "3 seeds, of some pairs fewer; 1 training failed;" in caption(figure)
    assert "dot: fewer seeds done" in caption(figure)
    assert dotted(plots.losses(swept()).axes[0]) == []
    assert "dot" not in caption(plots.losses(swept()))


def test_pairs_of_which_nothing_is_done_are_hatched():
    without = {(0, 3, seed): FAILED for seed in range(SEEDS)} | {(2, 2, seed): MISSING for seed in range(SEEDS)}
    figure = plots.losses(swept(without=without))
    left = figure.axes[0]
    assert np.argwhere(left.images[0].get_array().mask).tolist() == [[2, 2], [3, 0]]
    assert left.patch.get_hatch()
    assert len(cell_texts(left)) == 10
    assert dotted(left) == []
    assert "3 trainings failed; interval" in caption(figure)
    assert "hatched: no finite value" in caption(figure)


@pytest.mark.parametrize("failures", range(6))
def test_the_lowest_are_those_that_the_sweep_reports(failures):
    """`sweeps.best`, which the terminal prints, over random sweeps with failures."""
    rng = np.random.default_rng(failures)
    cells = list(itertools.product(range(3), range(4), range(SEEDS)))
    without = {cells[k]: FAILED for k in rng.choice(len(cells), failures, replace=False)}
    ds = swept(without=without)
    at, diagonal = sweeps.best(ds), sweeps.best(ds, diagonal=True)
    left = plots.losses(ds).axes[0]
    assert outlined(left, BEST) == [(TFS.index(at.tf), TBS.index(at.tb))]
    named = [one.split(": ") for one in legend(plots.training_curves(ds))]
    assert [pair for words, pair in named if "lowest" in words.split(" and ")] == [f"tf {at.tf:g}, tb {at.tb:g}"]
    expected = [f"tf {diagonal.tf:g}, tb {diagonal.tb:g}"] if diagonal else []
    assert [pair for words, pair in named if "lowest of tf = tb" in words.split(" and ")] == expected


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (83.7, 91.3, ["83.70", "91.30"]),
        (126.314, 126.352, ["126.31", "126.35"]),
        (126, 180, ["126.0", "180.0"]),
        (2.641e-3, 4.7e-3, ["2.64", "4.70"]),
        (0.0264, 0.0281, ["0.0264", "0.0281"]),
        (84, 84, ["84.00", "84.00"]),
        (1000, 1800, ["1000", "1800"]),
    ],
)
def test_cells_have_as_many_digits_as_tell_losses_apart(low, high, texts):
    ds = swept(tf=[1.0], tb=[0.5, 2.0], seeds=1)
    ds["final_validation_loss"][0, :, 0] = [low, high]
    assert cell_texts(plots.losses(sweeps.with_means(ds)).axes[0]) == texts


def test_small_losses_are_in_a_power_of_ten_of_their_unit():
    ds = swept(level=2.6e-3, unit="squared error per pixel")
    left, right, _ = plots.losses(ds).axes
    np.testing.assert_allclose(left.images[0].get_array(), 1e3 * final(ds).transpose("tb", "tf"), rtol=1e-12)
    np.testing.assert_allclose(means_of(right)[RED].get_ydata()[0], 1e3 * final(ds)[0, 0], rtol=1e-12)
    label = "validation loss\n(1e-3 squared error per pixel)"
    assert left.get_title() == right.get_ylabel() == label
    assert plots.training_curves(ds).axes[0].get_ylabel() == label
    assert final(ds).attrs["units"] == "squared error per pixel"


def test_losses_over_decades_are_on_logarithmic_scales():
    ds = swept()
    ds["final_validation_loss"][:] = ds["final_validation_loss"] * 10.0 ** np.arange(3)[:, None, None]
    left, right, _ = plots.losses(sweeps.with_means(ds)).axes
    assert isinstance(left.images[0].norm, LogNorm)
    assert right.get_yscale() == "log"
    assert plots.losses(swept()).axes[1].get_yscale() == "linear"


# losses: the lines beside it


def test_the_diagonal_stands_against_the_lowest_beside_it():
    ds = swept()
    right = plots.losses(ds).axes[1]
    assert set(means_of(right)) == {BLUE, RED}
    same = means_of(right)[RED]
    assert same.get_xdata().tolist() == [0.3, 1.0]
    assert same.get_ydata().tolist() == [final(ds).values[0, 0], final(ds).values[1, 1]]
    apart = final(ds).where(ds.tf != ds.tb)
    lowest = means_of(right)[BLUE]
    assert lowest.get_xdata().tolist() == TFS
    np.testing.assert_array_equal(lowest.get_ydata(), apart.min("tb"))
    at = ", ".join(f"{tb:g}" for tb in apart.idxmin("tb").values)
    assert f"lowest of tb ≠ tf: from left to right at tb = {at};" in caption(right.figure)
    assert entries(right) == ["lowest of tb ≠ tf", "tf = tb", "single seeds"]
    assert right.get_xlabel() == "forward temperature tf"


def test_intervals_and_single_seeds_stand_with_the_means():
    ds = swept()
    right = plots.losses(ds).axes[1]
    ends = [[final(ds, part).values[k, k] for part in ("_low", "_high")] for k in range(2)]
    drawn = {(s[0, 0], *s[:, 1]) for s in segments(right)}
    assert {(tf, *both) for tf, both in zip(TFS[:2], ends, strict=True)} <= drawn
    points = points_of(right)[RED]
    np.testing.assert_array_equal(points.get_xdata(), np.repeat([0.3, 1.0], SEEDS))
    np.testing.assert_array_equal(points.get_ydata(), [v for k in range(2) for v in ds.final_validation_loss[k, k]])
    low, high = right.get_ylim()
    assert all(low < end < high for s in segments(right) for end in s[:, 1])
    assert low > 50  # the scale is that of the losses, without 0
    left, beside = (means_of(right)[c].get_transform().transform((1.0, 90))[0] for c in (BLUE, RED))
    assert beside - left > 5


def test_one_seed_has_neither_points_nor_interval():
    figure = plots.losses(swept(seeds=1))
    right = figure.axes[1]
    assert points_of(right) == {}
    assert entries(right) == ["lowest of tb ≠ tf", "tf = tb"]
    assert not [s for s in segments(right) if len(s) and np.isfinite(s).all()]
    assert "1 seed; no interval from one seed" in caption(figure)


def test_without_a_diagonal_there_is_none():
    right = plots.losses(swept(tf=[0.5, 2.0], tb=[1.0, 3.0])).axes[1]
    assert set(means_of(right)) == {BLUE}
    assert "tf = tb" not in entries(right)


def test_one_pair_is_drawn():
    for tb, colour in ((1.0, RED), (3.0, BLUE)):
        figure = plots.losses(swept(tf=[1.0], tb=[tb]))
        assert list(means_of(figure.axes[1])) == [colour]
        assert "chosen" not in caption(figure)


def test_the_caption_says_what_was_trained():
    for figure in (plots.losses(swept()), plots.schedules(swept()), plots.training_curves(swept())):
        for fact in (
            "mean over seeds of the validation loss after the",
            "one code per image, without KL; decoupled-st-gs; mnist, train split, first 500; loss bernoulli (nats)",
            "validated on mnist, test split, first 200; categorical-vae 8x4; 10 epochs; 3 seeds;",
            "interval: 95 % over seeds, Student's t",
            "chosen on the seeds shown",
        ):
            assert fact in caption(figure)


def test_unsorted_temperatures_are_drawn_in_order():
    ds = swept()
    figure = plots.losses(ds.isel(tf=[2, 0, 1], tb=[3, 1, 0, 2]))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), final(ds).transpose("tb", "tf"))
    assert outlined(figure.axes[0], BEST) == outlined(plots.losses(ds).axes[0], BEST)
