"""`gradlab bias` and temperatures on the command line."""

import json
import re
import shlex
import sys

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from gradlab.cli.specs import TemperatureSpec

import gradlab
from gradlab import datasets, rounding

from .command_line import POINT, measured, refused, tiny

# --- bias ---


def test_bias_of_the_bundled_model_needs_nothing(run):
    ran = run("bias", *POINT)
    assert ran.code == 0
    assert ran.err == ""
    ds = gradlab.open_results("bias.h5")
    assert dict(ds.sizes)["tf"] == dict(ds.sizes)["tb"] == 1
    assert ds.exact_gradient.shape == (1, 3, 4, 8)
    for figure in ("exact_norm", "relative_bias_debiased", "relative_std", "cosine", "matched_bias"):
        assert figure in ran.out
        three = [float(ds[figure + end].squeeze()) for end in ("", "_low", "_high") if figure + end in ds]
        assert rounding.written(*three) in ran.out
        assert len(three) == 1 or "[over examples]" in ran.out
    assert "wrote bias.h5" in ran.out


def test_a_results_file_is_read_without_gradlab(results_at_point, tmp_path):
    ds = results_at_point
    with h5py.File(tmp_path / "bias.h5") as file:
        np.testing.assert_array_equal(file["relative_bias"][...], ds.relative_bias)
    with xr.open_dataset(tmp_path / "bias.h5") as plain:
        np.testing.assert_array_equal(plain.relative_bias, ds.relative_bias)


def test_json_is_one_object_with_the_figures(run, checkpoint):
    ran = run("bias", checkpoint, *POINT, "--json")
    assert ran.code == 0
    assert ran.err == ""
    found = json.loads(ran.out)
    ds = gradlab.open_results("bias.h5")
    (point,) = found["points"]
    assert (point["tf"], point["tb"]) == (1.6, 1.3)
    for name in ("exact_norm", "relative_bias", "cosine"):
        assert point["metrics"][name]["value"] == float(ds[name].squeeze())
    assert point["metrics"]["cosine"]["low"] == float(ds.cosine_low.squeeze())
    assert found["attributes"]["draws"] == 8
    assert found["files"] == ["bias.h5"]


def test_one_point_is_swept_as_a_cross(run, checkpoint):
    ds = measured(run, checkpoint, "--images", 2, "--draws", 4, "--tf", 1.0, "--tb", 0.7, "--no-plot")
    on_the_cross = (ds.tf == 1.0) | (ds.tb == 0.7)
    np.testing.assert_array_equal(ds.relative_std.notnull(), on_the_cross.transpose("tf", "tb"))
    assert (ds.sizes["tf"], ds.sizes["tb"]) == (11, 11)
    assert np.isfinite(float(ds.relative_bias.sel(tf=1.0, tb=0.7)))
    assert (ds.attrs["tf_fixed"], ds.attrs["tb_fixed"]) == (1.0, 0.7)


def test_a_grid_is_measured_everywhere(run, checkpoint):
    common = ("--images", 2, "--draws", 4, "--no-plot")
    ds = measured(run, checkpoint, *common, "--sweep", "grid")
    assert (ds.sizes["tf"], ds.sizes["tb"]) == (11, 11)
    assert bool(ds.relative_std.notnull().all())
    ds = measured(run, checkpoint, *common, "--tf", "0.5,1.0", "--tb", "0.3:1.5:3")
    assert bool(ds.relative_std.notnull().all())
    np.testing.assert_array_equal(ds.tf, [0.5, 1.0])
    np.testing.assert_array_equal(ds.tb, [0.3, 0.9, 1.5])


def test_a_cross_through_several_points_is_refused(run, checkpoint):
    refused(run("bias", checkpoint, "--tf", "1,2", "--sweep", "cross"), 2, "--sweep", "one --tf and one --tb")


def test_both_targets_give_a_dim(run, checkpoint):
    both = measured(run, checkpoint, *POINT, "--target", "both")
    assert list(both.target.values) == ["sampled", "model"]
    for name in ("sampled", "model"):
        alone = measured(run, checkpoint, *POINT, "--target", name)
        np.testing.assert_allclose(both.exact_gradient.sel(target=name), alone.exact_gradient, rtol=1e-12)
    assert not np.allclose(both.exact_norm.sel(target="sampled"), both.exact_norm.sel(target="model"))


def test_two_estimators_give_a_dim_and_their_parameters_matter(run, checkpoint):
    names = ["st-gs", "st-gs:convention=jang"]
    ds = measured(run, checkpoint, *POINT, "--estimator", names[0], "--estimator", names[1])
    assert list(ds.estimator.values) == ["st-gs", "st-gs(convention=jang)"]
    assert ds.attrs["estimator"] == list(ds.estimator.values)
    assert ds.attrs["estimator_parameters"] == ["convention=paper", "convention=jang"]
    alone = measured(run, checkpoint, *POINT, "--estimator", names[1])
    np.testing.assert_allclose(ds.mean_gradient.isel(estimator=1), alone.mean_gradient, rtol=1e-6)
    assert not np.allclose(ds.mean_gradient.isel(estimator=0), ds.mean_gradient.isel(estimator=1))


