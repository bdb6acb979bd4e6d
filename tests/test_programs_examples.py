"""The worked examples of programs run, and the command line measures one."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import gradlab

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    "experts": (["--steps", "3"], "gumbel-softmax"),
    "top_k_gate": (["--steps", "2"], "weights-only"),
    "hard_attention": (["--steps", "3"], "49 paths of each example"),
    "world_model": (["--updates", "2", "--latents", "2"], "32^4 = 1.049e+06 paths, 64 draws, against rloo"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(tmp_path, monkeypatch, capsys, name):
    options, said = EXAMPLES[name]
    monkeypatch.setattr(sys, "argv", ["example", *options, "--draws", "64", "--folder", str(tmp_path)])
    runpy.run_module(f"examples.{name}", run_name="__main__")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("name", "least"), [("experts", 0.5), ("hard_attention", 2.45)])
def test_training_the_examples_lowers_the_loss(capsys, name, least):
    __import__(f"examples.{name}", fromlist=["train"]).train(60)
    first, *_, last = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert last < least < first


def test_the_command_line_measures_a_program(run, tmp_path, monkeypatch):
    from examples import experts

    monkeypatch.chdir(ROOT)
    x = experts.data(6, seed=1).numpy()
    observations = tmp_path / "x.npy"

    np.save(observations, x)
    arguments = ["--model", "examples.experts:program", "--observations", observations, "--tf", 1, "--tb", 1]
    done = run("bias", *arguments, "--sweep", "none", "--draws", 8, "--no-plot", "--out", tmp_path / "p.h5")
    assert done.code == 0, done.err
    assert "1 site (6x1), paths 6^1 = 6" in done.out
    found = gradlab.open_results(tmp_path / "p.h5")
    wanted = gradlab.bias(experts.program(), x, draws=8)
    assert found.std_norm.sel(parameter="all").item() == wanted.std_norm.sel(parameter="all").item()
    more = ("--estimator", "ste", "--estimator", "rloo", "--draws", 32)
    done = run("recommend", *arguments[:-2], "--tb", "0.5,1", *more, "--out", tmp_path / "r.h5")
    assert done.code == 0, done.err
    assert "program.surrogate_loss(" in done.out
    assert run("show", tmp_path / "r.h5").out.splitlines()[0] == done.out.splitlines()[0]
    done = run("gap", *arguments, "--no-plot", "--out", tmp_path / "g.h5")
    assert done.code == 1
    assert "got a Program" in done.err
    done = run("bias", *arguments, "--weights", observations, "--no-plot", "--out", tmp_path / "w.h5")
    assert done.code == 1
    assert "--weights: expected none for a Program" in done.err
