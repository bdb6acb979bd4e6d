"""Figures of sweeps and along trainings: they draw what the Dataset holds, and call the lowest what is the lowest."""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import LogNorm, to_hex
from matplotlib.patches import Rectangle

import gradlab
from gradlab import plots, sweeps, training

from . import tiny_sweep
from .figures import band, caption, cell_texts, curves, legend, misplaced_texts, segments

TFS, TBS, SEEDS = [0.3, 1.0, 1.6], [0.3, 1.0, 1.3, 3.0], 3
BEST, BLUE, RED = "#e69f00", "#0072b2", "#d55e00"
FAILED, MISSING = "failed", "missing"


def swept(tf=TFS, tb=TBS, seeds=SEEDS, epochs=10, level=90.0, spread=0.02, unit="nats", without=None, **about):
    """A sweep as gradlab.sweeps returns it; `without` is {(tf, tb, seed) by position: "failed" or "missing"}."""
    rng = np.random.default_rng(0)
    shape = (len(tf), len(tb), seeds, epochs)
    curve = level * (1 + spread * rng.uniform(size=shape)) * (1 + 1 / np.arange(1, epochs + 1))
    status = np.full(shape[:3], "done", object)
    for at, word in (without or {}).items():
        curve[at], status[at] = np.nan, word
    dims = ("tf", "tb", "seed")
    words = "validation loss after the {}epoch, one code per image, without KL"
    variables = {
        "validation_loss": ((*dims, "epoch"), curve, {"long_name": words.format(""), "units": unit}),
        "final_validation_loss": (dims, curve[..., -1], {"long_name": words.format("last "), "units": unit}),
        "status": (dims, status),
    }
    kind = object if isinstance(tf[0], str) else float
    coords = {
        "tf": ("tf", np.array(tf, kind), {"long_name": "forward temperature", "units": "1"}),
        "tb": ("tb", np.array(tb, kind), {"long_name": "backward temperature", "units": "1"}),
        "seed": np.arange(seeds),
        "epoch": ("epoch", np.arange(1, epochs + 1), {"long_name": "epoch", "units": "1"}),
    }
    settings = {"architecture": "categorical-vae", "epochs": epochs, "config": {"latents": 4, "categories": 8}}
    attributes = {
        "analysis": "sweep",
        "settings": json.dumps(settings),
        "estimator": '"decoupled-st-gs"',
        "loss": "bernoulli",
        "unit": unit,
        "data": "mnist, train split, first 500",
        "validation_data": "mnist, test split, first 200",
    }
    return sweeps.with_means(xr.Dataset(variables, coords, attributes | about))


def planted(ds, *lows):
    """The losses of these pairs lowered, in order the more."""
    values = ds["final_validation_loss"].values
    for k, (tf, tb) in enumerate(lows, 1):
        values[tf, tb] *= 1 - 0.1 * k
    return sweeps.with_means(ds)


def final(ds, part=""):
    return ds[f"final_validation_loss_mean{part}"]


def outlined(ax, colour=None):
    """Cells (tf, tb), by position, with an outline of this colour, or thin."""
    found = [p for p in ax.patches if isinstance(p, Rectangle)]
    found = [p for p in found if (to_hex(p.get_edgecolor()) == colour if colour else p.get_linewidth() < 1)]
    return sorted((round(p.get_center()[0]), round(p.get_center()[1])) for p in found)


def dotted(ax):
    """Cells (tf, tb) with a dot in their corner."""
    (line,) = ax.lines
    return sorted(zip(np.floor(line.get_xdata() + 0.5).astype(int), np.floor(line.get_ydata() + 0.5), strict=True))


def means_of(ax):
    """{colour: line of means} of a panel; legend entries, which hold nothing, left out."""
    lines = [line for line in curves(ax) if len(line.get_xdata()) and line.get_alpha() is None]
    return {to_hex(line.get_color()): line for line in lines}


def points_of(ax):
    """{colour: line of single seeds} of a panel."""
    lines = [line for line in ax.lines if line.get_alpha() == 0.4 and len(line.get_xdata())]
    return {to_hex(line.get_markerfacecolor()): line for line in lines}


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def overlaps(figure):
    """Texts that overlap each other or a panel, or leave the figure; those of ticks and of axes' legends too."""
    found = misplaced_texts(figure)  # lays the figure out
    renderer = figure.canvas.get_renderer()
    of_axes = [text for axis in axes_of(figure) for text in (*shown_ticks(axis), axis.label)]
    of_axes += [text for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in of_axes if text.get_text()]
    panels = [(f"panel {k}", ax.bbox) for k, ax in enumerate(figure.axes)]
    found += [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]
    found += [(a, b) for a, one in boxes for b, two in panels if one.overlaps(two)]
    inside = figure.bbox.padded(0.5)
    return found + [text for text, box in boxes if not (inside.contains(*box.min) and inside.contains(*box.max))]


