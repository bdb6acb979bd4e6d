"""The command line: results, exit codes, one-line errors."""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from gradlab.cli.main import main
from gradlab.cli.specs import TemperatureSpec

import gradlab
from gradlab import datasets, networks, rounding

from .command_line import POINT, RUN, images, measured, refused, start, tiny


@pytest.fixture(scope="module")
def measured_once(tmp_path_factory):
    """A file of results of the tiny checkpoint at POINT."""
    folder = tmp_path_factory.mktemp("measured")
    tiny(folder / "tiny.safetensors")
    with contextlib.chdir(folder), contextlib.suppress(SystemExit):
        main(["bias", "tiny.safetensors", *POINT])
    return folder / "bias.h5"


@pytest.fixture
def results_at_point(measured_once, tmp_path):
    """A copy of it, bias.h5, as a Dataset."""
    return gradlab.open_results(shutil.copy(measured_once, tmp_path))


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


# --- bad input ---


@pytest.fixture
def files(tmp_path, checkpoint):
    """What a user might point at."""
    model = tiny(tmp_path / "large.safetensors", latents=12, categories=16)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    gradlab.save(model, tmp_path / "nan.safetensors")
    for part in ("encoder", "decoder"):
        model = networks.build("categorical-vae", {"latents": 2, "categories": 3, "hidden": [4]}, seed=1)
        with torch.no_grad():
            for parameter in getattr(model, part).parameters():
                parameter.fill_(3e38)  # finite, but what they give is not
        gradlab.save(model, tmp_path / f"overflowing-{part}.safetensors")
    (tmp_path / "foreign").write_bytes(b"GIF89a, and nothing that anyone here reads")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / checkpoint).read_bytes()[:-100])
    images(tmp_path, 4)
    return tmp_path


BAD = {
    "missing checkpoint": (["bias", "nosuch.safetensors"], 1, ["nosuch.safetensors", "no such"]),
    "foreign checkpoint": (["bias", "foreign"], 1, ["foreign", "safetensors"]),
    "checkpoint cut short": (["bias", "cut.safetensors"], 1, ["cut.safetensors", "expected a complete"]),
    "checkpoint with NaN": (
        ["bias", "nan.safetensors"],
        1,
        ["nan.safetensors", "encoder.1.weight", "expected finite weights"],
    ),
    "logits overflow": (
        ["bias", "overflowing-encoder.safetensors"],
        1,
        ["logits: expected finite values, got inf at index (0, 0, 0)"],
    ),
    "losses overflow": (["bias", "overflowing-decoder.safetensors"], 1, ["losses: ", "at example 0"]),
    "space too large": (
        ["bias", "large.safetensors", "--reference", "exact"],
        1,
        ["16^12", "2.815e+14", "at most 16,777,216", "gradlab gap"],
    ),
    "a folder": (["bias", "."], 2, ["'.'", "directory"]),
    "images that do not fit": (
        ["bias", "tiny.safetensors", "--data", "own", "--images", "2"],
        1,
        ["(2, 1, 8, 8)"],
    ),
    "one draw": (["bias", "--draws", "1"], 2, ["--draws", "1", "2"]),
    "no images": (["bias", "--images", "0"], 2, ["--images", "0"]),
    "more images than there are": (["bias", "--images", "1001"], 1, ["--images: expected at most 1000", "got 1001"]),
    "unknown estimator": (["bias", "--estimator", "st-g"], 2, ["--estimator", "'st-g'", "did you mean st-gs"]),
    "unknown parameter": (
        ["bias", "--estimator", "st-gs:conventoin=jang"],
        2,
        ["--estimator", "conventoin", "convention"],
    ),
    "unknown convention": (
        ["bias", "--estimator", "st-gs:convention=jng"],
        2,
        ["convention", "'jng'", "jang"],
    ),
    "parameter without value": (["bias", "--estimator", "st-gs:jang"], 2, ["st-gs:jang", "key=value"]),
    "estimator twice": (
        ["bias", "--estimator", "ste", "--estimator", "ste"],
        1,
        ["estimator", "'ste'", "once"],
    ),
    "unknown target": (["bias", "--target", "modl"], 2, ["--target", "modl", "model"]),
    "unknown moments": (["bias", "--moments", "exat"], 2, ["--moments", "exat"]),
    "unknown data": (["bias", "--data", "mnist-smaple"], 2, ["--data", "mnist-smaple", "mnist-sample"]),
    "unknown device": (["bias", "--device", "nosuch"], 1, ["--device: expected a usable device, got 'nosuch'", "cpu"]),
    "device without numbers": (
        ["bias", "--device", "meta"],
        1,
        ["--device: expected a usable device, got 'meta'", "cpu"],
    ),
    "negative seed": (["bias", "--seed", "-1"], 2, ["--seed", "-1"]),
    "seed no file can hold": (["bias", "--seed", str(2**63)], 2, ["--seed", str(2**63)]),
    "no memory": (["bias", "--memory", "0MiB"], 2, ["--memory", "0MiB", "512MiB"]),
    "memory without a unit": (["bias", "--memory", "300"], 2, ["--memory", "'300'", "write 300MiB"]),
    "folder that is a file": (["bias", "--out", "foreign/bias.h5"], 1, ["--out", "foreign/bias.h5"]),
    "output that is a folder": (["bias", "--out", "own"], 2, ["--out", "own"]),
    "unknown option": (["bias", "--draw", "8"], 2, ["--draw", "--draws"]),
    "unknown command": (["bais"], 2, ["bais"]),
    "missing results": (["show", "nosuch.h5"], 1, ["nosuch.h5", "no such"]),
    "foreign results": (["show", "foreign"], 1, ["foreign", "HDF5"]),
    "a checkpoint for results": (
        ["show", "tiny.safetensors"],
        1,
        ["tiny.safetensors", "expected a results file", "gradlab bias"],
    ),
    "missing results to draw": (["plot", "nosuch.h5"], 1, ["nosuch.h5", "no such"]),
    "unknown kind": (["plot", "nosuch.h5", "--kind", "pie"], 2, ["--kind", "pie", "trends"]),
    "unknown data to check": (["data", "check", "mnsit"], 2, ["NAME", "mnsit", "mnist"]),
    "unknown data to fetch": (["data", "fetch", "mnsit"], 2, ["NAME", "mnsit", "mnist"]),
    "missing data": (["train", "vae", "--data", "mnist", "--data-dir", "."], 1, ["gradlab data fetch mnist"]),
    "training output in a file": (
        ["train", "vae", "--data", "own", "--out", "foreign/vae"],
        1,
        ["--out", "foreign/vae"],
    ),
    "unknown estimator to train": (
        ["train", "vae", "--data", "own", "--estimator", "st-g"],
        2,
        ["st-g", "st-gs"],
    ),
    "nothing to resume": (
        ["train", "vae", "--data", "own", "--resume"],
        1,
        ["vae.resume", "without --resume"],
    ),
}


