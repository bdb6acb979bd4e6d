"""Bad input on the command line is one line that names it."""

import os

import pytest
import torch
from gradlab.cli.main import main

import gradlab
from gradlab import networks

from .command_line import POINT, RUN, images, refused, start, tiny


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
    "foreign checkpoint": (["bias", "foreign"], 1, ["foreign: expected a checkpoint file, got a text file"]),
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
    "foreign results": (["show", "foreign"], 1, ["foreign: expected a results file, got a text file"]),
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