def test_several_checkpoints_give_a_dim_and_one_file(run, checkpoint, tmp_path):
    tiny(tmp_path / "other.safetensors", seed=2)
    ds = measured(run, checkpoint, "other.safetensors", *POINT)
    assert list(ds.checkpoint.values) == [checkpoint, "other.safetensors"]
    assert len(set(ds.checkpoint_sha256.values)) == 2
    for name in (checkpoint, "other.safetensors"):
        alone = measured(run, name, *POINT)
        np.testing.assert_array_equal(ds.mean_gradient.sel(checkpoint=name), alone.mean_gradient)
    ran = run("bias", checkpoint, "other.safetensors", *POINT, "--json")
    assert [p["checkpoint"] for p in json.loads(ran.out)["points"]] == [checkpoint, "other.safetensors"]


def test_checkpoints_of_different_size_are_refused_before_they_are_measured(run, checkpoint, tmp_path):
    tiny(tmp_path / "larger.safetensors", latents=3)
    refused(
        run("bias", checkpoint, "larger.safetensors", *POINT),
        1,
        "checkpoint",
        "(3, 3)",
        "(2, 3)",
        "one file per shape",
    )
    assert not (tmp_path / "bias.h5").exists()


def test_the_figure_is_drawn_beside_the_results(run, checkpoint, tmp_path):
    ran = run("bias", checkpoint, *POINT, "--out", "sub/figures.h5", "--plot")
    assert ran.code == 0
    assert (tmp_path / "sub" / "figures.png").read_bytes().startswith(b"\x89PNG")
    assert ran.out.splitlines()[-2:] == ["wrote sub/figures.h5", "wrote sub/figures.png"]


def test_a_figure_does_not_overwrite_the_results(run, checkpoint, tmp_path):
    refused(run("bias", checkpoint, *POINT, "--plot", "--out", "bias.png"), 2, "--out", "bias.png", ".h5")
    assert not (tmp_path / "bias.png").exists()


def test_attributes_say_how_it_was_made(run, checkpoint, tmp_path, monkeypatch):
    arguments = ["bias", checkpoint, *POINT, "--seed", "7"]
    monkeypatch.setattr(sys, "argv", ["gradlab", *arguments])
    about = measured(run, *arguments[1:]).attrs
    sample = datasets.load(datasets.SAMPLE)
    assert about["checkpoint"] == checkpoint
    assert re.fullmatch("[0-9a-f]{64}", about["checkpoint_sha256"])
    assert sample.name in about["data"]
    assert about["data_sha256"] == sample.sha256
    assert about["command_line"] == shlex.join(["gradlab", *arguments])
    wanted = {
        "seed": 7,
        "draws": 8,
        "examples": 3,
        "gradlab": gradlab.__version__,
        "torch": str(torch.__version__),
    }
    assert {name: about[name] for name in wanted} == wanted
    assert {"date", "device", "dtype", "estimator", "estimator_parameters", "target"} <= set(about)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(run, checkpoint):
    one, again, other = (measured(run, checkpoint, *POINT, "--seed", seed) for seed in (1, 1, 2))
    xr.testing.assert_equal(one, again)
    assert not np.allclose(one.mean_gradient, other.mean_gradient)
    np.testing.assert_array_equal(one.exact_gradient, other.exact_gradient)


def test_little_memory_gives_the_same_numbers(run):
    """The bundled model: 1 MiB holds neither all its configurations nor all draws."""
    arguments = [*POINT, "--draws", 300]
    plenty, little = measured(run, *arguments), measured(run, *arguments, "--memory", "1MiB")
    np.testing.assert_allclose(plenty.exact_gradient, little.exact_gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(plenty.mean_gradient, little.mean_gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plenty.relative_std, little.relative_std, rtol=1e-5)


def test_a_folder_of_one_s_own_images(run, checkpoint, tmp_path):
    pixels = torch.arange(4 * 784).remainder(251).to(torch.uint8).reshape(4, 1, 28, 28)
    datasets.write_idx(tmp_path / "own" / "t10k-images-idx3-ubyte.gz", pixels)
    ds = measured(run, checkpoint, *POINT, "--data", "own")
    alone = gradlab.exact_gradient(gradlab.load(checkpoint), pixels[:3] / 255, tf=1.6)
    np.testing.assert_allclose(ds.exact_gradient[0], alone, rtol=1e-6, atol=1e-9)


# --- temperatures ---


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("1.6", [1.6]),
        ("0.5,1.0,1.6", [0.5, 1.0, 1.6]),
        ("1.6,0.5", [0.5, 1.6]),
        ("0.3:3.0:10", [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0]),
        ("2:1:2", [1.0, 2.0]),
    ],
)
def test_temperature_specs(spec, expected):
    assert TemperatureSpec().convert(spec, None, None) == expected


RUBBISH = [
    *["0", "-1", "nan", "inf", "-inf", "a", "", ",", "1,", "1,1", "1,0", "1e999", "1;2"],
    *["1:2", "1:2:0", "1:2:1", "1:2:-3", "1:2:2.5", "1:2:1000000000", "0:1:3", "1:1:3", "1:inf:3", "1:2:3:4"],
]


@pytest.mark.parametrize("option", ["--tf", "--tb"])
@pytest.mark.parametrize("spec", RUBBISH)
def test_rubbish_is_no_temperature(run, option, spec):
    refused(run("bias", *POINT, option, spec), 2, option, repr(spec), "0.3:3.0:10")


@pytest.mark.parametrize("option", ["--tf", "--tb"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_training_temperatures_are_checked(run, option, value):
    refused(run("train", "vae", "--data", "own", option, value), 2, option, f"got {value!r}", "above 0")


def test_temperatures_within_an_estimator_and_checkpoints_twice_are_usage_errors(run, checkpoint):
    refused(run("bias", "--estimator", "st-gs:tb=0.5"), 2, "--tb")
    refused(run("bias", checkpoint, checkpoint), 2, "each once")