@pytest.mark.parametrize(("arguments", "code", "fragments"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(run, files, arguments, code, fragments):
    if arguments[0] == "bias":
        arguments = ["bias", *POINT, *arguments[1:]]
    before = sorted(p.name for p in files.iterdir())
    refused(run(*arguments), code, *fragments)
    assert sorted(p.name for p in files.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(run, checkpoint, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(run("bias", checkpoint, *POINT, "--out", "locked/bias.h5"), 1, "--out", "locked")


def test_an_output_that_cannot_be_written_is_refused_before_measuring(run, files, monkeypatch):
    monkeypatch.setattr("gradlab.fidelity.bias_analysis.bias", lambda *a, **k: pytest.fail("measured first"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(run("bias", *POINT), 1, "--out", "bias.h5", "permission")


def test_an_error_of_many_lines_is_told_in_one(run, checkpoint, monkeypatch):
    def fails(*names):
        raise ValueError("first\n  second\n\nthird")

    monkeypatch.setattr("gradlab.estimators.describe", fails)
    refused(run("estimators"), 1, "first; second; third")


def test_an_unforeseen_error_is_one_line_too(run, monkeypatch):
    monkeypatch.setattr("gradlab.estimators.describe", lambda *names: {}["latents"])
    refused(run("estimators"), 1, "KeyError", "latents", "--debug")


@pytest.mark.parametrize("arguments", [["--debug", "show", "nosuch.h5"], ["show", "nosuch.h5", "--debug"]])
def test_debug_lets_the_error_through(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nosuch"):
        main(arguments)


@pytest.mark.deep
def test_debug_gives_the_traceback(tmp_path):
    process = start(tmp_path, RUN, "--debug", "show", "nosuch.h5")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1].startswith("FileNotFoundError: nosuch.h5")


# --- show, plot, estimators, data ---


def test_show_prints_what_was_measured_and_how(run, results_at_point):
    ds = results_at_point
    ran = run("show", "bias.h5")
    assert ran.code == 0
    three = [float(ds["relative_std" + end].squeeze()) for end in ("", "_low", "_high")]
    assert rounding.written(*three) in ran.out
    assert ds.attrs["checkpoint_sha256"] in ran.out


def test_show_json_repeats_bias_json(run, checkpoint):
    of_bias = json.loads(run("bias", checkpoint, *POINT, "--json").out)
    of_show = json.loads(run("show", "bias.h5", "--json").out)
    assert of_show["points"] == of_bias["points"]
    assert of_show["attributes"] == of_bias["attributes"]


@pytest.mark.usefixtures("results_at_point")
def test_commands_that_read_results_let_the_helper_try_them_first(run, monkeypatch):
    tried = []
    monkeypatch.setattr("gradlab.hdf5_sandbox.fault", lambda path: tried.append(path.name) or "expected another file")
    for command in (["show"], ["plot", "--out", "a.png"], ["report", "--out", "a.html"]):
        refused(run(*command, "bias.h5"), 1, "bias.h5: expected another file")
    assert tried == ["bias.h5"] * 3


@pytest.mark.usefixtures("results_at_point")
def test_plot_draws_a_results_file(run, tmp_path):
    for begin, suffix in ((b"\x89PNG", "png"), (b"%PDF", "pdf"), (b"<?xml", "svg")):
        assert run("plot", "bias.h5", "--out", f"figure.{suffix}").code == 0
        assert (tmp_path / f"figure.{suffix}").read_bytes().startswith(begin)


@pytest.mark.usefixtures("results_at_point")
def test_plot_refuses_what_is_not_there(run):
    variable = ("plot", "bias.h5", "--kind", "heatmap", "--variable", "relative_bais")
    refused(run(*variable), 2, "--variable", "relative_bais", "relative_bias")
    refused(run("plot", "bias.h5", "--kind", "trends", "--target", "modl"), 2, "--target", "'modl'")
    refused(run("plot", "bias.h5", "--out", "figure.gif"), 1, "got 'figure.gif'", "--out: expected", ".png")


def test_estimators_lists_the_catalogue(run):
    names = gradlab.estimators.names()
    plain, found = run("estimators"), json.loads(run("estimators", "--json").out)
    assert [row["name"] for row in found["estimators"]] == names
    assert all(name in plain.out for name in names)


def test_data_list_names_the_data_sets(run, tmp_path):
    found = json.loads(run("data", "list", "--data-dir", tmp_path, "--json").out)["datasets"]
    assert [row["name"] for row in found] == datasets.names()
    assert all(name in run("data", "list", "--data-dir", tmp_path).out for name in datasets.names())


def test_data_check_fails_where_a_file_is_broken(run, tmp_path):
    images(tmp_path, 4)
    assert run("data", "check", "own").code == 0
    (tmp_path / "own" / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bbroken")
    ran = run("data", "check", "own")
    assert ran.code == 1
    assert ran.err.splitlines() == ["gradlab: own: train split missing or damaged"]


def test_plot_of_one_target_draws_that_one_whatever_the_kind(run, tmp_path):
    """Two panels for both target laws, one for one: half the figure's width or less."""
    tiny(tmp_path / "tiny.safetensors")
    grid = ("--tf", "0.5:2:4", "--tb", "0.5:2:4", "--images", "2", "--draws", "4", "--target", "both")
    run("bias", "tiny.safetensors", *grid, "--no-plot")
    widths = []
    for target in ([], ["--target", "model"]):
        run("plot", "bias.h5", "--out", "figure.png", *target)
        widths.append(int.from_bytes((tmp_path / "figure.png").read_bytes()[16:20], "big"))
    assert widths[1] < widths[0]
    refused(run("plot", "bias.h5", "--target", "modl"), 2, "--target", "model")


def test_a_results_file_of_something_else_is_named(run, tmp_path):
    import xarray as xr

    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.h5", engine="h5netcdf")
    refused(run("show", "other.h5"), 1, "gradlab: other.h5: expected a file that gradlab wrote", "got analysis")


def test_temperatures_within_an_estimator_and_checkpoints_twice_are_usage_errors(run, checkpoint):
    refused(run("bias", "--estimator", "st-gs:tb=0.5"), 2, "--tb")
    refused(run("bias", checkpoint, checkpoint), 2, "each once")
