"""Sweeps in one process: what the Dataset holds, going on after kills, failures."""

import dataclasses
import errno
import os

import numpy as np
import pytest
import torch
import xarray as xr

import gradlab
from gradlab import results, sweeps, training

from .tiny_sweep import (
    BASE,
    IMAGES,
    ONE,
    ONE_POINT,
    SEEDS,
    TBS,
    TFS,
    VALIDATION,
    Death,
    assert_same,
    cells,
    dies_at,
    leftovers,
    sweep,
)


def fail_at(monkeypatch, error, **where):
    """Trainings with these settings raise `error`."""
    train = training.train

    def failing(settings, *given, **options):
        if all(getattr(settings, name) == value for name, value in where.items()):
            raise error
        return train(settings, *given, **options)

    monkeypatch.setattr(training, "train", failing)


# --- the Dataset ---


def test_every_cell_holds_what_a_training_of_its_own_gives(undisturbed, tmp_path):
    ds = undisturbed[1]
    for tf, tb, seed in [(0.5, 3.0, 0), (1.6, 0.7, 3)]:
        settings = dataclasses.replace(BASE, tf=tf, tb=tb, seed=seed)
        model = training.train(settings, IMAGES, VALIDATION, tmp_path / "alone.safetensors")
        one = ds.sel(tf=tf, tb=tb, seed=seed)
        for name in ("train_loss", "train_kl", "validation_loss", "validation_kl"):
            assert one[name].values.tolist() == model.provenance["history"][name]
        assert one.final_validation_loss == model.provenance["history"]["validation_loss"][-1]
    assert np.unique(ds.validation_kl).size == ds.validation_kl.size  # so that none can stand for another


def test_the_dataset_has_its_dims_and_says_what_it_holds(undisturbed, tmp_path):
    ds = undisturbed[1]
    assert dict(ds.sizes) == {"tf": 2, "tb": 3, "seed": 2, "epoch": 3}
    assert [ds[dim].values.tolist() for dim in ds.dims] == [TFS, TBS, SEEDS, [1, 2, 3]]
    for name in ("train_loss", "train_kl", "validation_loss", "validation_kl"):
        assert ds[name].dims == ("tf", "tb", "seed", "epoch")
        assert ds[name].attrs["units"] == "nats"
    for name in ("final_validation_loss", "seconds", "status", "error"):
        assert ds[name].dims == ("tf", "tb", "seed")
    assert ds.seconds.attrs["units"] == "s"
    assert all({"long_name", "units"} <= set(ds[name].attrs) for name in ds.variables)
    assert (ds.status == "done").all()
    assert (ds.error == "").all()
    assert {"gradlab", "torch", "date", "command_line", "device", "threads", "dtype", "loss"} <= set(ds.attrs)
    assert ds.attrs["data_sha256"] == IMAGES.sha256
    assert ds.attrs["validation_data_sha256"] == VALIDATION.sha256
    assert ds.attrs["validation_data"] == "rows, test split, first 20"
    gradlab.save_results(ds, tmp_path / "sweep.h5")
    assert gradlab.open_results(tmp_path / "sweep.h5").identical(ds)


def test_the_folder_holds_a_file_per_cell_that_xarray_reads(undisturbed):
    folder, ds = undisturbed
    assert sorted(os.listdir(folder)) == sorted(f"{cell.name}.h5" for cell in cells())
    one = cells()[4]
    with xr.open_dataset(folder / f"{one.name}.h5", engine="h5netcdf") as alone:
        tf, tb, seed = one.at
        assert alone.validation_loss.values.tolist() == ds.validation_loss.sel(tf=tf, tb=tb, seed=seed).values.tolist()
        assert alone.attrs["configuration"] == one.configuration
        assert (alone.attrs["status"], alone.attrs["threads"]) == ("done", 1)


def test_schedules_make_the_axis_one_of_texts(tmp_path):
    ds = sweep(tmp_path, tf=[0.7, "1:0.3", "1:0.30:cosine"], tb=0.7, seeds=1)
    assert ds.tf.values.tolist() == ["0.7", "1:0.3", "1:0.3:cosine"]
    assert ds.tb.values.tolist() == [0.7]
    assert np.unique(ds.final_validation_loss).size == 3
    assert sweeps.best(ds, diagonal=True).tf == "0.7"
    results.save_results(ds, tmp_path / "sweep.h5")
    assert results.open_results(tmp_path / "sweep.h5").identical(ds)


def test_pairs_left_out_are_missing(tmp_path):
    ds = sweep(tmp_path, tb=[0.7, 1.3], pairs=[(0.5, 1.3), (1.6, 0.7)], seeds=1)
    assert ds.status.values[..., 0].tolist() == [["missing", "done"], ["done", "missing"]]
    assert np.isnan(ds.train_loss.sel(tf=0.5, tb=0.7)).all()
    assert np.isnan(ds.final_validation_loss.sel(tf=1.6, tb=1.3)).all()


