"""Bias and gap along a training: the figures of the model in training, and the training undisturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import gradlab
from gradlab import checkpoints, estimators, networks, results, training
from gradlab.attributes import nested
from gradlab.errors import BadFile, UnknownName
from gradlab.fidelity import bias_analysis, gap_analysis
from gradlab.training import tracking

from .small_trainings import CONFIG, EPOCHS, IMAGES, STEPS, VALIDATION, assert_same, before_step, press_ctrl_c, train
from .tiny_sweep import Death, dies_at

TF, TB = "1.6:0.4", 1.3
BOTH = {"track": ("bias", "gap"), "track_every": 2, "track_images": 5, "track_draws": 40, "tf": TF}
BIAS, GAP = BOTH | {"track": ("bias",)}, BOTH | {"track": ("gap",)}
ANALYSES = {"bias": bias_analysis, "gap": gap_analysis}
OF_THE_RUN = ("date", "command_line")  # attributes in which two runs differ
LARGE = {"latents": 40, "categories": 16, "hidden": [4], "image_shape": [1, 4, 4]}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vae.safetensors"


def tracked(out, kind="bias"):
    ds = gradlab.open_results(training.track_path(out, kind))
    return ds.assign_attrs(dict.fromkeys(OF_THE_RUN, "") | {"checkpoint": ""})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken training, its model of every epoch kept."""
    out = tmp_path_factory.mktemp("whole") / "vae.safetensors"
    model = train(out, **BOTH, keep_every=1)
    return out, model


def with_few_figures(patch):
    """A file of forty variables takes ten times as long to write as all the rest of these trainings."""

    def narrowed(measure, figure):
        return lambda *given, **named: measure(*given, **named)[[figure, f"{figure}_low", f"{figure}_high"]]

    patch.setattr(bias_analysis, "bias", narrowed(bias_analysis.bias, "relative_bias_debiased"))
    patch.setattr(gap_analysis, "gap", narrowed(gap_analysis.gap, "relative_gap"))


