"""Jobs that a scheduler ends and starts again: signals save like Ctrl-C; one command goes on, begins, or is done."""

import json
import os
import signal

import numpy as np
import pytest

import gradlab
from gradlab import training

from .command_line import POINT, images, refused, tiny

SIGNALS = [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.deep)]
TRAIN = ["train", "vae", "--data", "own", "--epochs", "2", "--batch-size", "5", "--out", "a.safetensors"]


def sent_at(monkeypatch, home, name, call, number):
    """The `call`-th call of a function gets this process a signal."""
    real, calls = getattr(home, name), []

    def called(*given, **options):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return real(*given, **options)

    monkeypatch.setattr(home, name, called)


def weights(path):
    return {name: tensor.numpy() for name, tensor in gradlab.load(path).state_dict().items()}


@pytest.mark.parametrize("number", SIGNALS)
def test_one_command_trains_through_signals(run, tmp_path, monkeypatch, number):
    images(tmp_path, 20)
    assert run(*TRAIN).code == 0
    whole = weights("a.safetensors")
    os.remove("a.safetensors")
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        sent_at(patch, training.Run, "one_step", 3, number)
        refused(run(*TRAIN, "--resume", "auto"), 130, "stopped at step 3 of 8", "--resume continues")
    assert signal.getsignal(number) == before
    refused(run(*TRAIN), 1, "this interrupted training exists")
    assert run(*TRAIN, "--resume", "auto").code == 0  # goes on
    for name, values in weights("a.safetensors").items():
        np.testing.assert_array_equal(values, whole[name])
    content = (tmp_path / "a.safetensors").read_bytes()
    done = run(*TRAIN, "--resume", "auto", "--json")  # does nothing
    assert done.code == 0
    assert "a.safetensors: this training is finished; nothing is left to do" in done.err
    assert json.loads(done.out)["epochs"] == 2
    assert (tmp_path / "a.safetensors").read_bytes() == content
    refused(run(*TRAIN, "--resume", "auto", "--seed", "1"), 1, "a.safetensors: expected no file or this training")
    refused(run(*TRAIN, "--resume", "auto", "--overwrite"), 2, "--overwrite: starts over")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_sweep_goes_on_after_a_signal(run, tmp_path, monkeypatch, number):
    images(tmp_path, 20)
    grid = ["--tf", "1", "--tb", "1,2", "--seeds", "1", "--epochs", "1", "--folder", "cells"]
    sweep = ["sweep", "vae", "--data", "own", *grid, "--resume", "auto"]
    with monkeypatch.context() as patch:
        sent_at(patch, training.Run, "one_step", 2, number)
        done = run(*sweep)
    assert done.code == 130
    assert "1 of 2 cells are finished, and the same command continues" in done.err
    assert run(*sweep).code == 0
    assert (gradlab.open_results("sweep.h5").status == "done").all()
    assert run(*sweep).code == 0
    refused(run(*sweep[:-1], "never"), 1, "cells: expected an empty folder beside --resume never")


@pytest.mark.parametrize("number", [signal.SIGUSR1])
def test_checkpoints_that_are_measured_are_kept(run, monkeypatch, number):
    for name in "abc":
        tiny(f"{name}.safetensors")
    sent_at(monkeypatch, gradlab, "bias", 3, number)
    done = run("bias", "a.safetensors", "b.safetensors", "c.safetensors", *POINT)
    assert done.code == 130
    assert "2 of 3 checkpoints were measured; they are in bias.h5" in done.err
    assert gradlab.open_results("bias.h5").checkpoint.values.tolist() == ["a.safetensors", "b.safetensors"]


# --- in Python ---


def test_train_auto(tmp_path):
    data = gradlab.datasets.load("mnist-sample").first(20)
    config = {"latents": 2, "categories": 3, "hidden": [4]}
    settings = training.Settings(config=config, epochs=1, batch_size=10)
    out = tmp_path / "a.safetensors"
    first = training.train(settings, data, data, out, resume="auto")
    again = training.train(settings, data, data, out, resume="auto")
    assert first.provenance == again.provenance
    with pytest.raises(FileExistsError, match="expected no file or this training, got one that was tr"):
        training.train(training.Settings(config=config, lr=1.0), data, data, out, resume="auto")
    with pytest.raises(ValueError, match="resume: expected True, False or 'auto', got 'maybe'"):
        training.train(settings, data, data, out, resume="maybe")
    tiny(out)
    with pytest.raises(gradlab.errors.BadFile, match="expected a trained model"):
        training.train(settings, data, data, out, resume="auto")
