"""Errors on the command line speak of options and files, and name the command that takes a file of another kind."""

import contextlib
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gradlab.cli.main import main

from .command_line import POINT, refused, tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    with contextlib.chdir(folder), contextlib.suppress(SystemExit):
        model = tiny("m.safetensors")
        torch.save(model.state_dict(), "w.pt")
        np.save("x.npy", np.zeros((2, 1, 28, 28), "f4"))
        Path("images.gz").write_bytes(gzip.compress(b"images"))
        main(["bias", "m.safetensors", *[part for part in POINT if part != "--no-plot"]])
    assert (folder / "bias.png").is_file()
    return folder


@pytest.fixture
def files(made, run, tmp_path):
    """A copy of them in the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


RESULTS = ["an HDF5 file (results)", "gradlab show, plot and report take it"]
CHECKPOINT = ["a safetensors file (checkpoints)", "gradlab bias, gap and plot --reconstructions take it"]
ARCHIVE = ["a zip archive (torch.save", "--weights"]
ARRAY = ["a numpy array", "--observations"]
OTHER_KINDS = {
    "bias b.h5": (["bias", "bias.h5"], ["bias.h5: expected a checkpoint file", *RESULTS]),
    "gap b.h5": (["gap", "bias.h5"], ["bias.h5: expected a checkpoint file", *RESULTS]),
    "show m": (["show", "m.safetensors"], ["m.safetensors: expected a results file", *CHECKPOINT]),
    "plot m": (["plot", "m.safetensors"], ["m.safetensors: expected a results file", *CHECKPOINT]),
    "report m": (["report", "m.safetensors"], ["m.safetensors: expected a results file", *CHECKPOINT]),
    "reconstruct b.h5": (["plot", "bias.h5", "--reconstructions"], ["expected a checkpoint file", *RESULTS]),
    "bias w.pt": (["bias", "w.pt"], ["w.pt: expected a checkpoint file", *ARCHIVE]),
    "show x.npy": (["show", "x.npy"], ["x.npy: expected a results file", *ARRAY]),
    "show a figure": (["show", "bias.png"], ["bias.png: expected a results file, got a picture"]),
    "show images": (["show", "images.gz"], ["images.gz: expected a results file, got a gzip archive", "--data"]),
    "observations": (["bias", "--observations", "bias.h5"], ["bias.h5: expected a file of observations", *RESULTS]),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("arguments", "fragments"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_a_file_of_another_kind_is_named_with_what_takes_it(run, arguments, fragments):
    refused(run(*arguments), 1, *fragments)


IN_OPTIONS = {
    "no gap": (
        ["plot", "bias.h5", "--kind", "gap"],
        1,
        "bias.h5: expected results of gradlab",
    ),
    "no tensors": (["plot", "bias.h5", "--kind", "parameters"], 1, "gradlab bias --wrt encoder"),
    "a suffix": (
        ["plot", "bias.h5", "--out", "a.gif"],
        2,
        "--out: expected a name ending in .png, .pdf or .svg, got 'a.gif'",
    ),
    "draws": (["bias", "--images", "5000"], 1, "gradlab: --images: expected at most 1000"),
    "other options": (
        ["bias", "--moments", "exact", "--reference", "rloo"],
        2,
        "--moments: expected 'monte-carlo' beside a sampled reference",
    ),
    "an estimator": (["bias", "--estimator", "nope"], 2, "'--estimator': unknown name 'nope'"),
    "its parameter": (
        ["bias", "--estimator", "rloo:n=1"],
        2,
        "'--estimator': n: expected a whole number of at least 2, got 1",
    ),
    "one for other latents": (
        ["bias", "--estimator", "disarm"],
        1,
        "gradlab: --estimator: expected one for categorical latents, got disarm",
    ),
    "data": (["gap", "--data", "nope"], 2, "gradlab: --data: unknown name 'nope'"),
    "data to fetch": (["data", "fetch", "nope"], 2, "gradlab: NAME: unknown name 'nope'"),
    "a variable": (["plot", "bias.h5", "--variable", "nope"], 2, "gradlab: --variable: unknown name 'nope'"),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("arguments", "code", "message"), IN_OPTIONS.values(), ids=IN_OPTIONS)
def test_messages_speak_of_options(run, arguments, code, message):
    if arguments[0] == "bias":
        arguments = [*arguments, "--sweep", "none", "--no-plot"]
    refused(run(*arguments), code, message)


WITHOUT_EFFECT = {
    "--variable": ["--kind", "trends", "--variable", "relative_std"],
    "--checkpoint": ["--kind", "trends", "--checkpoint", "a"],
    "--target": ["--kind", "gap", "--target", "model"],
    "--images": ["--images", "3"],
    "--data": ["--data", "mnist"],
    "--reconstructions": ["--reconstructions", "--kind", "gap"],
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("option", WITHOUT_EFFECT)
def test_options_of_plot_that_would_have_no_effect_are_refused(run, option):
    refused(run("plot", "bias.h5", *WITHOUT_EFFECT[option]), 2, f"gradlab: {option}: ")


@pytest.mark.usefixtures("files")
def test_a_variable_asks_for_a_heatmap(run, tmp_path):
    assert run("plot", "bias.h5", "--variable", "relative_std", "--out", "a.png").code == 0
    assert run("plot", "bias.h5", "--kind", "heatmap", "--variable", "relative_std", "--out", "b.png").code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_draws_that_are_raised_to_whole_batches_are_told(run):
    tiny("m.safetensors")
    arguments = ["--tf", "1", "--tb", "1", "--sweep", "none", "--images", "2", "--no-plot", "--reference", "rloo"]
    ran = run("bias", "m.safetensors", *arguments, "--draws", "8")
    assert ran.code == 0
    assert ran.err == "gradlab: draws: expected whole batches beside a sampled reference, got 8; 64 are used\n"
    assert run("bias", "m.safetensors", *arguments, "--draws", "64").err == ""
