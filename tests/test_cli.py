"""The command line: help, results, exit codes, one-line errors; and the bad input of the Python functions."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import click
import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from gradlab.cli.main import cli, main
from gradlab.cli.options import TemperatureSpec
from torch import nn

import gradlab
from gradlab import datasets, errors, networks

from . import problems
from .conftest import Ran

NOT_OPTIONS = {"help", "version"}  # click's own
POINT = ["--images", "3", "--draws", "8", "--sweep", "none", "--no-plot", "--out", "bias.h5"]
# a shell's background jobs, and so their children, ignore Ctrl-C
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys\n"
RUN = START + "from gradlab.cli import main; main(sys.argv[1:])"


def tiny(path, seed=1, **config):
    """A checkpoint that measures in no time, asymmetric by its random weights."""
    config = {"latents": 2, "categories": 3, "hidden": [4], "image_shape": [1, 28, 28]} | config
    model = networks.build("categorical-vae", config, seed=seed)
    gradlab.save(model, path)
    return model


@pytest.fixture
def checkpoint(tmp_path):
    tiny(tmp_path / "tiny.safetensors")
    return "tiny.safetensors"


def refused(ran, code, *fragments):
    """One line on standard error that says all of `fragments`, and nothing else."""
    assert ran.code == code
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("gradlab: ")
    for fragment in fragments:
        assert fragment in line


def measured(run, *arguments, out="bias.h5"):
    ran = run("bias", *arguments)
    assert ran.code == 0, ran.err
    return gradlab.open_results(out)


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


# --- help ---


def commands(group=cli, path=()):
    """(path, command) of the group, its commands and theirs."""
    yield path, group
    for name, below in getattr(group, "commands", {}).items():
        yield from commands(below, (*path, name))


PATHS = [path for path, _ in commands()]
every_command = pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=[" ".join(path) or "gradlab" for path in PATHS]
)


def examples(text):
    return [line.strip() for line in text.splitlines() if re.match(r"\s+gradlab \w", line)]


def parse(arguments, command=cli, name="gradlab", above=None):
    """What click makes of arguments, down to the last subcommand; nothing is run."""
    with command.make_context(name, list(arguments), parent=above) as context:
        if isinstance(command, click.Group):
            below, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            parse(rest, found, below, context)


def test_the_commands_of_the_interface_are_there():
    wanted = [("bias",), ("train", "vae"), ("plot",), ("show",), ("estimators",), ("data", "list")]
    assert {*wanted, ("data", "fetch"), ("data", "check")} <= set(PATHS)


@every_command
def test_help_has_an_example_that_parses(run, path, command):
    ran = run(*path, "--help")
    assert ran.code == 0
    assert ran.err == ""
    found = examples(ran.out)
    assert any(shlex.split(line)[1 : 1 + len(path)] == list(path) for line in found)
    for line in found:
        parse(shlex.split(line)[1:])


def test_an_example_that_does_not_parse_would_be_noticed():
    with pytest.raises(click.UsageError, match="frobnicate"):
        parse(["bias", "--frobnicate"])
    with pytest.raises(click.UsageError, match="nosuch"):
        parse(["data", "nosuch"])


@every_command
def test_every_option_is_explained(path, command):
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in NOT_OPTIONS]
    assert [p.name for p in options if not p.help] == []


def test_json_is_there_wherever_figures_are_reported():
    single = ["bias", "gap", "show", "estimators", "check-estimator"]
    reporting = [*((name,) for name in single), ("train", "vae"), ("train", "binary-ae"), ("data", "list")]
    for path, command in commands():
        if path in reporting:
            assert "--json" in [name for p in command.params for name in p.opts]


def test_no_help_imports_torch():
    """In one process: what any --help imports stays imported."""
    script = (
        "import json, sys\n"
        "from gradlab.cli.main import main\n"
        "for path in json.loads(sys.argv[1]): main([*path, '--help'])\n"
        "print('|'.join(['loaded', *sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", script, json.dumps(PATHS)], capture_output=True, text=True, check=True)
    assert ran.stdout.count("Usage: gradlab") == len(PATHS)
    loaded = ran.stdout.splitlines()[-1].split("|")
    assert "gradlab.cli.bias" in loaded
    assert not {"torch", "xarray", "numpy", "matplotlib"} & set(loaded)


def test_the_version(run):
    assert gradlab.__version__ in run("--version").out


@pytest.mark.parametrize("path", [(), ("data",), ("train",)], ids=" ".join)
def test_a_group_alone_shows_its_help(run, path):
    ran = run(*path)
    assert "Usage: gradlab" in ran.out + ran.err
    assert not ran.err.startswith("gradlab: ")


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
        assert f"{float(ds[figure].squeeze()):#.4g}".rstrip(".") in ran.out
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
        assert point["figures"][name]["value"] == float(ds[name].squeeze())
    assert point["figures"]["cosine"]["low"] == float(ds.cosine_low.squeeze())
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
    assert json.loads(ds.attrs["estimator"]) == list(ds.estimator.values)
    assert [p["convention"] for p in json.loads(ds.attrs["estimator_parameters"])] == ["paper", "jang"]
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
        "different files",
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
    plenty, little = measured(run, *arguments), measured(run, *arguments, "--memory", 1)
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


# --- bad input on the command line ---


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
    "checkpoint cut short": (["bias", "cut.safetensors"], 1, ["cut.safetensors", "whole"]),
    "checkpoint with NaN": (
        ["bias", "nan.safetensors"],
        1,
        ["nan.safetensors", "encoder.1.weight", "not finite"],
    ),
    "logits overflow": (["bias", "overflowing-encoder.safetensors"], 1, ["logits: inf at index (0, 0, 0)"]),
    "losses overflow": (["bias", "overflowing-decoder.safetensors"], 1, ["losses: ", "at example 0"]),
    "space too large": (
        ["bias", "large.safetensors", "--reference", "exact"],
        1,
        ["16^12", "2.815e+14", "limit is 16,777,216", "gradlab gap"],
    ),
    "a folder": (["bias", "."], 2, ["'.'", "directory"]),
    "images that do not fit": (
        ["bias", "tiny.safetensors", "--data", "own", "--images", "2"],
        1,
        ["(2, 1, 8, 8)"],
    ),
    "one draw": (["bias", "--draws", "1"], 2, ["--draws", "1", "2"]),
    "no images": (["bias", "--images", "0"], 2, ["--images", "0"]),
    "more images than there are": (["bias", "--images", "1001"], 1, ["images: got 1001", "has 1000"]),
    "unknown estimator": (["bias", "--estimator", "st-g"], 1, ["estimator", "'st-g'", "did you mean st-gs"]),
    "unknown parameter": (["bias", "--estimator", "st-gs:conventoin=jang"], 1, ["conventoin", "convention"]),
    "unknown convention": (
        ["bias", "--estimator", "st-gs:convention=jng"],
        1,
        ["convention", "'jng'", "jang"],
    ),
    "parameter without value": (["bias", "--estimator", "st-gs:jang"], 1, ["st-gs:jang", "key=value"]),
    "estimator twice": (
        ["bias", "--estimator", "ste", "--estimator", "ste"],
        1,
        ["estimator", "'ste'", "once"],
    ),
    "unknown target": (["bias", "--target", "modl"], 2, ["--target", "modl", "model"]),
    "unknown moments": (["bias", "--moments", "exat"], 2, ["--moments", "exat"]),
    "unknown data": (["bias", "--data", "mnist-smaple"], 1, ["data", "mnist-smaple", "mnist-sample"]),
    "unknown device": (["bias", "--device", "nosuch"], 1, ["device: 'nosuch'", "cpu"]),
    "device without numbers": (["bias", "--device", "meta"], 1, ["device: 'meta'", "cpu"]),
    "negative seed": (["bias", "--seed", "-1"], 2, ["--seed", "-1"]),
    "seed no file can hold": (["bias", "--seed", str(2**63)], 2, ["--seed", str(2**63)]),
    "no memory": (["bias", "--memory", "0"], 2, ["--memory", "0"]),
    "folder that is a file": (["bias", "--out", "foreign/bias.h5"], 1, ["--out", "foreign/bias.h5"]),
    "output that is a folder": (["bias", "--out", "own"], 2, ["--out", "own"]),
    "unknown option": (["bias", "--draw", "8"], 2, ["--draw", "--draws"]),
    "unknown command": (["bais"], 2, ["bais"]),
    "missing results": (["show", "nosuch.h5"], 1, ["nosuch.h5", "no such"]),
    "foreign results": (["show", "foreign"], 1, ["foreign", "HDF5"]),
    "a checkpoint for results": (["show", "tiny.safetensors"], 1, ["tiny.safetensors", "HDF5"]),
    "missing results to draw": (["plot", "nosuch.h5"], 1, ["nosuch.h5", "no such"]),
    "unknown kind": (["plot", "nosuch.h5", "--kind", "pie"], 2, ["--kind", "pie", "trends"]),
    "unknown data to check": (["data", "check", "mnsit"], 1, ["data", "mnsit", "mnist"]),
    "unknown data to fetch": (["data", "fetch", "mnsit"], 1, ["data", "mnsit", "mnist"]),
    "missing data": (["train", "vae", "--data", "mnist", "--data-dir", "."], 1, ["gradlab data fetch mnist"]),
    "training output in a file": (
        ["train", "vae", "--data", "own", "--out", "foreign/vae"],
        1,
        ["--out", "foreign/vae"],
    ),
    "unknown estimator to train": (
        ["train", "vae", "--data", "own", "--estimator", "st-g"],
        1,
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
    def fails(path):
        raise ValueError("first\n  second\n\nthird")

    monkeypatch.setattr("gradlab.results.open_results", fails)
    refused(run("show", "any.h5"), 1, "first; second; third")


def test_an_unforeseen_error_is_one_line_too(run, monkeypatch):
    monkeypatch.setattr("gradlab.results.open_results", lambda path: {}["latents"])
    refused(run("show", "any.h5"), 1, "KeyError", "latents", "--debug")


@pytest.mark.parametrize("arguments", [["--debug", "show", "nosuch.h5"], ["show", "nosuch.h5", "--debug"]])
def test_debug_lets_the_error_through(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nosuch"):
        main(arguments)


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
    assert f"{float(ds.relative_std.squeeze()):#.4g}" in ran.out
    assert ds.attrs["checkpoint_sha256"] in ran.out


def test_show_json_repeats_bias_json(run, checkpoint):
    of_bias = json.loads(run("bias", checkpoint, *POINT, "--json").out)
    of_show = json.loads(run("show", "bias.h5", "--json").out)
    assert of_show["points"] == of_bias["points"]
    assert of_show["attributes"] == of_bias["attributes"]


@pytest.mark.usefixtures("results_at_point")
def test_plot_draws_a_results_file(run, tmp_path):
    for begin, suffix in ((b"\x89PNG", "png"), (b"%PDF", "pdf"), (b"<?xml", "svg")):
        assert run("plot", "bias.h5", "--out", f"figure.{suffix}").code == 0
        assert (tmp_path / f"figure.{suffix}").read_bytes().startswith(begin)


@pytest.mark.usefixtures("results_at_point")
def test_plot_refuses_what_is_not_there(run):
    variable = ("plot", "bias.h5", "--kind", "heatmap", "--variable", "relative_bais")
    refused(run(*variable), 1, "variable", "relative_bais", "relative_bias")
    refused(run("plot", "bias.h5", "--kind", "trends", "--target", "modl"), 1, "target", "'modl'")
    refused(run("plot", "bias.h5", "--out", "figure.gif"), 1, "figure.gif", ".png")


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
    assert ran.err.splitlines() == ["gradlab: own: train split not as it should be"]


# --- interrupts and pipes ---


def images(folder, count):
    """A data set `own` of 8x8 pictures, in `folder`."""
    for position, name in enumerate(datasets.IDX_FILES.values()):
        generator = torch.Generator().manual_seed(position)
        pixels = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        datasets.write_idx(folder / "own" / f"{name}.gz", pixels)


def start(folder, script, *arguments):
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def interrupted(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    return Ran(process.returncode, out, err)


def test_ctrl_c_while_drawing_leaves_nothing(tmp_path, checkpoint):
    script = START + (
        "from gradlab.fidelity import bias_analysis\n"
        "sample = bias_analysis.each_moments\n"
        "def announced(*a, **k):\n"
        "    print('drawing', file=sys.__stdout__, flush=True)\n"
        "    return sample(*a, **k)\n"
        "bias_analysis.each_moments = announced\n"
        "from gradlab.cli import main; main(sys.argv[1:])"
    )
    process = start(tmp_path, script, "bias", checkpoint, *POINT, "--draws", str(10**8))
    assert process.stdout.readline() == "drawing\n"
    time.sleep(0.2)
    refused(interrupted(process), 130, "interrupted")
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint]


def test_ctrl_c_while_training_says_how_to_go_on(tmp_path):
    images(tmp_path, 30)
    arguments = [
        "train",
        "vae",
        "--data",
        "own",
        "--epochs",
        "100000",
        "--batch-size",
        "10",
        "--out",
        "own.safetensors",
    ]
    process = start(tmp_path, RUN, *arguments)
    state = tmp_path / "own.resume.safetensors"
    until = time.monotonic() + 300
    while not state.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    refused(interrupted(process), 130, "--resume", state.name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own", state.name]


def test_an_interrupted_training_is_gone_on_with(run, tmp_path, monkeypatch):
    images(tmp_path, 20)
    arguments = [
        "train",
        "vae",
        "--data",
        "own",
        "--epochs",
        2,
        "--batch-size",
        10,
        "--out",
        "own.safetensors",
    ]
    from gradlab import training

    one_step = training.Run.one_step

    def interrupting(self, batch):
        one_step(self, batch)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.Run, "one_step", interrupting)
    refused(run(*arguments), 130, "step 3 of 4", "--resume", "own.resume.safetensors")
    monkeypatch.setattr(training.Run, "one_step", one_step)
    refused(run(*arguments), 1, "own.resume.safetensors", "--resume")
    ran = run(*arguments, "--resume", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["epochs"] == 2
    assert np.isfinite(found["validation_loss"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own", "own.safetensors"]


@pytest.mark.parametrize("arguments", [["bias", "tiny.safetensors", *POINT, "--json"], ["estimators"], ["--help"]])
@pytest.mark.usefixtures("checkpoint")
def test_a_reader_that_goes_away_is_no_error_to_talk_about(tmp_path, arguments):
    process = start(tmp_path, RUN, *arguments)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1  # it did not go unnoticed
    assert err == ""


# --- bad input in Python ---


@pytest.fixture(scope="module")
def problem():
    return problems.make("3x5-bernoulli-mlp")


def with_parts(problem, **parts):
    """The problem's model with another encoder, decoder or likelihood."""
    own = {"encoder": problem.model.encoder, "decoder": problem.model.decoder, "likelihood": "bernoulli"}
    return gradlab.LatentModel(**(own | parts), latents=5, categories=3)


