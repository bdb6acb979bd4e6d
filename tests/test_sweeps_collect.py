"""Collecting the cells of a folder, and what is said over seeds."""

import dataclasses
import os

import h5py
import numpy as np
import pytest
import xarray as xr

from gradlab import errors, results, sweeps, training
from gradlab.sweeps.cells import Cell, identity, tracked
from gradlab.sweeps.folder import Folder

from .tiny_sweep import (
    BASE,
    IMAGES,
    ONE,
    VALIDATION,
    assert_same,
    cells,
    sweep,
)


def test_collect_finds_what_the_sweep_returned(undisturbed):
    folder, ds = undisturbed
    assert_same(sweeps.collect(folder), ds)
    assert_same(sweeps.collect(folder, BASE), ds)


def test_the_last_losses_without_and_with_both_kinds_of_kl(undisturbed):
    ds = undisturbed[1]
    last = ds.isel(epoch=-1)
    loss, model, sampled = last.validation_loss, last.validation_kl, last.validation_kl_sampled
    np.testing.assert_array_equal(ds.final_validation_loss, loss)
    np.testing.assert_array_equal(ds.final_validation_kl, model)
    np.testing.assert_array_equal(ds.final_validation_kl_sampled, sampled)
    np.testing.assert_array_equal(ds.final_validation_loss_with_kl, loss + model)
    np.testing.assert_array_equal(ds.final_validation_loss_with_kl_sampled, loss + sampled)
    assert "with KL(softmax(l/tf))" in ds.final_validation_loss_with_kl_sampled.attrs["long_name"]
    assert np.array_equal(model, sampled) == (ds.tf.values.tolist() == [1.0])
    assert ds.attrs["images"] == len(IMAGES)
    assert ds.attrs["validation_images"] == len(VALIDATION)


def test_collect_of_a_sweep_under_way_has_holes(undisturbed, finished):
    hole = cells()[7]
    (finished / f"{hole.name}.h5").unlink()
    ds = sweeps.collect(finished)
    tf, tb, seed = hole.at
    assert ds.status.sel(tf=tf, tb=tb, seed=seed) == "missing"
    assert (ds.status == "done").sum() == 11
    assert np.isnan(ds.validation_loss.sel(tf=tf, tb=tb, seed=seed)).all()


def test_collect_leaves_out_what_is_no_cell_and_changes_nothing(undisturbed, finished):
    (finished / f"{'f' * 32}.h5").write_bytes(b"no cell")
    results.save_results(xr.Dataset({"a": 1.0}), finished / f"{'e' * 32}.h5")
    (finished / "sweep.h5").write_bytes(b"no HDF5")
    before = sorted(os.listdir(finished))
    with pytest.warns(UserWarning, match="left out") as warned:
        assert_same(sweeps.collect(finished), undisturbed[1])
    assert sorted(str(one.message)[-8:] for one in warned) == ["left out"] * 2
    assert sorted(os.listdir(finished)) == before


def test_collect_does_not_mix_sweeps(undisturbed, finished):
    other = dataclasses.replace(BASE, lr=0.02, kl=True)
    sweep(finished, lr=0.02, kl=True, **ONE)
    with pytest.raises(ValueError, match="got different kl, lr"):
        sweeps.collect(finished)
    assert_same(sweeps.collect(finished, BASE), undisturbed[1])
    assert sweeps.collect(finished, other).sizes["tf"] == 1
    with pytest.raises(ValueError, match="expected at least one finished cell of these settings, got none in"):
        sweeps.collect(finished, dataclasses.replace(BASE, lr=0.5))