def axes_of(figure):
    return [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]


def shown_ticks(axis):
    low, high = sorted(axis.get_view_interval())
    labelled = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
    return [text for at, text in labelled if low <= at <= high]


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
    assert (left.get_xlabel(), left.get_ylabel()) == ("forward temperature tf (1)", "backward temperature tb (1)")
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
    assert right.get_xlabel() == "forward temperature tf (1)"


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


# schedules


TF_TEXTS, TB_TEXTS = ["0.3", "1:0.3", "1:2:cosine"], ["3", "1:2", "1:3:exponential"]
TRAINED = {(0, 0): "tf 0.3, tb 3", (1, 1): "tf 1 → 0.3, tb 1 → 2", (0, 1): "tf 0.3, tb 1 → 2"} | {
    (2, 2): "tf 1 → 2 (cosine), tb 1 → 3 (exponential)"
}


def scheduled(**without):
    absent = {(*at, seed) for at in itertools.product(range(3), repeat=2) if at not in TRAINED for seed in range(SEEDS)}
    return swept(TF_TEXTS, TB_TEXTS, without=dict.fromkeys(absent, MISSING) | without.get("without", {}))


def rows(figure):
    return [t.get_text() for t in figure.axes[0].get_yticklabels()]


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
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch (1)"] * 2


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


# along a training


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """{kind: results of a real training with a schedule}, from their files."""
    out = tmp_path_factory.mktemp("tracked") / "vae.safetensors"
    settings = training.Settings(**{**vars(tiny_sweep.BASE), "tf": "1.6:0.8"})
    options = {"track": ("bias", "gap"), "track_every": 1, "track_images": 4, "track_draws": 32}
    training.train(settings, tiny_sweep.IMAGES, tiny_sweep.VALIDATION, out, **options)
    return {kind: gradlab.open_results(out.with_name(f"vae.{kind}.h5")) for kind in ("bias", "gap")}


def test_bias_along_a_training_is_drawn_by_epoch(tracked):
    ds = tracked["bias"]
    figure = plots.tracked(ds)
    names = ("relative_bias_debiased", "relative_std", "cosine_debiased")
    for ax, name in zip(figure.axes, names, strict=True):
        (line,) = curves(ax)
        assert line.get_xdata().tolist() == [0, 1, 2, 3]
        least = -1 if name == "cosine_debiased" else 0
        np.testing.assert_array_equal(line.get_ydata(), np.maximum(ds[name], least))
        corners = band(ax).get_paths()[0].vertices
        for k, epoch in enumerate(ds.epoch.values):
            edge = corners[corners[:, 0] == epoch, 1]
            ends = [max(float(ds[name + end][k]), least) for end in ("_low", "_high")]
            assert [edge.min(), edge.max()] == ends
    labels = [ax.get_ylabel().replace("\n", " ") for ax in figure.axes]
    assert labels == ["relative bias (1)", "relative standard deviation (1)", "cosine (1)"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["epochs of training (1)"] * 3
    for fact in (
        "at tf = 1.6 → 0.8, tb = 1.3; relative bias: bias over exact gradient (norms), sampling noise subtracted,"
        " clipped at 0; relative standard deviation:",
        "decoupled-st-gs; target law sampled (softmax(l/tf)); 32 draws; 4 examples; vae.safetensors",
        "interval: 95 %, delete-one-batch jackknife",
    ):
        assert fact in caption(figure)


def test_gap_along_a_training_has_a_colour_for_each_definition(tracked):
    ds = tracked["gap"]
    figure = plots.tracked(ds)
    for ax, name in zip(figure.axes, ("relative_gap_pooled", "gap", "cosine"), strict=True):
        assert len({to_hex(line.get_color()) for line in curves(ax)}) == 2
        for line, definition in zip(curves(ax), ds.definition.values, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), ds[name].sel(definition=definition))
    assert [ax.get_ylabel() for ax in figure.axes] == ["relative gap (1)", "gap (nats per logit)", "cosine (1)"]
    assert legend(figure) == ["autodiff", "shared-backward"]
    one = plots.tracked(ds.sel(definition="autodiff"))
    assert len(curves(one.axes[0])) == 1
    assert "definition autodiff" in caption(one)


