"""`gradlab recommend`, and its tables: written, shown, joined along a training."""

import copy
import json

import numpy as np
import pytest
import xarray as xr

import gradlab
from gradlab.networks import build
from gradlab.recommending.schedule import joined, parts, schedule

from .command_line import tiny
from .problems import make

TBS = [0.5, 1.3]


@pytest.fixture(scope="module")
def problem():
    return make("4x3-bernoulli-mlp")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return tmp_path_factory.mktemp("recommended") / "found.h5"


def test_the_command_answers_writes_and_shows(run, written):
    wanted = ("--estimator", "ste", "--estimator", "rloo:n=4", "--tb", "0.5,1", "--images", 10, "--draws", 32)
    ran = run("recommend", *wanted, "--out", written)
    assert ran.code == 0
    assert ran.out.startswith("Use ")
    assert f"wrote {written}" in ran.out.replace("\n", "")
    shown = run("show", written)
    assert shown.code == 0
    assert shown.out.splitlines()[0] == ran.out.splitlines()[0]
    as_json = json.loads(run("show", written, "--json").out)
    present = "decoupled-st-gs"  # that the training recorded
    assert {row["estimator"] for row in as_json["candidates"]} == {"ste", "rloo(n=4)", present}
    assert as_json["chosen"] == as_json["candidates"][0]
    for command in (("plot", written), ("report", written, "--out", written.with_suffix(".html"))):
        assert run(*command).code == 0


@pytest.mark.parametrize(
    ("fault", "code", "missing"),
    [
        (KeyboardInterrupt, 130, "1 of 2 checkpoints, interrupted"),
        (ValueError("x: got another"), 1, "1 of 2 checkpoints; the next one failed"),
    ],
)
def test_what_ends_the_second_of_two_leaves_the_first(run, tmp_path, monkeypatch, fault, code, missing):
    """Also where it comes before the second one's first round."""
    for seed, name in enumerate("ab"):
        tiny(tmp_path / f"{name}.safetensors", seed=seed)
    whole, calls = gradlab.recommend, []

    def recommend(*given, **more):
        calls.append(1)
        if len(calls) == 2:
            raise fault
        return whole(*given, **more)

    monkeypatch.setattr(gradlab, "recommend", recommend)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    out = tmp_path / "found.h5"
    ran = run("recommend", *paths, "--estimator", "ste", "--tb", "0.5,1", "--images", 3, "--draws", 32, "--out", out)
    assert ran.code == code
    assert ran.out.startswith("Use ")
    assert gradlab.open_results(out).attrs["incomplete"] == missing
    (line,) = [line for line in ran.err.splitlines() if line.startswith("gradlab: ")]
    assert ("starts again" in line) if code == 130 else (line == "gradlab: x: got another")


def test_an_interrupt_before_anything_is_measured_says_that_nothing_is_kept(run, tmp_path, monkeypatch):
    def recommend(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradlab, "recommend", recommend)
    ran = run("recommend", "--out", tmp_path / "found.h5")
    assert (ran.code, ran.out) == (130, "")
    (line,) = ran.err.splitlines()
    assert "so nothing is kept; the same command starts again" in line
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_a_whole_recommendation(run, tmp_path, monkeypatch, problem):
    """It is printed in any case, and written where no whole one stands; the file says that it is incomplete."""
    whole = gradlab.recommend(problem.model, problem.x, tf=1.0, tb=TBS, estimator=["ste", "zgr"], draws=64)
    found = copy.deepcopy(whole)
    found.table.attrs["interrupted"] = 1
    monkeypatch.setattr(gradlab, "recommend", lambda *given, **more: found)
    out = tmp_path / "found.h5"
    for _ in range(2):
        ran = run("recommend", "--images", 2, "--out", out)
        assert ran.code == 130
        assert gradlab.open_results(out).attrs["incomplete"] == "interrupted"
    gradlab.save_results(whole.table, out)
    before = out.read_bytes()
    ran = run("recommend", "--images", 2, "--out", out)
    assert ran.code == 130
    assert ran.out
    assert f"{out} is of an earlier measurement and stays as it is" in ran.err
    assert out.read_bytes() == before


