"""gradlab sweep: options, progress, table, exit codes."""

import contextlib
import json
import os
import pty
import signal
import sys
import threading
import time

import click
import numpy as np
import pytest
import torch
import xarray as xr
from gradlab.cli.specs import Seeds, SweepSpec

import gradlab
from gradlab import datasets, rounding, sweeps, training
from gradlab.attributes import nested
from gradlab.sweeps.cells import grid
from gradlab.sweeps.folder import Folder
from gradlab.sweeps.progress import Watch

from .tiny_sweep import BASE, IMAGES, VALIDATION, sweep

SMALL = ["--data", "own", "--epochs", "1", "--batch-size", "10", "--folder", "cells"]
GRID = ["--tf", "0.5,1", "--tb", "1.5,1", "--seeds", "2"]


@pytest.fixture
def own(tmp_path):
    """A data set `own` of 30 pictures, to train on in no time."""
    for position, name in enumerate(datasets.IDX_FILES.values()):
        generator = torch.Generator().manual_seed(position)
        pixels = torch.randint(256, (30, 1, 4, 4), generator=generator, dtype=torch.uint8)
        datasets.write_idx(tmp_path / "own" / f"{name}.gz", pixels)
    return tmp_path


def failing_at(monkeypatch, **where):
    train = training.train

    def failing(settings, *given, **options):
        if all(getattr(settings, name) == value for name, value in where.items()):
            raise FloatingPointError("the loss is [gone]")
        return train(settings, *given, **options)

    monkeypatch.setattr(training, "train", failing)


# --- the grid ---


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.6", [1.6]),
        ("1.6,0.5", [0.5, 1.6]),
        ("0.3:0.9:3", [0.3, 0.6, 0.9]),
        ("2,0.3:0.9:3", [0.3, 0.6, 0.9, 2.0]),
        ("1:0.3", ["1:0.3"]),
        ("1:0.3:cosine,0.5,1.0:0.30:linear", [0.5, "1:0.3", "1:0.3:cosine"]),
        ("2:2", [2.0]),
    ],
)
def test_temperatures_are_numbers_ranges_and_schedules(text, wanted):
    assert SweepSpec().convert(text, click.Option(["--tf"]), None) == wanted


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "1,1", "1,1:1", "a", "1:2:1", "1:2:sine", "1:2:3:4", "1:", "1,,2"]
)
def test_what_is_no_temperature_is_wrong_usage(run, own, text):
    ran = run("sweep", "vae", *SMALL, "--tb", "1", "--tf", text)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert "--tf" in ran.err


@pytest.mark.parametrize(
    ("text", "wanted"), [("5", [0, 1, 2, 3, 4]), ("1", [0]), ("3:5", [3, 4, 5]), ("7,2", [7, 2]), ("4:4", [4])]
)
def test_seeds_are_counted_ranged_or_listed(text, wanted):
    assert Seeds().convert(text, None, None) == wanted


