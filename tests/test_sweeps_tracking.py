"""Bias and gap tracked along the trainings of a sweep."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from gradlab import results, training

from .kill_sweep import files
from .tiny_sweep import (
    BASE,
    IMAGES,
    ONE,
    VALIDATION,
    Death,
    assert_same,
    dies_at,
    leftovers,
    sweep,
)


def test_tracked_figures_are_those_of_the_training_alone(tmp_path):
    options = {"track": ["gap", "bias"], "track_every": 2, "track_images": 3, "track_draws": 8}
    ds = sweep(tmp_path / "sweep", tb=0.7, seeds=1, epochs=2, **options)
    assert leftovers(tmp_path / "sweep") == []
    assert ds.tracked_epoch.values.tolist() == [0, 2]
    settings = dataclasses.replace(BASE, tf=1.6, tb=0.7, epochs=2)
    out = tmp_path / "alone.safetensors"
    training.train(settings, IMAGES, VALIDATION, out, **options)
    one = ds.sel(tf=1.6, tb=0.7, seed=0)
    for kind, pairs in {
        "bias": [("relative_bias_debiased", "relative_bias_debiased"), ("cosine_low", "cosine_low")],
        "gap": [("gap", "gap"), ("gap_cosine", "cosine"), ("relative_gap_high", "relative_gap_high")],
    }.items():
        alone = results.open_results(training.track_path(out, kind))
        for name, there in pairs:
            assert np.array_equal(one[name].values, alone[there].values), name
    assert ds.gap.dims == ("tf", "tb", "seed", "tracked_epoch", "definition")
    assert ds.tracked_tf.sel(tf=0.5).values.tolist() == np.full((1, 1, 2), 0.5).tolist()
    assert (ds.attrs["bias_draws"], ds.attrs["bias_examples"]) == (8, 3)
    assert all({"long_name", "units"} <= set(ds[name].attrs) for name in ds.variables)


def test_what_bias_is_held_against_is_told(tmp_path):
    large = BASE.config | {"latents": 12, "categories": 16}
    options = {"track": ["bias"], "track_every": 1, "track_images": 3, "track_draws": 64, "epochs": 1}
    assert sweep(tmp_path / "small", **ONE, **options).attrs["bias_reference"] == "exact"
    assert sweep(tmp_path / "large", config=large, **ONE, **options).attrs["bias_reference"] == "rloo"


def test_tracking_does_not_change_the_training(tmp_path):
    plain = sweep(tmp_path, **ONE).drop_vars("seconds")
    followed = sweep(tmp_path, **ONE, track=["gap"], track_images=3, track_draws=2)
    xr.testing.assert_equal(followed[[*plain]], plain)


GAP = {**ONE, "track": ["gap"], "track_every": 1, "track_images": 3, "track_draws": 8}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("tracked"), **GAP)


@pytest.mark.parametrize("call", [2, *(pytest.param(call, marks=pytest.mark.deep) for call in (1, 3))])
def test_a_killed_cell_goes_on_with_what_it_tracked(tracked, tmp_path, monkeypatch, call):
    with monkeypatch.context() as patch:
        dies_at(patch, training.Run, "save", call, before=call != 1)
        with pytest.raises(Death):
            sweep(tmp_path, **GAP)
    assert_same(sweep(tmp_path, **GAP), tracked)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("spoil", ["gone", pytest.param("cut", marks=pytest.mark.deep)])
def test_a_state_without_what_was_tracked_is_set_aside(tmp_path, monkeypatch, spoil):
    options = GAP | {"epochs": 2}
    with monkeypatch.context() as patch:
        dies_at(patch, training.Run, "save", 2)
        with pytest.raises(Death):
            sweep(tmp_path, **options)
    (tracked,) = files(tmp_path, ".gap.h5")
    tracked.unlink() if spoil == "gone" else tracked.write_bytes(tracked.read_bytes()[:100])
    with pytest.warns(UserWarning, match="the file of its tracked metrics is missing; the file is kept as"):
        ds = sweep(tmp_path, **options)
    assert np.isfinite(ds.gap).all()
    assert ds.tracked_epoch.values.tolist() == [0, 1, 2]
    endings = [".gap.h5.damaged"] * (spoil == "cut") + [".resume.safetensors.damaged"]
    assert [name[32:] for name in leftovers(tmp_path)] == endings
