"""Figures along a training, and of results read from files by `gradlab plot`."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

import gradlab
from gradlab import plots, sweeps, training

from . import tiny_sweep
from .drawn_sweeps import drawn, rows, scheduled, swept
from .figures import band, caption, curves, legend, overlaps, segments

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
    assert labels == ["relative bias", "relative standard deviation", "cosine"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["epochs of training"] * 3
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
    assert [ax.get_ylabel() for ax in figure.axes] == ["relative gap", "gap (nats per logit)", "cosine"]
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
    assert [ax.get_ylabel() for ax in plots.tracked(ds).axes] == [
        "relative bias",
        "relative standard\ndeviation",
        "matched bias",
    ]


def test_a_training_just_begun_is_a_point(tracked):
    for ds in tracked.values():
        figure = plots.tracked(ds.isel(epoch=[0]))
        for ax in figure.axes:
            assert {len(line.get_xdata()) for line in curves(ax)} == {1}
            low, high = ax.get_xlim()
            assert low < 0 < high
        assert "at tf = 1.6, tb = 1.3" in caption(figure)


def test_auto_picks_the_figure(tracked):
    for ds, suited in ((swept(), plots.losses), (scheduled(), plots.schedules)):
        assert caption(plots.auto(ds)) == caption(suited(ds))
    for ds in tracked.values():
        assert caption(plots.auto(ds)) == caption(plots.tracked(ds))


@pytest.mark.parametrize("kind", ["bias", "gap"])
def test_no_text_along_a_training_overlaps_or_leaves_the_figure(tracked, kind):
    assert overlaps(plots.tracked(tracked[kind])) == []


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
    assert curve.axes[0].get_xlabel() == "epoch"


def test_plot_draws_what_was_tracked(run, tracked, monkeypatch, tmp_path):
    for kind, ds in tracked.items():
        gradlab.save_results(ds, tmp_path / f"vae.{kind}.h5")
        figure = drawn(run, monkeypatch, f"vae.{kind}.h5")
        assert caption(figure) == caption(plots.tracked(ds))
