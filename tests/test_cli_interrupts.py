"""Ctrl-C, and readers that go away: one line, and nothing lost."""

import json
import signal
import time

import numpy as np
import pytest

from .command_line import POINT, RUN, START, images, interrupted, refused, start


def test_ctrl_c_while_drawing_leaves_nothing(tmp_path, checkpoint):
    script = START + (
        "from gradlab.fidelity import enumerated_analysis\n"
        "sample = enumerated_analysis.each_moments\n"
        "def announced(*a, **k):\n"
        "    print('drawing', file=sys.__stdout__, flush=True)\n"
        "    return sample(*a, **k)\n"
        "enumerated_analysis.each_moments = announced\n"
        "from gradlab.cli import main; main(sys.argv[1:])"
    )
    process = start(tmp_path, script, "bias", checkpoint, *POINT, "--draws", str(10**8))
    assert process.stdout.readline() == "drawing\n"
    time.sleep(0.2)
    refused(interrupted(process), 130, "interrupted")
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint]


@pytest.mark.deep
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],  # which takes no imports; what is written and told at the end of the process is the same
        pytest.param(["estimators"], marks=pytest.mark.deep),
        pytest.param(["bias", "tiny.safetensors", *POINT, "--json"], marks=pytest.mark.deep),
    ],
)
@pytest.mark.usefixtures("checkpoint")
def test_a_reader_that_goes_away_is_no_error_to_talk_about(tmp_path, arguments):
    process = start(tmp_path, RUN, *arguments)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1  # it did not go unnoticed
    assert err == ""