def test_several_checkpoints_give_a_schedule(run, tmp_path):
    """Tables whose candidates differ, by their present choice, are joined, stored, shown and drawn."""
    first = build("categorical-vae", {"latents": 2, "categories": 3, "hidden": [8]}, seed=0)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    gradlab.save(first, paths[0])
    first.provenance = {
        "settings": {"estimator": "zgr", "tf": 0.5, "tb": 1.0},
        "history": {"validation_loss": [1.0] * 7},
    }
    gradlab.save(first, paths[1])
    out = tmp_path / "both.h5"
    wanted = ("--estimator", "ste", "--estimator", "rloo:n=4", "--tb", "0.5,1", "--images", 9, "--draws", 32)
    ran = run("recommend", *paths, *wanted, "--out", out)
    assert ran.code == 0
    assert "Schedule: " in ran.out
    ds = gradlab.open_results(out)
    assert ds.tf.values.tolist() == [1.0, 0.5]
    assert not {"chosen", "present", "margin"} & ds.attrs.keys()  # those of one checkpoint
    assert np.isnan(ds.error.sel(candidate="zgr").values).tolist() == [True, False]
    one, two = parts(ds)
    assert "zgr" not in one.candidate.values
    assert str(two.candidate[0].item()) == two.attrs["chosen"]
    told = json.loads(run("show", out, "--json").out)
    assert len(told["checkpoints"]) == 2
    assert told["checkpoints"][0]["answer"][0] in ran.out
    for command in (("show", out), ("plot", out), ("report", out), ("show", out, "--format", "csv")):
        assert run(*command).code == 0


def test_tables_of_other_numbers_of_draws_keep_all_candidates(problem):
    """The attribute draws, which differed, took the place of the variable: one candidate of each table was left."""
    found = [gradlab.recommend(problem.model, problem.x, 1.0, TBS, ["ste", "zgr"], draws=n).table for n in (32, 64)]
    ds = joined([table.assign_attrs(checkpoint=str(k)) for k, table in enumerate(found)])
    assert [len(one.candidate) for one in parts(ds)] == [len(table.candidate) for table in found]
    assert ds.draws.dims == ("checkpoint", "candidate")
    assert ds.attrs["draws"] == 64


def test_a_schedule_prefers_one_choice_that_is_as_good_everywhere():
    def table(chosen, errors, equivalent):
        of = {"error": ("candidate", errors), "equivalent": ("candidate", equivalent)}
        attrs = {"chosen": chosen, "resolved": 1}
        return xr.Dataset(of, {"candidate": ["a", "b"]}, attrs)

    one, two = table("a", [0.1, 0.2], [1, 1]), table("b", [0.5, 0.3], [0, 1])
    assert schedule(["epoch 1", "epoch 2"], [one, two])[0].startswith(
        "Schedule: none is needed. b is as good as the best within noise"
    )
    three = table("a", [0.1, 0.5], [1, 0])
    said = schedule(["epoch 1", "epoch 2"], [two, three])
    assert said[0] == "Schedule: no single choice is as good as the best at every step."
    assert said[1:] == ["At epoch 1, use b (error 0.30).", "At epoch 2, use a (error 0.10)."]
    unknown = three.assign_attrs(resolved=0)
    said = schedule(["epoch 1", "epoch 2"], [two, unknown])
    assert "at every step that is resolved" in said[0]
    assert said[2] == "At epoch 2, the measurement cannot tell."


def test_rubbish_gives_one_line(run):
    for wrong in (("--tf", "1,2"), ("--tb", "1", "--estimator", "nothing"), ("no-such-file.safetensors",)):
        ran = run("recommend", *wrong)
        assert ran.code in (1, 2)
        assert len(ran.err.strip().splitlines()) == 1