def test_the_binary_autoencoder_and_its_unit(tmp_path):
    config = {"width": 2, "depth": 0, "units": 3, "grid": 1, "image_shape": [1, 4, 4]}
    base = dataclasses.replace(training.BINARY_AUTOENCODER, config=config, epochs=1)
    ds = sweeps.sweep(base, IMAGES, VALIDATION, tmp_path, tf=0.5, tb=1, seeds=1)
    assert ds.validation_loss.attrs["units"] == "squared error"
    assert ds.validation_kl.attrs["units"] == "nats"


# --- going on ---


def test_finished_cells_are_never_repeated(undisturbed, finished, trainings):
    assert_same(sweep(finished), undisturbed[1])
    assert trainings == []
    for path in sorted(finished.iterdir())[:3]:
        path.unlink()
    assert_same(sweep(finished), undisturbed[1])
    assert len(trainings) == 3


def test_a_wider_grid_trains_what_is_new_alone(undisturbed, finished, trainings):
    ds = sweep(finished, tf=[*TFS, 2.0], seeds=[3])
    assert trainings == [(2.0, tb, 3) for tb in TBS]
    assert_same(ds.sel(tf=TFS), undisturbed[1].sel(seed=[3]))


@pytest.mark.parametrize("step", [1, 7, 8, 20, 21])
def test_an_interrupted_cell_loses_no_finished_step_and_ends_the_same(undisturbed, tmp_path, monkeypatch, step):
    """Ctrl-C writes the state at once."""
    made, one_step = [], training.Run.one_step

    def counted(run, batch):
        one_step(run, batch)
        made.append(run.step)
        if len(made) == step:
            os.kill(os.getpid(), 2)

    monkeypatch.setattr(training.Run, "one_step", counted)
    with pytest.raises(
        KeyboardInterrupt, match="interrupted; 0 of 1 cells are finished, and the same command continues"
    ):
        sweep(tmp_path, **ONE)
    assert leftovers(tmp_path) == [f"{cells(**ONE)[0].name}.resume.safetensors"]
    ds = sweep(tmp_path, **ONE)
    assert made == list(range(1, 22))
    assert_same(ds, undisturbed[1].sel(ONE_POINT))
    assert leftovers(tmp_path) == []


MOMENTS = {
    "first step": ("one_step", 1),
    "second epoch": ("one_step", 9),
    "last step": ("one_step", 21),
    "before the last state": ("save", 3),
    "between last state and model": ("save", 4),
}


@pytest.mark.parametrize(("name", "call"), MOMENTS.values(), ids=MOMENTS)
def test_a_killed_cell_goes_on_from_its_last_epoch(undisturbed, tmp_path, monkeypatch, name, call):
    with monkeypatch.context() as patch:
        dies_at(patch, training.Run, name, call)
        with pytest.raises(Death):
            sweep(tmp_path, **ONE)
    steps, one_step = [], training.Run.one_step
    monkeypatch.setattr(training.Run, "one_step", lambda run, batch: (steps.append(run.step), one_step(run, batch)))
    done = {"first step": 0, "second epoch": 7, "last step": 14, "before the last state": 14}
    assert_same(sweep(tmp_path, **ONE), undisturbed[1].sel(ONE_POINT))
    begun = next(n for n, moment in MOMENTS.items() if moment == (name, call))
    assert steps == list(range(done.get(begun, 21), 21))
    assert leftovers(tmp_path) == []