class Returns(nn.Module):
    """Another module's output, changed."""

    def __init__(self, module, change):
        super().__init__()
        self.module, self.change = module, change

    def forward(self, given):
        return self.change(self.module(given))


def planted(value, *index):
    def change(out):
        out = out.clone()
        out[index] = value
        return out

    return change


def bernoulli(parameters, x):
    return nn.functional.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)


BAD_TEMPERATURES = [0, 0.0, -1.5, float("nan"), float("inf"), "warm", None, True, 10**400, torch.ones(2)]


@pytest.mark.parametrize("value", BAD_TEMPERATURES, ids=lambda v: repr(v)[:20])
def test_temperatures_are_finite_and_positive(problem, value):
    logits = torch.zeros(2, 3)
    calls = {
        "exact_gradient": lambda: gradlab.exact_gradient(problem.model, problem.x, tf=value),
        "layer": lambda: gradlab.decoupled_st_gumbel_softmax(logits, tf=value),
        "estimator": lambda: gradlab.estimators.get("decoupled-st-gs", tf=value),
        "bias": lambda: gradlab.bias(problem.model, problem.x, tf=[1.0, value], tb=1.0, draws=2),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=r"tf: got .* above 0"):
            call()


def test_backward_temperatures_are_checked_too(problem):
    for value in (0, -1.5, float("nan"), float("inf"), "warm"):
        with pytest.raises(ValueError, match="tb: got"):
            gradlab.bias(problem.model, problem.x, tf=1.0, tb=value, draws=2)
        with pytest.raises(ValueError, match="tb: got"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(2, 3), tb=value)