@pytest.mark.parametrize(
    "text", ["0", "-3", "5:3", "1,1", "a", "1:2:3", "1.5", "0:99999999999", "99999999999999999999,1"]
)
def test_what_are_no_seeds_is_wrong_usage(run, own, text):
    ran = run("sweep", "vae", *SMALL, "--tf", "1", "--tb", "1", "--seeds", text)
    assert (ran.code, ran.out) == (2, "")
    assert "expected 5 (seeds 0 to 4), 3:7 (3 to 7) or 0,1,7" in ran.err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--track-every", "2"], "--track-every: needs --track"),
        (["--track-draws", "8"], "--track-draws: needs --track"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "--workers: expected none with --scheduler"),
        (["--estimator", "st-g"], "did you mean"),
        (["--estimator", "disarm"], "estimator: expected one for categorical latents, got disarm"),
        (["--folder", "own/train-images-idx3-ubyte.gz"], "--folder"),
        (["--device", "gpu"], "device: expected a usable device, got 'gpu'"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_one_line_and_nothing_is_written(run, own, arguments, fragment):
    ran = run("sweep", "vae", *SMALL, "--tf", "1", "--tb", "1", *arguments)
    assert ran.code in (1, 2)
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert fragment in line
    assert [path.name for path in own.rglob("*.h5")] == []


def test_the_grid_must_be_given(run, own):
    assert run("sweep", "vae", *SMALL).code == 2
    assert run("sweep").code == 2


# --- results ---


def test_a_sweep_writes_its_dataset_and_prints_a_table(run, own):
    ran = run("sweep", "vae", *SMALL, *GRID)
    assert ran.code == 0
    ds = gradlab.open_results("sweep.h5")
    assert dict(ds.sizes) == {"tf": 2, "tb": 2, "seed": 2, "epoch": 1}
    assert nested(ds.attrs, "settings")["config"] == {"latents": 4, "categories": 8, "image_shape": [1, 4, 4]}
    assert len(list((own / "cells").iterdir())) == 8
    lines = ran.err.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("1/8 tf 0.5, tb 1.0, seed 0: validation loss ")
    assert lines[-1].startswith("8/8 tf 1.0, tb 1.5, seed 1: validation loss ")
    assert "categorical-vae, decoupled-st-gs, 1 epoch; own, train split, first 30; 8 cells done" in ran.out
    best, diagonal = sweeps.best(ds), sweeps.best(ds, diagonal=True)
    assert f"lowest mean: tf {best.tf:g}, tb {best.tb:g}: {rounding.written(*best.mean[:3])}" in ran.out
    assert f"lowest with tf = tb: tf 1, tb 1: {rounding.written(*diagonal.mean[:3])}" in ran.out
    assert "wrote sweep.h5" in ran.out
    again = run("sweep", "vae", *SMALL, *GRID)
    assert (again.code, again.out, again.err) == (0, ran.out.replace("wrote sweep.h5", "replaced sweep.h5"), "")


def test_json_is_one_object_and_all_else_goes_to_standard_error(run, own):
    ran = run("sweep", "vae", *SMALL, *GRID, "--out", "other.h5", "--json")
    found = json.loads(ran.out)
    ds = gradlab.open_results("other.h5")
    means = sweeps.over_seeds(ds)
    assert [(row["tf"], row["tb"], row["seeds"]) for row in found["pairs"]] == [
        (tf, tb, 2) for tf in (0.5, 1.0) for tb in (1.0, 1.5)
    ]
    for row in found["pairs"]:
        one = means.sel(tf=row["tf"], tb=row["tb"])
        assert (row["value"], row["low"], row["high"]) == (one["mean"], one.low, one.high)
    assert found["best"]["value"] == min(row["value"] for row in found["pairs"])
    assert found["best_diagonal"] in found["pairs"]
    assert (found["failed"], found["files"]) == ([], ["other.h5"])
    assert found["attributes"]["analysis"] == "sweep"
    assert len(ran.err.splitlines()) == 8


def test_collapsed_trainings_are_counted_beside_mean_and_median(run, undisturbed):
    """Two seeds of one pair no better than a picture of the mean of the training images."""
    ds = undisturbed[1].copy(deep=True)
    images = IMAGES.floats()
    rate = (images.double().sum(0) + 0.5) / (len(images) + 1)
    x = VALIDATION.floats().double()
    without = float(-(x * rate.log() + (1 - x) * (1 - rate).log()).flatten(1).sum(1).mean())
    assert ds.attrs["loss_without_code"] == pytest.approx(without, rel=1e-6)
    ds.final_validation_loss[:] = [0.5 * without, 0.7 * without]
    ds.final_validation_loss[1, 2] = [without, 0.99 * without]
    gradlab.save_results(ds, "some.h5")
    rows = json.loads(run("show", "some.h5", "--json").out)["pairs"]
    assert [row["collapsed"] for row in rows] == [0, 0, 0, 0, 0, 2]
    assert rows[0]["median"] == pytest.approx(0.6 * without)
    shown = run("show", "some.h5").out
    assert "collapsed: 2 of 12; they end at 98% of" in shown
    assert "median" in shown


def test_sweeps_under_several_kl_terms_are_shown_and_reported_one_by_one(run, undisturbed, tmp_path):
    other = undisturbed[1].assign(final_validation_loss=undisturbed[1].final_validation_loss + 1)
    terms = xr.Variable("kl", ["none", "model"])
    ds = xr.concat([undisturbed[1], other], terms, combine_attrs="override")
    gradlab.save_results(ds, "both.h5")
    found = json.loads(run("show", "both.h5", "--json").out)["kl"]
    assert list(found) == ["none", "model"]
    assert found["model"]["best"]["value"] == pytest.approx(found["none"]["best"]["value"] + 1)
    shown = run("show", "both.h5").out
    assert "KL term of the training loss: none" in shown
    assert run("report", "both.h5", "--out", "both.html").code == 0
    page = (tmp_path / "both.html").read_text()
    assert "both.h5, KL term none" in page
    assert "both.h5, KL term model" in page
    assert run("plot", "both.h5").code == 0


def test_one_seed_has_no_interval_and_a_grid_off_the_diagonal_no_best_there(run, own):
    ran = run("sweep", "vae", *SMALL, "--tf", "1", "--tb", "1.5", "--seeds", "4:4", "--json")
    found = json.loads(ran.out)
    assert (found["best"]["low"], found["best_diagonal"]) == (None, None)
    assert "[" not in run("sweep", "vae", *SMALL, "--tf", "1", "--tb", "1.5", "--seeds", "4:4").out.split("lowest")[1]


def test_many_pairs_are_printed_as_a_grid(run, own, monkeypatch):
    monkeypatch.setattr("gradlab.cli.sweep_report.MOST_LINES", 3)
    ran = run("sweep", "vae", *SMALL, *GRID)
    assert ran.code == 0
    ds = gradlab.open_results("sweep.h5")
    means = sweeps.over_seeds(ds)["mean"]
    (line,) = (line for line in ran.out.splitlines() if line.split()[:1] == ["1.5"])
    assert line.split() == ["1.5", *(f"{float(means.sel(tf=tf, tb=1.5)):#.4g}" for tf in (0.5, 1.0))]
    assert "tb \\ tf" in ran.out
    assert "intervals at most ±" in ran.out


def test_the_binary_autoencoder_with_schedules_and_tracking(run, own):
    pixels = torch.randint(256, (10, 1, 17, 17), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in datasets.IDX_FILES.values():
        datasets.write_idx(own / "own" / f"{name}.gz", pixels)
    options = ["--width", "2", "--depth", "0", "--track", "gap", "--track-images", "2", "--track-draws", "2"]
    ran = run("sweep", "binary-ae", *SMALL, "--tf", "1,1:0.3", "--tb", "3", "--seeds", "1", *options)
    assert ran.code == 0, ran.err
    ds = gradlab.open_results("sweep.h5")
    assert ds.tf.values.tolist() == ["1", "1:0.3"]
    assert ds.tracked_epoch.values.tolist() == [0, 1]
    assert np.isfinite(ds.relative_gap).all()
    assert nested(ds.attrs, "tracking") == {"kinds": "gap", "every": 10, "images": 2, "draws": 2}
    assert ds.attrs["settings.config.width"] == 2
    assert "1:0.3" in ran.out


def test_every_option_of_the_training_reaches_it(run, own):
    options = {"--latents": 3, "--categories": 2, "--lr": 0.002, "--estimator": "st-gs"}
    ran = run("sweep", "vae", *SMALL, "--tf", "1", "--tb", "1", "--seeds", "1", *sum(options.items(), ()))
    assert ran.code == 0
    settings = nested(gradlab.open_results("sweep.h5").attrs, "settings")
    assert settings["config"] == {"latents": 3, "categories": 2, "image_shape": [1, 4, 4]}
    assert (settings["lr"], settings["estimator"], settings["batch_size"]) == (0.002, "st-gs", 10)


# --- failures, interruptions ---


def test_failed_cells_are_listed_and_the_exit_code_is_1(run, own, monkeypatch):
    with monkeypatch.context() as patch:
        failing_at(patch, tf=0.5, tb=1.5, seed=1)
        ran = run("sweep", "vae", *SMALL, *GRID)
    assert ran.code == 1
    assert "failed: tf 0.5, tb 1.5, seed 1: the loss is [gone]" in ran.out
    assert "7 cells done, 1 failed" in ran.out
    assert ran.err.splitlines()[-1] == (
        "gradlab: 1 of 8 cells failed; the first: the loss is [gone] (--retry-failed trains them again)"
    )
    assert "seed 1: failed (the loss is [gone])" in ran.err
    assert run("sweep", "vae", *SMALL, *GRID).code == 1
    ran = run("sweep", "vae", *SMALL, *GRID, "--retry-failed")
    assert ran.code == 0
    assert len(ran.err.splitlines()) == 1


def test_a_sweep_of_which_all_fails_is_still_told(run, own, monkeypatch):
    failing_at(monkeypatch)
    ran = run("sweep", "vae", *SMALL, *GRID, "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert (found["best"], len(found["failed"])) == (None, 8)
    ran = run("sweep", "vae", *SMALL, *GRID)
    assert ran.code == 1
    assert "0 cells done, 8 failed" in ran.out


def test_warnings_are_one_line_each(run, own):
    assert run("sweep", "vae", *SMALL, *GRID).code == 0
    damaged = sorted((own / "cells").iterdir())[0]
    damaged.write_bytes(b"cut")
    ran = run("sweep", "vae", *SMALL, *GRID)
    assert ran.code == 0
    lines = ran.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        f"gradlab: {os.path.join('cells', damaged.name)}: expected a results file, got a text file"
    )


def test_ctrl_c_says_how_many_are_finished_and_the_same_command_goes_on(run, own, monkeypatch):
    one_step, steps = training.Run.one_step, []

    def interrupting(training_run, batch):
        one_step(training_run, batch)
        steps.append(1)
        if len(steps) == 8:  # the second step of the third cell
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "one_step", interrupting)
        ran = run("sweep", "vae", *SMALL, *GRID)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "gradlab: interrupted; 2 of 8 cells are finished, and the same command continues"
    assert not os.path.exists("sweep.h5")
    ran = run("sweep", "vae", *SMALL, *GRID)
    assert ran.code == 0
    assert [line.split()[0] for line in ran.err.splitlines()] == [f"{n}/8" for n in range(3, 9)]


# --- progress ---


def test_progress_counts_and_estimates_from_the_cells_of_this_run(tmp_path, monkeypatch):
    sweep(tmp_path, tf=[0.5], tb=[0.7], seeds=2)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cells = grid(BASE, IMAGES, VALIDATION, [0.5, 1.6], [0.7, 1e-40], 2, None, None).cells
    watch = Watch(Folder(tmp_path), cells)
    assert watch.figures().keys() == {"cells", "failed", "best"}  # no rate from what was there
    assert watch.figures()["cells"] == "2/8"
    ds = sweep(tmp_path, tf=[0.5], tb=[0.7, 1e-40], seeds=2)
    now[0] += 60
    assert [watch.take(cell).partition(" (")[0] for cell in watch.new()] == [
        f"tf 0.5, tb 1e-40, seed {seed}: failed" for seed in (0, 1)
    ]
    mean = float(ds.final_validation_loss.sel(tb=0.7).mean())
    assert watch.figures() == {
        "cells": "4/8",
        "failed": "2",
        "rate": "120/h",
        "left": "0:02:00",
        "best": f"{mean:.4g} at tf 0.5, tb 0.7",
    }


def test_on_a_terminal_there_is_a_bar(run, own, monkeypatch):
    """With done, rate, time left and best; the table goes to standard output."""
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the other side is closed
            while block := os.read(ours, 10_000):
                shown.append(block)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        ran = run("sweep", "vae", *SMALL, *GRID)
    reader.join(60)
    os.close(ours)
    assert ran.code == 0
    text = b"".join(shown).decode()
    for part in ("sweep", "cells 8/8", "failed 0", "rate ", "left 0:00:0", "best ", " at tf "):
        assert part in text
    assert "wrote sweep.h5" in ran.out