def test_a_cell_killed_between_its_model_and_its_file_is_not_trained_again(undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        dies_at(patch, results, "save_results", 1)
        with pytest.raises(Death):
            sweep(tmp_path, **ONE)
    assert leftovers(tmp_path) == [f"{cells(**ONE)[0].name}.safetensors"]
    monkeypatch.setattr(training, "train", lambda *given, **options: pytest.fail("trained again"))
    assert_same(sweep(tmp_path, **ONE), undisturbed[1].sel(ONE_POINT))
    assert leftovers(tmp_path) == []


def test_what_kills_leave_behind_is_removed(undisturbed, finished):
    done, under_way = cells()[0], cells()[1]
    (finished / f"{under_way.name}.h5").unlink()
    for cell in (done, under_way):
        for name in (f"{cell.name}.lock", f".{cell.name}.h5.abcd.part", f".{cell.name}.sa.efgh.part"):
            (finished / name).touch()
    (finished / f"{done.name}.safetensors").write_bytes(b"of a training that ended")
    (finished / f".{'0' * 32}.h5.abcd.part").touch()  # of another sweep's cell: perhaps being written
    assert_same(sweep(finished), undisturbed[1])
    assert leftovers(finished) == [f".{'0' * 32}.h5.abcd.part"]


def test_models_are_kept_on_request(tmp_path):
    sweep(tmp_path, **ONE, keep_models=True)
    (cell,) = cells(**ONE)
    assert leftovers(tmp_path) == [f"{cell.name}.safetensors"]
    assert gradlab.load(tmp_path / f"{cell.name}.safetensors").provenance["settings"]["seed"] == 3
    sweep(tmp_path, **ONE, keep_models=True)
    assert leftovers(tmp_path) == [f"{cell.name}.safetensors"]


# --- failures ---


def test_a_cell_that_diverges_is_recorded_and_does_not_stop_the_rest(undisturbed, tmp_path, trainings):
    ds = sweep(tmp_path, tb=[0.7, 1e-40], seeds=[3])
    assert ds.status.values[..., 0].tolist() == [["done", "failed"], ["done", "failed"]]
    assert "no longer finite" in ds.error.values[0, 1, 0]
    assert str(tmp_path) not in ds.error.values[0, 1, 0]  # the state it names is gone
    assert np.isnan(ds.final_validation_loss.values[0, 1, 0])
    assert ds.train_loss.sel(tb=0.7).values.tolist() == undisturbed[1].train_loss.sel(tb=0.7, seed=[3]).values.tolist()
    assert leftovers(tmp_path) == []
    assert len(trainings) == 4
    assert_same(sweep(tmp_path, tb=[0.7, 1e-40], seeds=[3]), ds)
    assert len(trainings) == 4
    sweep(tmp_path, tb=[0.7, 1e-40], seeds=[3], retry_failed=True)
    assert sorted(trainings[4:]) == [(0.5, 1e-40, 3), (1.6, 1e-40, 3)]


def test_a_cell_that_diverges_late_keeps_its_history(tmp_path, monkeypatch, undisturbed):
    end_epoch = training.Run.end_epoch

    def diverging(run, figures, kept):
        end_epoch(run, figures if len(run.history["train_loss"]) < 2 else [float("nan")] * len(figures), kept)

    monkeypatch.setattr(training.Run, "end_epoch", diverging)
    ds = sweep(tmp_path, **ONE)
    assert ds.status == "failed"
    assert np.isfinite(ds.train_loss.values.ravel()).tolist() == [True, True, False]
    wanted = undisturbed[1].train_loss.sel(ONE_POINT).values.ravel()[:2]
    assert ds.train_loss.values.ravel()[:2].tolist() == wanted.tolist()
    assert np.isnan(ds.final_validation_loss)
    assert np.isfinite(ds.seconds)
    assert leftovers(tmp_path) == []


ERRORS = {
    "ValueError": (ValueError("this pair\nis too much"), "this pair is too much"),
    "unforeseen": (IndexError("list index out of range"), "IndexError: list index out of range"),
    "without words": (ValueError(), "ValueError:"),
}


@pytest.mark.parametrize(("error", "text"), ERRORS.values(), ids=ERRORS)
def test_whatever_a_training_raises_is_recorded(tmp_path, monkeypatch, error, text):
    with monkeypatch.context() as patch:
        fail_at(patch, error, tf=1.6)
        ds = sweep(tmp_path, tb=0.7, seeds=1)
    assert ds.error.values.ravel().tolist() == ["", text]
    ds = sweep(tmp_path, tb=0.7, seeds=1, retry_failed=True)
    assert (ds.status == "done").all()
    assert (ds.error == "").all()


OF_TORCH = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    " 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
OF_THE_MACHINE = [
    OSError(errno.ENOSPC, "No space left on device", "x"),
    MemoryError("too large"),
    RuntimeError(OF_TORCH),
    torch.OutOfMemoryError("CUDA out of memory"),
]


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=lambda error: type(error).__name__)
def test_what_is_the_machine_s_fault_is_no_failure_of_the_cell(tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        fail_at(patch, error, tf=1.6)
        with pytest.raises(type(error)):
            sweep(tmp_path, tb=0.7, seeds=1)
    assert len(os.listdir(tmp_path)) == 1  # the other one; no lock is left
    assert (sweep(tmp_path, tb=0.7, seeds=1).status == "done").all()


def test_settings_that_fit_no_cell_are_refused_before_any(tmp_path):
    with pytest.raises(ValueError, match="estimator: expected one for categorical latents, got disarm"):
        sweep(tmp_path, estimator="disarm")
    with pytest.raises(ValueError, match="images: expected images that fit"):
        sweep(tmp_path, config={"latents": 2, "categories": 3})
    with pytest.raises(ValueError, match=r"workers: expected .*, got 0"):
        sweep(tmp_path, workers=0)
    with pytest.raises(ValueError, match="device: expected a usable device, got 'gpu'"):
        sweep(tmp_path, device="gpu")
    with pytest.raises(ValueError, match=r"workers: expected none with a scheduler, .* got 2"):
        sweep(tmp_path, workers=2, scheduler="tcp://127.0.0.1:1")
    assert os.listdir(tmp_path) == []