@pytest.fixture
def few(monkeypatch):
    with_few_figures(monkeypatch)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The same training, of few figures."""
    out = tmp_path_factory.mktemp("unbroken") / "vae.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        with_few_figures(patch)
        return out, train(out, **BOTH)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Folder of that training, interrupted in the third epoch, bias tracked at 0 and 2."""
    out = tmp_path_factory.mktemp("stopped") / "vae.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        with_few_figures(patch)
        before_step(patch, 2 * STEPS + 2, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(out, **BIAS)
    return out.parent


@pytest.fixture
def broken_off(stopped, out, few):
    """The tracked file of a copy of it."""
    for path in stopped.iterdir():
        shutil.copy(path, out.parent)
    return training.track_path(out, "bias")


def assert_same_files(out, unbroken, kinds=("bias", "gap")):
    for kind in kinds:
        xr.testing.assert_identical(tracked(out, kind), tracked(unbroken[0], kind))


@pytest.fixture
def measured(monkeypatch):
    """The kinds measured, one after the other."""
    found = []

    def noting(kind, measure):
        def noted(*given, **named):
            found.append(kind)
            return measure(*given, **named)

        return noted

    for kind, module in ANALYSES.items():
        monkeypatch.setattr(module, kind, noting(kind, getattr(module, kind)))
    return found


def fails_at(patch, kind, time, error):
    """Measuring this kind for the time-th time raises."""
    measure, calls = getattr(ANALYSES[kind], kind), []

    def failing(*given, **named):
        calls.append(1)
        if len(calls) == time:
            raise error
        return measure(*given, **named)

    patch.setattr(ANALYSES[kind], kind, failing)


# what is measured


def test_the_files_hold_the_figures_of_the_planned_epochs(whole):
    out, model = whole
    history = model.provenance["history"]
    for kind, dims in (("bias", {"epoch"}), ("gap", {"epoch", "definition"})):
        ds = gradlab.open_results(out.with_name(f"vae.{kind}.h5"))
        assert ds.epoch.values.tolist() == [0, 2, 3]
        assert set(ds.dims) == dims
        assert ds.tf.dims == ds.tb.dims == ("epoch",)
        assert ds.tf.values.tolist() == [1.6, history["tf"][1], history["tf"][2]]
        assert ds.tb.values.tolist() == [TB] * 3
        assert all({"long_name", "units"} <= set(ds[name].attrs) for name in ds.variables)
        assert all(bool(np.isfinite(ds[name]).all()) for name in ds.data_vars)
    assert {"exact_norm", "relative_bias", "relative_bias_low", "relative_bias_high"} <= set(tracked(out).data_vars)
    assert {"gap", "gap_low", "relative_gap_high", "cosine"} <= set(tracked(out, "gap").data_vars)


def model_of(out, epoch):
    return (
        gradlab.load(out.with_name(f"vae-epoch{epoch:04d}.safetensors"))
        if epoch
        else networks.build("categorical-vae", CONFIG, seed=5)
    )


@pytest.mark.parametrize("kind", ["bias", "gap"])
def test_the_figures_are_those_of_the_models_of_these_epochs(whole, kind):
    """Measured anew, on the models that --keep-every kept."""
    out, _ = whole
    ds = tracked(out, kind)
    x = VALIDATION.first(5).floats()
    for epoch, tf, tb in zip(ds.epoch.values, ds.tf.values, ds.tb.values, strict=True):
        measure = gradlab.bias if kind == "bias" else gradlab.gap
        wanted = measure(model_of(out, int(epoch)), x, float(tf), float(tb), draws=40, seed=5).isel(tf=0, tb=0)
        for name in ds.data_vars:
            np.testing.assert_array_equal(ds[name].sel(epoch=epoch), wanted[name])
    assert len(set(ds["exact_norm" if kind == "bias" else "discrete_norm"].values.flat)) >= 3


def test_the_estimator_of_the_training_is_the_one_measured(out):
    train(out, estimator="rloo:n=3", epochs=1, tf=1.6, track="bias", track_images=5)
    ds = gradlab.open_results(training.track_path(out, "bias"))
    assert (ds.attrs["estimator"], ds.attrs["draws"]) == ("rloo(n=3)", 1024)
    wanted = gradlab.bias(gradlab.load(out), VALIDATION.first(5).floats(), 1.6, 1.3, estimator="rloo", seed=5)
    assert ds.std_norm.values[-1] < 0.8 * wanted.std_norm.item()  # the default has n = 2
    assert ds.epoch.values.tolist() == [0, 1]


def test_a_file_says_how_it_was_made(whole):
    about = gradlab.open_results(training.track_path(whole[0], "bias")).attrs
    assert about["data"] == "blocks, train split, first 5"
    assert about["data_sha256"] == VALIDATION.sha256
    assert (about["examples"], about["draws"], about["seed"], about["track_every"]) == (5, 40, 5, 2)
    assert about["checkpoint"] == str(whole[0])
    assert {"gradlab", "torch", "date", "device", "dtype", "target", "estimator", "loss", "unit"} <= set(about)
    assert about["training.settings.tf"] == "1.6:0.4"


def test_fewer_images_than_wanted_are_all_of_them(out):
    train(out, epochs=1, track=["gap"], track_images=1000, track_draws=2)
    assert tracked(out, "gap").attrs["examples"] == len(VALIDATION)


def test_a_gap_needs_no_enumeration(out):
    train(out, epochs=1, config=LARGE, track=["gap"], track_images=3, track_draws=2)
    assert tracked(out, "gap").epoch.values.tolist() == [0, 1]


# the training is undisturbed


@pytest.mark.parametrize("estimator", ["decoupled-st-gs", "reinforce:baseline='running-mean'", "gumbel-rao:k=3"])
def test_the_weights_are_those_of_a_training_without(few, tmp_path, estimator):
    with_it = train(tmp_path / "with.safetensors", estimator=estimator, **BOTH | {"track_every": 1})
    assert_same(with_it, train(tmp_path / "without.safetensors", estimator=estimator, tf=TF))


def test_without_it_nothing_is_measured_or_written(out, measured):
    train(out)
    assert measured == []
    assert list(out.parent.iterdir()) == [out]


def test_a_model_is_measured_in_evaluation_mode_and_left_in_its_own():
    model = networks.build("categorical-vae", CONFIG, seed=0).train()
    model.decoder.eval()
    modes = [module.training for module in model.modules()]
    within = tracking._measurable(model)
    assert within.__enter__() is model
    assert not any(module.training for module in model.modules())
    assert not within.__exit__(RuntimeError, RuntimeError("inside"), None)
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2


def test_nothing_is_printed(few, out, capfd):
    train(out, **BOTH)
    assert capfd.readouterr() == ("", "")


def test_the_seconds_are_those_of_the_training(few, out, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow(*given, measure=bias_analysis.bias, **named):
        now[0] += 1000
        return measure(*given, **named)

    def stepped(run, batch, one_step=training.Run.one_step):
        now[0] += 1
        one_step(run, batch)

    monkeypatch.setattr(bias_analysis, "bias", slow)
    monkeypatch.setattr(training.Run, "one_step", stepped)
    assert train(out, **BIAS).provenance["seconds"] == EPOCHS * STEPS


# interruption


@pytest.mark.parametrize(
    ("step", "options"),
    [(1, BIAS), (STEPS, BIAS), (STEPS + 2, BIAS), (2 * STEPS, BOTH), (2 * STEPS + 1, BIAS), (EPOCHS * STEPS, BIAS)],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_an_interrupted_run_ends_with_the_same_files(few, unbroken, out, monkeypatch, measured, step, options):
    with monkeypatch.context() as patch:
        before_step(patch, step, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(out, **options)
    assert_same(train(out, **options, resume=True), unbroken[1])
    assert_same_files(out, unbroken, options["track"])
    assert measured == list(options["track"]) * 3


@pytest.mark.parametrize(("kind", "time"), [("bias", 2), ("gap", 3)])
def test_what_could_not_be_measured_or_written_is_made_up_for(few, unbroken, out, monkeypatch, kind, time):
    with monkeypatch.context() as patch:
        fails_at(patch, kind, time, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            train(out, **BOTH)
    assert training.resume_path(out).is_file()
    assert_same(train(out, **BOTH, resume=True), unbroken[1])
    assert_same_files(out, unbroken)


def test_a_full_disk_leaves_the_file_before(few, unbroken, out, monkeypatch):
    save, written = results.save_results, []

    def full(ds, path):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        save(ds, path)

    with monkeypatch.context() as patch:
        patch.setattr("gradlab.results.save_results", full)
        with pytest.raises(OSError, match="No space left"):
            train(out, **BIAS)
    assert tracked(out).epoch.values.tolist() == [0, 2]
    train(out, **BIAS, resume=True)
    assert_same_files(out, unbroken, ["bias"])


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests import test_training_tracking as t

which, replace, calls = int(sys.argv[3]), os.replace, []
def killed(source, target):
    calls.append(target)
    replace(source, target)
    if len(calls) == which:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
t.train(Path(sys.argv[2]), **t.GAP)
"""


# files written: track, state, state, track, state, track, model
@pytest.mark.parametrize("which", [2, 3, 4, 5, 6])
def test_a_run_that_dies_after_any_file_ends_with_the_same_one(few, unbroken, out, monkeypatch, which):
    with monkeypatch.context() as patch:
        dies_at(patch, os, "replace", which, before=False)
        with pytest.raises(Death):
            train(out, **GAP)
    assert not out.exists()
    assert_same(train(out, **GAP, resume=True), unbroken[1])
    assert_same_files(out, unbroken, ["gap"])


@pytest.mark.deep
@pytest.mark.parametrize("which", [2, 3, 4, 5, 6])
def test_a_run_killed_after_any_file_ends_with_the_same_one(whole, out, which):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", KILLED, root, str(out), str(which)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert not out.exists()
    assert_same(train(out, **GAP, resume=True), whole[1])
    assert_same_files(out, whole, ["gap"])


@pytest.mark.parametrize("time", [1, 2, 3])
def test_an_interrupt_while_measuring_is_heeded_and_loses_nothing(few, unbroken, out, monkeypatch, time):
    measure, calls = bias_analysis.bias, []

    def interrupted(*given, **named):
        calls.append(1)
        if len(calls) == time:
            press_ctrl_c()
        return measure(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(bias_analysis, "bias", interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {[1, 2 * STEPS, 3 * STEPS][time - 1]} of"):
            train(out, **BIAS)
    assert_same(train(out, **BIAS, resume=True), unbroken[1])
    assert_same_files(out, unbroken, ["bias"])


@pytest.mark.parametrize("measured_last", [True, False])
def test_more_epochs_than_planned_have_the_rows_of_the_longer_training(few, tmp_path, monkeypatch, measured_last):
    """The end of the training first planned, measured or not, is no longer one of them."""
    constant = BIAS | {"tf": 1.6, "track_draws": 2}
    whole, out = tmp_path / "whole.safetensors", tmp_path / "vae.safetensors"
    train(whole, **constant, epochs=5)
    with monkeypatch.context() as patch:
        if measured_last:
            on_last = training.Run.save
            patch.setattr(training.Run, "save", lambda run, path, final=False: on_last(run, path if not final else ""))
        else:
            before_step(patch, 3 * STEPS, press_ctrl_c)
        with pytest.raises((KeyboardInterrupt, OSError)):
            train(out, **constant, epochs=3)
    assert tracked(out).epoch.values.tolist() == [0, 2, 3][: 2 + measured_last]
    train(out, **constant, epochs=5, resume=True)
    assert tracked(out).epoch.values.tolist() == [0, 2, 4, 5]
    xr.testing.assert_identical(tracked(out), tracked(whole))


# models too large to enumerate


@pytest.mark.filterwarnings("ignore:draws. expected whole batches beside a sampled reference, got 40; 64 are used")
def test_bias_of_a_model_too_large_is_against_an_unbiased_reference(out, tmp_path):
    """In whole batches of draws, as a warning says, which a training interrupted and resumed takes too."""
    given = BIAS | {"config": LARGE, "epochs": 2}
    train(out, **given, keep_every=1)
    ds = tracked(out)
    assert ds.attrs["reference"] == "rloo"
    assert (ds.draws == 64).all()
    x = VALIDATION.first(5).floats()
    wanted = gradlab.bias(gradlab.load(out), x, 0.4, TB, draws=40, seed=5, reference="rloo")
    for name in ("relative_bias_debiased", "relative_std_low", "cosine_high"):
        assert ds[name].sel(epoch=2).item() == wanted[name].item(), name

    again = tmp_path / "again" / "vae.safetensors"
    again.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        before_step(patch, 2 * STEPS, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(again, **given)
    train(again, **given, resume=True)
    xr.testing.assert_identical(tracked(again), ds)


def test_no_estimator_is_held_against_itself(out):
    train(out, **BIAS | {"config": LARGE, "epochs": 1, "track_draws": 64}, estimator="rloo")
    ds = tracked(out)
    assert ds.attrs["reference"] == "rloo(n=4)"
    assert (ds.squared_bias_debiased_low < 0).all()
    assert (ds.squared_bias_debiased_high > 0).all()


@pytest.mark.parametrize("kind", tracking.UNBIASED)
def test_references_are_unbiased_for_their_kind_of_latent(kind):
    one, other = map(estimators.parse, tracking.UNBIASED[kind])
    assert one.label != other.label
    for reference in (one, other):
        assert reference.unbiased
        assert kind in reference.kinds


# chosen epochs


def test_chosen_epochs_are_tracked_as_they_are_among_all(few, unbroken, out):
    chosen = [EPOCHS, 0]
    train(out, **BIAS | {"track_every": chosen})
    there = tracked(out)
    assert there.epoch.values.tolist() == [0, EPOCHS]
    assert there.attrs["track_every"] == f"0, {EPOCHS}"
    xr.testing.assert_identical(there.drop_attrs(), tracked(unbroken[0]).sel(epoch=there.epoch).drop_attrs())


def test_a_training_of_chosen_epochs_is_gone_on_with(few, out, monkeypatch):
    with monkeypatch.context() as patch:
        before_step(patch, 2 * STEPS + 2, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(out, **BIAS | {"track_every": (1, 2, EPOCHS)})
    train(out, **BIAS | {"track_every": (1, 2, EPOCHS)}, resume=True)
    assert tracked(out).epoch.values.tolist() == [1, 2, EPOCHS]


# refusals


def test_what_no_reference_serves_is_refused_before_training(out, monkeypatch):
    monkeypatch.setattr(training.Run, "one_step", lambda run, batch: pytest.fail("it trained"))
    with pytest.raises(ValueError, match=r"estimator: expected .* whose draws are independent, got reinforce"):
        train(out, config=LARGE, track=["bias"], estimator="reinforce:baseline='running-mean'")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        ({"track": ["bais"]}, UnknownName, "track: unknown name 'bais'; did you mean bias"),
        ({"track": "variance"}, UnknownName, "track: unknown name 'variance'"),
        ({"track_every": 0}, ValueError, "track_every: expected .*, got 0"),
        ({"track_every": ()}, ValueError, "track_every: expected .* at least one epoch, got none"),
        ({"track_every": (1, -1)}, ValueError, "track_every: expected .*, got -1"),
        (
            {"track_every": (1, EPOCHS + 1)},
            ValueError,
            f"track_every: expected epochs up to {EPOCHS}, .* got {EPOCHS + 1}",
        ),
        ({"track_images": 0}, ValueError, "track_images: expected .*, got 0"),
        ({"track_images": 2.5}, ValueError, "track_images: expected .*, got 2.5"),
        ({"track_draws": 1}, ValueError, "track_draws: expected .*, got 1"),
    ],
)
def test_options_out_of_range_are_named(out, other, error, match):
    with pytest.raises(error, match=match):
        train(out, **other)
    assert list(out.parent.iterdir()) == []


FOREIGN = {
    "no HDF5": lambda path: path.write_bytes(b"mine"),
    "results of gradlab bias": lambda path: results.save_results(
        gradlab.bias(networks.build("categorical-vae", CONFIG, seed=0), VALIDATION.first(2).floats(), draws=4), path
    ),
    "an odd account": lambda path: results.save_results(xr.Dataset(attrs={"training": "[]"}), path),
    "no account": lambda path: results.save_results(xr.Dataset(attrs={"training": "{"}), path),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_of_something_else_is_not_overwritten(out, make):
    path = training.track_path(out, "bias")
    make(path)
    content = None if path.is_dir() else path.read_bytes()
    with pytest.raises(
        OSError, match=r"vae.bias.h5: (this file is not of a tracked training|expected .*, got a folder)"
    ):
        train(out, **BIAS)
    assert [p.name for p in out.parent.iterdir()] == ["vae.bias.h5"]
    assert path.is_dir() or path.read_bytes() == content


def test_a_file_of_an_earlier_training_is_replaced(few, unbroken, out):
    train(out, epochs=1, tf=0.7, track=["bias"], track_draws=5)
    train(out, **BIAS)
    assert_same_files(out, unbroken, ["bias"])


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"track_draws": 41}, r"draws 40 \(asked: 41\)"),
        ({"track_images": 6}, r"examples 5 \(asked: 6\)"),
        ({"track_every": 1}, r"track_every 2 \(asked: 1\)"),
        ({"track_every": (0, 2)}, r"track_every 2 \(asked: 0, 2\)"),
        ({"track": ()}, "track: expected bias, which .* tracks, got another choice"),
        ({"track": ("bias", "gap")}, "gap.h5: gap was not tracked so far"),
    ],
    ids=str,
)
def test_resuming_otherwise_is_refused(out, broken_off, other, match):
    content = broken_off.read_bytes()
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        train(out, **BIAS | other, resume=True)
    assert broken_off.read_bytes() == content
    assert training.resume_path(out).is_file()


def test_without_its_file_a_training_is_resumed_untracked_only(unbroken, out, broken_off):
    broken_off.unlink()
    with pytest.raises(FileNotFoundError, match="bias was not tracked so far"):
        train(out, **BIAS, resume=True)
    assert_same(train(out, tf=TF, resume=True), unbroken[1])
    assert not broken_off.exists()


def test_the_file_of_another_training_is_refused_on_resuming(tmp_path, out, broken_off):
    other = tmp_path / "other.safetensors"
    train(other, **BIAS, seed=6)
    os.replace(training.track_path(other, "bias"), broken_off)
    with pytest.raises(ValueError, match=r"track: .*seed 6 \(asked: 5\)"):
        train(out, **BIAS, resume=True)
    train(out, tf=TF, resume=True)  # untracked it is none of this training's business


def test_a_file_cut_short_is_refused_on_resuming(out, broken_off):
    broken_off.write_bytes(broken_off.read_bytes()[:-100])
    with pytest.raises(BadFile, match="expected the file of a tracked training"):
        train(out, **BIAS, resume=True)


def without(ds, beginning):
    """The Dataset without the attributes whose names begin so."""
    ds = ds.copy()
    ds.attrs = {name: value for name, value in ds.attrs.items() if not name.startswith(beginning)}
    return ds


def test_a_file_of_an_earlier_version_is_taken_up(out, broken_off):
    """Its account of the training is a text of JSON."""
    ds = gradlab.open_results(broken_off)
    about = json.dumps(nested(ds.attrs, "training"))
    results.save_results(without(without(ds, "training."), "format").assign_attrs(training=about), broken_off)
    train(out, **BIAS, resume=True)
    assert set(tracked(out, "bias").epoch.values) > set(ds.epoch.values)


ODD = {
    "no account": lambda ds: ds.drop_attrs(),
    "an account of nothing": lambda ds: without(ds, "training."),
    "settings that are a list": lambda ds: without(ds, "training.settings.").assign_attrs(
        {"training.settings": [1, 2]}
    ),
    "no epochs": lambda ds: ds.isel(epoch=0, drop=True),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_file_with_parts_missing_is_refused_on_resuming(out, broken_off, odd):
    results.save_results(odd(gradlab.open_results(broken_off)), broken_off)
    with pytest.raises(BadFile, match="expected the file of a tracked training"):
        train(out, **BIAS, resume=True)
    train(out, tf=TF, resume=True)


def test_a_file_that_lacks_an_epoch_is_refused_on_resuming(out, broken_off):
    results.save_results(gradlab.open_results(broken_off).isel(epoch=[0]), broken_off)
    with pytest.raises(ValueError, match="expected epoch 2, which the training has passed"):
        train(out, **BIAS, resume=True)


# names and the command line


@pytest.mark.parametrize(
    ("out", "name"), [("a/vae.safetensors", "vae.bias.h5"), ("vae", "vae.bias.h5"), ("vae.v2", "vae.v2.bias.h5")]
)
def test_the_file_is_named_after_the_output(out, name):
    assert training.track_path(out, "bias").name == name
    assert str(training.track_path(out, "gap").parent) == os.path.dirname(out) or "."


def test_the_command_line_tracks_and_says_where(run, tmp_path):
    from .command_line import images

    images(tmp_path, 20)
    command = ["train", "vae", "--data", "own", "--latents", 2, "--categories", 3, "--batch-size", 10, "--epochs", 3]
    kinds = ["--track", "bias", "--track", "gap"]
    ran = run(*command, *kinds, "--track-every", 2, "--track-images", 4, "--track-draws", 8)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-2:] == ["wrote vae.bias.h5", "wrote vae.gap.h5"]
    ds = gradlab.open_results("vae.bias.h5")
    assert ds.epoch.values.tolist() == [0, 2, 3]
    assert (ds.attrs["examples"], ds.attrs["draws"]) == (4, 8)
    assert "test split, first 4" in ds.attrs["data"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--track-every", 3], 2, "--track-every: needs --track"),
        (["--track-draws", 30], 2, "--track-draws: needs --track"),
        (["--track", "bais"], 2, "bais"),
        (["--track", "bias", "--track-every", 0], 2, "--track-every"),
    ],
    ids=str,
)
def test_the_command_line_refuses_in_one_line(run, tmp_path, arguments, code, words):
    from .command_line import images

    images(tmp_path, 4)
    ran = run("train", "vae", "--data", "own", *arguments)
    assert (ran.code, ran.out) == (code, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("gradlab: ")
    assert words in line
    assert not list(tmp_path.glob("*.h5"))


def test_the_states_of_chance_are_untouched(few, out):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(out, **BOTH)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_the_tests_above_think_of_the_right_training(unbroken):
    assert (len(IMAGES), EPOCHS, STEPS) == (64, 3, 7)
    assert checkpoints.read(unbroken[0])[2]["settings"]["tf"] == TF
