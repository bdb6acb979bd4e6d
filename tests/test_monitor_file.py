"""The file of a monitor: whole after a kill at any moment, continued, refused where it is of something else."""

import json
import multiprocessing
import os
import random
import signal
import time
import warnings

import pytest
import torch
import xarray as xr

import gradlab
from gradlab.monitoring.monitor import MonitorWarning

from . import kill_monitor, loops
from .test_monitor import monitored


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(4, loops.PIXELS)


def test_the_file_is_what_the_monitor_returned(x, tmp_path, run):
    out = tmp_path / "fidelity.h5"
    monitor = monitored(loops.model_of("plain"), every=2, out=out, tf=lambda step: 1.0 + step, tb=0.5)
    found = {step: figures for step in range(5) if (figures := monitor.step(x))}
    for ds in (gradlab.open_results(out), xr.load_dataset(out, engine="h5netcdf"), monitor.results):
        assert ds.step.values.tolist() == [0, 2, 4]
        assert ds.tf.values.tolist() == [1, 3, 5]
        for name in ("relative_bias", "cosine_debiased_low", "exact_norm"):
            assert ds[name].values.tolist() == [figures[name] for figures in found.values()]
            assert {"long_name", "units"} <= ds[name].attrs.keys()
    assert ds.attrs["analysis"] == "bias-along-training"
    shown = run("show", out)
    assert "step 4" in shown.out
    points = json.loads(run("show", out, "--json").out)["points"]
    assert [point["step"] for point in points] == [0, 2, 4]
    assert run("plot", out, "--out", "f.png").code == 0
    assert run("report", out, "--out", "f.html").code == 0


def test_a_file_is_continued(x, tmp_path):
    out = tmp_path / "fidelity.h5"
    model = loops.model_of("plain")
    one = monitored(model, every=2, out=out)
    for _ in range(3):
        one.step(x)
    two = monitored(model, every=2, out=out)
    assert two.results.equals(one.results)
    assert [bool(two.step(x)) for _ in range(4)] == [False, True, False, True]  # steps 3 to 6
    assert gradlab.open_results(out).step.values.tolist() == [0, 2, 4, 6]


def test_a_training_that_goes_on_from_a_checkpoint_gives_its_step(x, tmp_path):
    out = tmp_path / "fidelity.h5"
    model = loops.model_of("plain")
    one = monitored(model, every=2, out=out)
    for _ in range(7):
        one.step(x)
    assert gradlab.open_results(out).step.values.tolist() == [0, 2, 4, 6]
    two = monitored(model, every=2, out=out)
    found = [bool(two.step(x, step=step)) for step in range(3, 6)]  # the checkpoint was of step 3
    assert found == [False, True, False]
    assert gradlab.open_results(out).step.values.tolist() == [0, 2, 4]
    three = monitored(model, every=2, out=out)
    assert [bool(three.step(x, step=step)) for step in (9, 9, 10)] == [True, False, False]  # accumulation: 9 twice
    with pytest.warns(MonitorWarning, match="expected numbers that rise, got 2 after 10; calls are counted"):
        assert three.step(x, step=2)
    assert gradlab.open_results(out).step.values.tolist() == [0, 2, 4, 9, 11]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tb": 0.5}, r"tb 0\.8 \(asked: 0\.5\)"),
        ({"tf": lambda step: 1.2}, r"tf 1\.2 \(asked: a function of the step\)"),
        ({"estimator": "st-gs"}, r"estimator decoupled-st-gs \(asked: st-gs\)"),
        ({"draws": 32}, r"draws 16 \(asked: 32\)"),
        ({"seed": 1}, r"seed 0 \(asked: 1\)"),
        ({"examples": 3}, r"examples 4 \(asked: 3\)"),
    ],
)
def test_a_file_of_other_settings_is_refused_in_one_line(options, words, x, tmp_path):
    out = tmp_path / "fidelity.h5"
    monitored(loops.model_of("plain"), out=out).step(x)
    before = out.read_bytes()
    with pytest.raises(
        ValueError, match=rf"out: expected the file of a monitor with these settings.*{words}"
    ) as refused:
        monitored(loops.model_of("plain"), out=out, **options)
    assert "\n" not in str(refused.value)
    assert out.read_bytes() == before
    monitored(loops.model_of("plain"), out=out, every=7, budget=0.5)  # these do not matter


def test_a_file_of_something_else_is_refused(x, tmp_path):
    ds = gradlab.bias(loops.model_of("plain"), x, tf=1.0, draws=16)
    gradlab.save_results(ds, tmp_path / "bias.h5")
    (tmp_path / "notes.h5").write_text("mine")
    for name, words in (("bias.h5", "one of a monitor, got another"), ("notes.h5", "got another"), (".", "the folder")):
        with pytest.raises(ValueError, match=f"out: expected .*{words}"):
            monitored(loops.model_of("plain"), out=tmp_path / name)
    assert (tmp_path / "notes.h5").read_text() == "mine"


@pytest.mark.parametrize("name", ["/dev/full", "/proc/nothing/here.h5", "file/fidelity.h5"])
def test_where_nothing_can_be_written_the_training_goes_on(name, x, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monitor = monitored(loops.model_of("plain"), every=1, out=tmp_path / name)
    with pytest.warns(MonitorWarning, match="step 0: the file cannot be written, and the training continues"):
        assert monitor.step(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.step(x)
    assert monitor.results.sizes["step"] == 2


def test_a_disk_that_was_full_gets_all_rows_later(x, tmp_path, monkeypatch):
    out = tmp_path / "fidelity.h5"
    monitor = monitored(loops.model_of("plain"), every=1, out=out)
    monitor.step(x)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("gradlab.results.save_results", full)
        with pytest.warns(MonitorWarning, match="No space left"):
            assert monitor.step(x)
    assert gradlab.open_results(out).sizes["step"] == 1
    monitor.step(x)
    assert gradlab.open_results(out).step.values.tolist() == [0, 1, 2]


KILLS = [(0, 2), *(pytest.param(seed, 3, marks=pytest.mark.deep) for seed in range(13))]


@pytest.mark.parametrize(("seed", "kills"), KILLS)
def test_a_kill_at_any_moment_leaves_a_whole_file(seed, kills, tmp_path):
    """Killed several times, and continued each time; afterwards the steps have no gap."""
    out, waits = tmp_path / "fidelity.h5", random.Random(seed)
    before = 0
    for _ in range(kills):
        child = multiprocessing.get_context("fork").Process(target=kill_monitor.main, args=(str(out), 10_000))
        child.start()
        until = time.monotonic() + 60
        while rows(out) < before + 2 and time.monotonic() < until:  # it got going
            time.sleep(0.02)
        time.sleep(0.1 * waits.random())
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        ds = gradlab.open_results(out)
        assert ds.step.values.tolist() == list(range(ds.sizes["step"]))
        assert ds.cosine_debiased.notnull().all()
        assert ds.sizes["step"] >= before + 2
        before = ds.sizes["step"]


def rows(path):
    return gradlab.open_results(path, trusted=True).sizes["step"] if path.is_file() else 0