BAD_PARTS = {
    "NaN in logits": (
        lambda p: {"encoder": Returns(p.model.encoder, planted(float("nan"), 2, 4))},
        "logits: nan at index (2, 1, 1)",
    ),
    "infinite logits": (
        lambda p: {"encoder": Returns(p.model.encoder, planted(float("inf"), 1, 0))},
        "logits: inf at index (1, 0, 0)",
    ),
    "too many logits": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: torch.cat([out, out], 1))},
        "encoder: got logits of shape (5, 30); 5 latents of 3 categories need (5, 15) or (5, 5, 3)",
    ),
    "transposed logits": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: out.reshape(-1, 3, 5))},
        "encoder: got logits of shape (5, 3, 5); 5 latents of 3 categories need (5, 15) or (5, 5, 3)",
    ),
    "logits of one image": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: out[:1])},
        "encoder: got a tensor of shape (1, 15) for 5 examples",
    ),
    "encoder gives a tuple": (
        lambda p: {"encoder": Returns(p.model.encoder, lambda out: (out, out))},
        "encoder: got a tuple for 5 examples",
    ),
    "NaN from decoder": (
        lambda p: {"decoder": Returns(p.model.decoder, planted(float("nan"), 0, 0, 1, 2))},
        "losses: nan at example 0",
    ),
    "decoder for other codes": (
        lambda p: {"decoder": nn.Sequential(nn.Flatten(), nn.Linear(7, 16).double())},
        "decoder: cannot take torch.float64 of shape",
    ),
    "too many parameters": (
        lambda p: {"decoder": Returns(p.model.decoder, lambda out: torch.cat([out, out], 1))},
        "one parameter per pixel is needed",
    ),
    "one row for all codes": (
        lambda p: {"decoder": Returns(p.model.decoder, lambda out: out.sum(0, keepdim=True))},
        "one row per code is needed",
    ),
    "NaN from likelihood": (
        lambda p: {"likelihood": lambda o, x: bernoulli(o, x) * planted(float("nan"), -1)(torch.ones(len(o)))},
        "losses: nan at example",
    ),
    "loss of the whole batch": (
        lambda p: {"likelihood": lambda o, x: bernoulli(o, x).sum()},
        "likelihood: got",
    ),
    "loss per pixel": (lambda p: {"likelihood": lambda o, x: (o - x).square()}, "a loss per example"),
    "likelihood that does not fit": (
        lambda p: {"likelihood": lambda o, x: (o.flatten(1) - x.flatten(1)[:, :7]).square().sum(1)},
        "likelihood: cannot take parameters of shape",
    ),
}