def test_bias_is_clipped_at_0_and_a_cosine_is_not(tracked):
    ds = tracked["bias"].copy(deep=True)
    for name in ("relative_bias_debiased", "cosine_debiased"):
        ds[name][1], ds[f"{name}_low"][1] = -0.4, -0.6
    bias, _, cosine = plots.tracked(ds).axes
    assert curves(bias)[0].get_ydata()[1] == 0
    assert curves(cosine)[0].get_ydata()[1] == -0.4
    assert cosine.get_ylim()[0] < -0.6
    assert bias.get_ylim()[0] > -0.1


def test_a_file_from_before_the_debiased_cosine_is_drawn(tracked):
    ds = tracked["bias"].drop_vars([f"cosine_debiased{end}" for end in ("", "_low", "_high")])
    assert [ax.get_ylabel().split("(")[0] for ax in plots.tracked(ds).axes] == [
        "relative bias ",
        "relative standard\ndeviation ",
        "matched bias ",
    ]


def test_a_training_just_begun_is_a_point(tracked):
    for ds in tracked.values():
        figure = plots.tracked(ds.isel(epoch=[0]))
        for ax in figure.axes:
            assert {len(line.get_xdata()) for line in curves(ax)} == {1}
            low, high = ax.get_xlim()
            assert low < 0 < high
        assert "at tf = 1.6, tb = 1.3" in caption(figure)


# whatever is drawn


def test_auto_picks_the_figure(tracked):
    for ds, suited in ((swept(), plots.losses), (scheduled(), plots.schedules)):
        assert caption(plots.auto(ds)) == caption(suited(ds))
    for ds in tracked.values():
        assert caption(plots.auto(ds)) == caption(plots.tracked(ds))