def test_collect_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder: expected at least one finished cell, got none in"):
        sweeps.collect(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        sweeps.collect(tmp_path / "nowhere")


@pytest.mark.parametrize("spoil", ["status", "configuration", "validation_loss", "seconds", "settings"])
def test_a_file_that_only_looks_like_a_cell_is_left_out(finished, spoil):
    path = sorted(finished.iterdir())[0]
    with h5py.File(path, "a") as file:
        if spoil == "settings":
            file.attrs["configuration"] = file.attrs["configuration"].replace('"lr":', '"learning":')
        elif spoil in file:
            del file[spoil]
        else:
            del file.attrs[spoil]
    with pytest.warns(UserWarning, match=rf"{path.name}: expected a cell of a sweep, .*left out"):
        assert (sweeps.collect(finished).status == "done").sum() == 11


# --- over seeds ---


def made_up(losses):
    """A sweep with these final losses (tf, tb, seed)."""
    losses = np.array(losses)
    axes = {name: np.arange(1, n + 1) / 2 for name, n in zip(("tf", "tb", "seed"), losses.shape, strict=True)}
    about = {"long_name": "loss", "units": "nats"}
    return xr.Dataset({"final_validation_loss": (("tf", "tb", "seed"), losses, about)}, axes)


def test_collapsed_trainings_are_those_no_better_than_without_a_code():
    ds = made_up([[[150.0, 195.9, 196.1], [250.0, np.nan, 199.0]]])
    assert not sweeps.collapsed(ds).any()
    ds = sweeps.with_means(ds.assign(validation_loss=ds.final_validation_loss).assign_attrs(loss_without_code=200.0))
    assert sweeps.collapsed(ds).values.tolist() == [[[False, False, True], [True, False, True]]]
    assert ds.collapsed.values.tolist() == [[1, 2]]
    assert ds.final_validation_loss_median.values.tolist() == [[195.9, 224.5]]


def test_the_interval_over_seeds_is_student_s():
    """By hand: mean 4, s = 2, n = 4, t(0.975, 3) = 3.1824."""
    nan = np.nan
    found = sweeps.over_seeds(made_up([[[2, 4, 4, 6 - 1e-12], [1, nan, nan, nan]], [[nan] * 4, [1, 3, nan, nan]]]))
    s = np.sqrt(8 / 3)
    assert found["mean"].values[0, 0] == pytest.approx(4)
    assert found.high.values[0, 0] - 4 == pytest.approx(3.182446 * s / 2)
    assert 4 - found.low.values[0, 0] == pytest.approx(3.182446 * s / 2)
    assert found.seeds.values.tolist() == [[4, 1], [0, 2]]
    assert np.isnan([found.low.values[0, 1], found.high.values[1, 0], found["mean"].values[1, 0]]).all()
    assert found.high.values[1, 1] == pytest.approx(2 + 12.706205)  # s = sqrt 2, t(0.975, 1) = 12.706
    assert found.low.attrs["units"] == "nats"


def test_the_best_pair_has_the_lowest_mean_of_those_with_all_seeds():
    ds = made_up([[[5, 5.0], [3, 5]], [[1, np.nan], [6, 6]]])
    assert sweeps.best(ds)[:2] == (0.5, 1.0)
    assert sweeps.best(ds).mean.value == 4
    assert sweeps.best(ds, diagonal=True)[:2] == (0.5, 0.5)
    assert sweeps.best(made_up(np.full((2, 2, 1), np.nan))) is None
    assert sweeps.best(ds.isel(tf=[0], tb=[1]), diagonal=True) is None


def test_one_and_the_same_pair_as_number_and_as_text_is_on_the_diagonal():
    ds = made_up([[[5.0], [3]], [[1], [6]]]).assign_coords(tb=np.array(["1", "1:0.3"], object))
    assert sweeps.best(ds, diagonal=True)[:2] == (1.0, "1")


def test_a_cell_and_its_folder_agree_on_files(tmp_path):
    cell = Cell(BASE, identity(IMAGES), identity(VALIDATION), tracked(["bias"], 1, 5, 8))
    folder = Folder(tmp_path)
    assert folder.tracks(cell) == {"bias": tmp_path / f"{cell.name}.bias.h5"}
    assert training.resume_path(folder.model(cell)) == tmp_path / f"{cell.name}.resume.safetensors"
    folder.file(cell).touch()
    with pytest.raises(errors.BadFile, match="expected a results file, got an empty file"):
        folder.read(cell)


def test_cells_of_two_versions_are_collected_and_called_that(tmp_path, monkeypatch):
    """As two versions of gradlab would have made them: other names, another version in the configuration."""
    from gradlab.sweeps import run

    with monkeypatch.context() as patch:
        older = run.grid

        def of_older(*given):
            found = older(*given)
            cells = [dataclasses.replace(cell, version="0.0.9") for cell in found.cells]
            return dataclasses.replace(found, cells=cells)

        patch.setattr(run, "grid", of_older)
        patch.setattr("gradlab.results.__version__", "0.0.9")
        old = sweep(tmp_path, tf=[0.5], tb=[0.7, 1.3], seeds=1, epochs=1)
    with pytest.warns(UserWarning, match=r"folder: 1 cell of gradlab 0\.0\.9 with these settings: they stay"):
        new = sweep(tmp_path, tf=[0.5], tb=[0.7], seeds=1, epochs=1)
    both = sweeps.collect(tmp_path)
    assert both.attrs["trained_gradlab"] == f"{old.attrs['gradlab']}, {new.attrs['gradlab']}" == "0.0.9, 0.1.0"
    assert both.validation_loss.shape == (1, 2, 1, 1)
    np.testing.assert_array_equal(both.validation_loss, old.validation_loss)
