"""Commands that show results, estimators and data sets."""

import json

import pytest

import gradlab
from gradlab import datasets, rounding

from .command_line import POINT, images, refused, tiny


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
    refused(run("plot", "bias.h5", "--out", "figure.gif"), 2, "got 'figure.gif'", "--out: expected", ".png")


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