NINE = [0.3, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0]
SWEEPS = {
    "grid": swept(),
    "large": swept(NINE, NINE, seeds=2),
    "larger": swept(np.linspace(0.1, 6, 14).tolist(), np.linspace(0.1, 6, 16).tolist(), seeds=2),
    "small losses": swept(level=2.6e-3, unit="squared error per pixel"),
    "tall": swept([1.0], NINE, unit="squared error per pixel"),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_no_text_of_losses_overlaps_or_leaves_the_figure(name):
    assert overlaps(plots.losses(SWEEPS[name])) == []


@pytest.mark.parametrize("name", ["grid", "small losses"])
@pytest.mark.parametrize("draw", [plots.schedules, plots.training_curves])
def test_no_text_of_a_sweep_overlaps_or_leaves_the_figure(name, draw):
    assert overlaps(draw(SWEEPS[name])) == []


@pytest.mark.parametrize("draw", [plots.schedules, plots.training_curves])
def test_no_text_of_schedules_overlaps_or_leaves_the_figure(draw):
    assert overlaps(draw(scheduled(without={(2, 2, 1): FAILED}))) == []


@pytest.mark.parametrize("kind", ["bias", "gap"])
def test_no_text_along_a_training_overlaps_or_leaves_the_figure(tracked, kind):
    assert overlaps(plots.tracked(tracked[kind])) == []


def test_an_overlap_would_be_found():
    figure = plots.losses(swept())
    figure.axes[1].set_ylabel("far too long " * 20)
    figure.axes[0].set_xticks([1.0, 1.01], ["near", "another"])
    found = overlaps(figure)
    assert ("near", "another") in found
    assert any("far too long" in one for one in found)


def test_neither_data_nor_pyplot_is_touched():
    ds = swept(tf=[1.6, 0.3, 1.0], level=2.6e-3)
    before, numbers = ds.copy(deep=True), plt.get_fignums()
    for draw in (plots.losses, plots.schedules, plots.training_curves):
        draw(ds)
    assert plt.get_fignums() == numbers
    xr.testing.assert_identical(ds, before)


def test_unsorted_temperatures_are_drawn_in_order():
    ds = swept()
    figure = plots.losses(ds.isel(tf=[2, 0, 1], tb=[3, 1, 0, 2]))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), final(ds).transpose("tb", "tf"))
    assert outlined(figure.axes[0], BEST) == outlined(plots.losses(ds).axes[0], BEST)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: plots.losses({}), r"ds: expected an xarray\.Dataset of .*, got dict"),
        (
            lambda ds: plots.losses(ds.drop_vars("status")),
            "ds: expected a Dataset of gradlab.sweeps.sweep, got a Dataset without status along seed",
        ),
        (
            lambda ds: plots.schedules(ds.isel(seed=0)),
            "ds: expected a Dataset of .*, got a Dataset without final_validation_loss along seed",
        ),
        (
            lambda ds: plots.auto(ds.drop_vars("final_validation_loss_mean")),
            r"ds: .*, got a sweep without final_validation_loss_mean; gradlab\.sweeps\.with_means adds it",
        ),
        (
            lambda ds: plots.training_curves(ds.drop_vars("validation_loss_mean")),
            "ds: expected a sweep with .*, got a sweep without validation_loss_mean; gradlab",
        ),
        (
            lambda ds: plots.losses(ds.isel(seed=[0, 1])),
            "ds: expected final_validation_loss_mean of all seeds, got one of other seeds",
        ),
        (
            lambda ds: plots.losses(sweeps.with_means(ds.where(ds.tf > 5))),
            "ds: expected at least one finished training, got a sweep without one",
        ),
        (
            lambda ds: plots.losses(scheduled()),
            r"ds: expected a sweep of numbers, got a sweep of schedules; use plots\.schedules",
        ),
        (
            lambda ds: plots.tracked(ds),
            "ds: expected bias or gap along a training",
        ),
        (
            lambda ds: plots.auto(ds[["validation_loss"]]),
            "ds: expected a Dataset of .*, got a Dataset without final_validation_loss along seed",
        ),
        (
            lambda ds: plots.heatmap(ds, "final_validation_loss"),
            "variable: expected one over tf and tb .*, got final_validation_loss",
        ),
    ],
)
def test_errors_say_what_came_and_what_would_do(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(swept())


# the command line, on real trainings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    ds = tiny_sweep.sweep(path / "cells", tf=[0.5, 1.0], tb=[1.0, 2.0], seeds=[0, 1], epochs=1)
    gradlab.save_results(ds, path / "sweep.h5")
    pairs = [("1:0.3", 1.0), (0.5, 1.0)]
    ds = tiny_sweep.sweep(path / "cells", tf=[0.5, "1:0.3"], tb=[1.0], pairs=pairs, seeds=[0, 1], epochs=1)
    gradlab.save_results(ds, path / "schedules.h5")
    return path


def drawn(run, monkeypatch, *arguments):
    """The figure that a `gradlab plot` writes."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out, **_: figures.append(figure))
    assert run("plot", *arguments).code == 0
    return figures[0]


def test_plot_draws_a_sweep_from_its_file(run, folder, tmp_path):
    done = run("plot", folder / "sweep.h5", "--out", "losses.png")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [(), ("--kind", "losses"), ("--kind", "heatmap")])
def test_plot_shows_the_means_of_a_sweep(run, folder, monkeypatch, options):
    figure = drawn(run, monkeypatch, folder / "sweep.h5", *options)
    means = sweeps.over_seeds(gradlab.open_results(folder / "sweep.h5"))["mean"]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), means.transpose("tb", "tf"))


def test_plot_shows_the_intervals_of_a_sweep(run, folder, monkeypatch):
    figure = drawn(run, monkeypatch, folder / "sweep.h5", "--kind", "schedules")
    means = sweeps.over_seeds(gradlab.open_results(folder / "sweep.h5"))
    order = np.argsort(means["mean"].values.ravel())
    expected = np.stack([means[end].values.ravel()[order] for end in ("low", "high")], 1)
    np.testing.assert_array_equal([s[:, 0] for s in segments(figure.axes[0])], expected)


def test_plot_draws_schedules_and_curves(run, folder, monkeypatch):
    assert sorted(rows(drawn(run, monkeypatch, folder / "schedules.h5"))) == ["tf 0.5, tb 1", "tf 1 → 0.3, tb 1"]
    assert len(rows(drawn(run, monkeypatch, folder / "sweep.h5", "--kind", "schedules"))) == 4
    curve = drawn(run, monkeypatch, folder / "sweep.h5", "--kind", "curves")
    assert curve.axes[0].get_xlabel() == "epoch (1)"


def test_plot_draws_what_was_tracked(run, tracked, monkeypatch, tmp_path):
    for kind, ds in tracked.items():
        gradlab.save_results(ds, tmp_path / f"vae.{kind}.h5")
        figure = drawn(run, monkeypatch, f"vae.{kind}.h5")
        assert caption(figure) == caption(plots.tracked(ds))