@pytest.mark.parametrize(("parts", "message"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_a_model_whose_parts_do_not_fit_is_refused(problem, parts, message):
    model = with_parts(problem, **parts(problem))
    for measure in (gradlab.exact_gradient, gradlab.bias):
        with pytest.raises(ValueError, match=re.escape(message)):
            measure(model, problem.x, tf=1.6)


def test_the_problem_s_own_parts_are_not_refused(problem):
    gradient = gradlab.exact_gradient(problem.model, problem.x, tf=1.6)
    same = gradlab.exact_gradient(with_parts(problem, likelihood=bernoulli), problem.x, tf=1.6)
    torch.testing.assert_close(same, gradient)


BAD_X = {
    "of another size": (
        lambda x: torch.cat([x, x], -1),
        "encoder: cannot take torch.float64 of shape (5, 1, 4, 8)",
    ),
    "a single image": (lambda x: x[0, 0, 0], "x: got shape (4,)"),
    "empty": (lambda x: x[:0], "x: got shape (0, 1, 4, 4)"),
    "above 1": (
        lambda x: planted(1.5, 2, 0, 1, 3)(x),
        "x: 1.5 at index (2, 0, 1, 3); the Bernoulli likelihood",
    ),
    "below 0": (lambda x: planted(-0.25, 0, 0, 0, 1)(x), "x: -0.25 at index (0, 0, 0, 1)"),
    "grey values": (lambda x: (255 * x).to(torch.uint8), "x: got torch.uint8; floating-point images"),
    "not finite": (lambda x: planted(float("nan"), 1, 0, 0, 0)(x), "x: nan at index (1, 0, 0, 0)"),
    "no images at all": (lambda x: "mnist", "x: got a str"),
    "nothing": (lambda x: None, "x: got a NoneType"),
}


@pytest.mark.parametrize(("change", "message"), BAD_X.values(), ids=BAD_X)
def test_observations_are_checked(problem, change, message):
    for measure in (gradlab.exact_gradient, gradlab.bias):
        with pytest.raises(ValueError, match=re.escape(message)):
            measure(problem.model, change(problem.x), tf=1.6)


@pytest.mark.parametrize("noisy", [nn.Dropout(0.5), nn.BatchNorm1d(15)], ids=lambda m: type(m).__name__)
def test_a_model_that_is_random_in_training_mode_is_refused(problem, noisy):
    model = with_parts(problem, encoder=nn.Sequential(problem.model.encoder, noisy)).double()
    for measure in (gradlab.exact_gradient, gradlab.bias):
        with pytest.raises(ValueError, match=r"encoder.1 .* training mode.* call model.eval\(\)"):
            measure(model.train(), problem.x, tf=1.6)
    assert bool(torch.isfinite(gradlab.exact_gradient(model.eval(), problem.x, tf=1.6)).all())


UNKNOWN = {
    "target": (lambda p: gradlab.exact_gradient(p.model, p.x, target="smpled"), "did you mean sampled"),
    "target of bias": (lambda p: gradlab.bias(p.model, p.x, target="modell"), "did you mean model"),
    "estimator": (
        lambda p: gradlab.bias(p.model, p.x, estimator="gumbel-sotfmax"),
        "did you mean gumbel-softmax",
    ),
    "estimator by get": (lambda p: gradlab.estimators.get("st-sg"), "did you mean st-gs"),
    "parameter": (lambda p: gradlab.estimators.get("st-gs", tff=1.0), "did you mean tf"),
    "moments": (lambda p: gradlab.bias(p.model, p.x, moments="montecarlo"), "did you mean monte-carlo"),
    "data": (lambda p: datasets.load("fashon-mnist"), "did you mean fashion-mnist"),
    "bundled model": (lambda p: gradlab.bundled("vae-8x4-mnits"), "did you mean vae-8x4-mnist"),
    "architecture": (lambda p: networks.build("categorical-vea", {}), "did you mean categorical-vae"),
    "likelihood": (lambda p: with_parts(p, likelihood="bernouli"), "did you mean bernoulli"),
}


@pytest.mark.parametrize(("call", "hint"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_names_come_with_near_matches(problem, call, hint):
    with pytest.raises(errors.UnknownName, match=hint):
        call(problem)


@pytest.mark.parametrize("draws", [1, 0, -3, 2.5, "8", None, True, float("inf"), torch.ones(2)])
def test_a_variance_needs_two_draws(problem, draws):
    with pytest.raises(ValueError, match=r"draws: got .* at least 2"):
        gradlab.bias(problem.model, problem.x, draws=draws)


def test_too_large_a_space_is_refused_with_its_size_the_limit_and_a_way_out():
    model = networks.build("categorical-vae", {"latents": 12, "categories": 16, "hidden": [4]}, seed=0)
    for measure, options in ((gradlab.exact_gradient, {}), (gradlab.bias, {"reference": "exact"})):
        with pytest.raises(errors.SpaceTooLarge, match=r"16\^12 = 2.815e\+14 .*limit is 16,777,216.*gap"):
            measure(model, torch.rand(2, 784), **options)


# --- random state ---


def states():
    """The global random states, as plain values."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  (the global state is what is looked at)
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()


def test_the_global_random_states_are_untouched(problem):
    before = states()
    gradlab.exact_gradient(problem.model, problem.x)
    gradlab.bias(problem.model, problem.x, tf=[0.5, 1.6], tb=1.3, estimator=["ste", "gumbel-softmax"], draws=8, kl=True)
    assert states() == before
    torch.rand(1)
    assert states() != before


def test_the_global_random_states_do_not_matter(problem):
    one = gradlab.bias(problem.model, problem.x, draws=8)
    torch.rand(3), random.random()
    xr.testing.assert_equal(one, gradlab.bias(problem.model, problem.x, draws=8))


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
    refused(run("plot", "bias.h5", "--target", "modl"), 1, "target", "model")


def test_a_results_file_of_something_else_is_named(run, tmp_path):
    import xarray as xr

    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.h5", engine="h5netcdf")
    refused(run("show", "other.h5"), 1, "results", "gradlab bias")


def test_temperatures_within_an_estimator_and_checkpoints_twice_are_usage_errors(run, checkpoint):
    refused(run("bias", "--estimator", "st-gs:tb=0.5"), 2, "--tb")
    refused(run("bias", checkpoint, checkpoint), 2, "each once")
