"""Verdicts of the analyses that train, on planted losses; and each of them end to end, tiny."""

import dataclasses
import json

import numpy as np
import pytest
from gradlab.analyses import (
    bias_direction,
    fidelity_and_loss,
    figure2_binary_autoencoder,
    figure3_vae_8x4,
    figure5_gradient_gap,
    figure6_bias_variance,
    registry,
    seeds,
    sizing,
    table1_schedules,
)
from gradlab.analyses.protocol import BUDGETS
from gradlab.analyses.trainings import Trainings

import gradlab
from gradlab import datasets

from .made_up_sweeps import TEMPERATURES, planted, swept

TINY = {"seeds": 2, "epochs": 1, "images": 60, "validation": 20}


@pytest.fixture(autouse=True)
def claim(monkeypatch):
    """Claims are about these nine pairs here."""
    paper = dataclasses.replace(figure3_vae_8x4.BUDGETS["paper"], tf=TEMPERATURES, tb=TEMPERATURES)
    monkeypatch.setitem(figure3_vae_8x4.BUDGETS, "paper", paper)


def verdicts(ds):
    return {v.claim[:3]: v for v in figure3_vae_8x4.Figure3().judge(ds)}


def test_a_loss_that_is_lower_below_the_diagonal_supports_the_claims():
    found = verdicts(planted(lambda tf, tb: 100 + (tb - tf)))
    assert {name: v.verdict for name, v in found.items()} == dict.fromkeys(("(f)", "(g)", "(h)"), "supported")
    # best at (3, 0.3): 97.3; best above the diagonal at (0.3, 1) : 100.7; best single: 100
    assert found["(f)"].whole.value == pytest.approx(-3.4, abs=0.1)
    assert found["(g)"].whole.value == pytest.approx(-2.7, abs=0.1)


def test_a_loss_that_is_lowest_on_the_diagonal_contradicts_them():
    found = verdicts(planted(lambda tf, tb: 100 + abs(tb - tf) + (tf == tb == 1.0) - 2 * (tf == tb == 3.0)))
    assert found["(g)"].verdict == "contradicted"
    assert found["(h)"].verdict == "contradicted"  # tuning brings -3, decoupling +2.7
    assert found["(h)"].whole.value == pytest.approx(2.7 + 3, abs=0.1)


def test_the_pair_that_the_paper_calls_best():
    at = (1.3, 1.6)
    values = np.array([[100 + abs(tf - 1.6) + abs(tb - 1.3) for tb in at] for tf in at])[..., None]
    ds = swept(values + 0.01 * np.random.default_rng(0).normal(size=(2, 2, 5)), at, at)
    values = seeds.losses(ds)
    best, other = seeds.named(values, 1.6, 1.3), seeds.named(values, 1.3, 1.3)
    assert seeds.best(values, np.arange(4) != best) in (other, seeds.named(values, 1.6, 1.6))
    found = figure3_vae_8x4.optimum(values, "nats", (1.6, 1.3))
    assert found.verdict == "supported"
    assert found.whole.value == pytest.approx(-0.3, abs=0.02)
    assert figure3_vae_8x4.optimum(values, "nats", (1.3, 1.3)).verdict == "contradicted"


def test_every_loss_is_judged_without_and_with_kl():
    ds = planted(lambda tf, tb: 100 + (tb - tf))
    ds["final_validation_loss_with_kl"] = ds.final_validation_loss + 3 * ds.tf  # turns the order round
    found = {(v.claim[:3], v.figure): v.verdict for v in figure3_vae_8x4.Figure3().judge(ds)}
    assert found["(g)", "final_validation_loss"] == "supported"
    assert found["(f)", "final_validation_loss_with_kl"] == "contradicted"
    assert {v.which["KL"] for v in figure3_vae_8x4.Figure3().judge(ds)} == {"model"}


# --- what every analysis offers ---


@pytest.mark.parametrize("name", registry.names())
def test_every_analysis_opens_with_its_claim_and_knows_its_costs(name):
    analysis = registry.find(name)
    assert name == analysis.name
    assert analysis.claim.endswith(".")
    costs = [analysis.cost(budget) for budget in BUDGETS]
    assert len(set(costs)) == 3


def test_costs_are_counted():
    trainings = Trainings(tf=(1.0, 2.0), tb=(1.0,), seeds=3, epochs=4, images=250, validation=10)
    assert trainings.cost(figure3_vae_8x4.BASE) == (
        "6 trainings (3 seeds) of 4 epochs on 250 images: 72 steps of 100 images"
    )
    pairs = dataclasses.replace(trainings, pairs=((1.0, 1.0),), seeds=1)
    assert pairs.cost(figure3_vae_8x4.BASE).startswith("1 trainings (1 seed) of 4 epochs")


# --- end to end ---


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Every training analysis with a grid of few small trainings."""
    some = Trainings(tf=(0.3, 1.0), tb=(0.3, 1.0, 3.0), **TINY)
    small = (("width", 2), ("depth", 0))
    monkeypatch.setitem(figure3_vae_8x4.BUDGETS, "quick", some)  # and of figure 4
    of_autoencoder = Trainings(tf=(0.3, 3.0), tb=(0.3, 3.0, 6.0), config=small, **TINY)
    monkeypatch.setitem(figure2_binary_autoencoder.BUDGETS, "quick", of_autoencoder)
    of_table = dataclasses.replace(table1_schedules.BUDGETS["quick"], config=small, **TINY)
    monkeypatch.setitem(table1_schedules.BUDGETS, "quick", of_table)
    monkeypatch.setitem(fidelity_and_loss.BUDGETS, "quick", fidelity_and_loss.Budget(some, images=4, draws=64))
    monkeypatch.setitem(bias_direction.BUDGETS, "quick", (60, (0, 1), 4, 64))
    for split in ("train", "t10k"):
        pixels = datasets.load("mnist-sample").first(100).pixels
        datasets.write_idx(tmp_path / "own" / f"{split}-images-idx3-ubyte.gz", pixels)
    for analysis in (figure5_gradient_gap, figure6_bias_variance):
        monkeypatch.setitem(analysis.BUDGETS, "quick", (4, 64))


OTHERS = ("figure4", "figure4-kl", "figure2", "table1", "bias-direction", "fidelity-and-loss")


@pytest.mark.parametrize("name", ["figure3", *(pytest.param(name, marks=pytest.mark.deep) for name in OTHERS)])
def test_a_training_analysis_from_end_to_end(run, tiny, name, tmp_path):
    trains = "seeds" in registry.find(name).takes
    few = ("--seeds", 1) if trains and name != "figure3" else ()
    done = run("reproduce", name, "--data", "own", "--out", "made", "--json", *few)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["verdicts"]
    whose = "" if name == "fidelity-and-loss" else "arXiv 2410.13331 v1"
    assert {row["paper"] for row in found["verdicts"]} == {whose}
    judged = {row["verdict"] for row in found["verdicts"]}
    if trains:
        assert judged == {"not tested at this budget"}
        assert "1 of 1" in found["verdicts"][0]["lacks"]  # of 160 or 100 epochs
        assert f"{name}: " in done.err  # how long it takes
        assert "trainings (" in done.err
    else:
        assert judged <= {"supported", "contradicted", "undetermined"}
    ds = gradlab.open_results(f"made/{name}-quick.h5")
    assert ds.attrs["reproduces"] == name
    assert ds.attrs["budget"] == "quick"
    assert (tmp_path / "made" / f"{name}-quick.png").stat().st_size > 2000
    cells = "figure4-cells" if name == "figure4-kl" else f"{name}-cells"
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "made" / cells).rglob("*.h5")}
    assert trained
    again = run("reproduce", name, "--data", "own", "--out", "made", *few)
    assert again.code == 0, again.err
    assert found["verdicts"][0]["claim"] in again.out.replace("\n", " ")
    assert (whose or "not a claim of the paper") in again.out.replace("\n", " ")
    assert {path: path.stat().st_mtime_ns for path in trained} == trained  # nothing is trained twice
    listed = json.loads(run("reproduce", "--out", "made", "--json").out)["analyses"][name]
    assert set(listed["results"]) - {"paper", "part"} == {"quick"}  # those are committed
    assert f"{name}-quick.h5" in listed["results"]["quick"]
    judged_again = run("reproduce", name, "--from", f"made/{name}-quick.h5", "--out", "again", "--json")
    assert json.loads(judged_again.out)["verdicts"] == found["verdicts"]
    assert (tmp_path / "again" / f"{name}-quick.png").stat().st_size > 2000
    assert not (tmp_path / "again" / cells).exists()


def test_trainings_run_where_asked(run, tiny, monkeypatch):
    asked = []

    def noted(*given, **options):
        asked.append({name: options[name] for name in ("device", "workers", "ensemble", "scheduler", "progress")})
        raise OSError("noted")

    monkeypatch.setattr("gradlab.sweeps.sweep", noted)
    wanted = {"device": "cpu", "workers": 1, "ensemble": "auto", "scheduler": None, "progress": True}
    for name in ("figure2", "bias-direction"):
        common = ("reproduce", name, "--data", "own", "--device", "cpu")
        for option, value in (("workers", 3), ("ensemble", 4), ("scheduler", "tcp://host:8786")):
            assert "noted" in run(*common, f"--{option}", value).err
            assert asked.pop() == wanted | {option: value}


def test_all_goes_on_after_a_failure_and_says_so(run, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "names", lambda: ["figure3", "figure6"])
    monkeypatch.setenv("GRADLAB_DATA", str(tmp_path / "nowhere"))
    done = run("reproduce", "--all", "--out", "made")
    assert done.code == 1
    assert "figure3 failed:" in done.err
    assert "gradlab data fetch mnist" in done.err
    assert "1 of 2 failed: figure3" in done.err
    summary = (tmp_path / "made" / "summary.md").read_text()
    assert "| figure3 | | | | | | failed:" in summary
    assert "| figure6 | (b) bias falls as tb rises | arXiv 2410.13331 v1 | sampled |" in summary
    assert "(b) bias falls as tb rises" in done.out


def test_seeds_time_and_kl_reach_the_trainings(run, tiny, monkeypatch, tmp_path):
    """A cost that is made up: 2 s for each training, so that 2 seeds of 6 pairs take 24 s."""
    monkeypatch.setattr(sizing, "measured", lambda *given: lambda trainings: 2.0 * trainings)
    common = ("reproduce", "figure3", "--data", "own", "--out", "made", "--json")
    done = run(*common, "--time", "30s", "--kl", "sampled")
    assert done.code == 0, done.err
    assert "figure3: 12 trainings (6 pairs, 2 seeds) of 1 steps take about 24 s, in the 30 s given\n" in done.err
    ds = gradlab.open_results("made/figure3-quick-kl-sampled.h5")
    assert ds.sizes["seed"] == 2
    assert ds.attrs["settings.kl"] == "sampled"
    assert {row["KL"] for row in json.loads(done.out)["verdicts"]} == {"sampled"}
    more = run(*common, "--kl", "sampled", "--seeds", 3)
    assert "18 trainings (6 pairs, 3 seeds)" in more.err
    assert gradlab.open_results("made/figure3-quick-kl-sampled.h5").sizes["seed"] == 3
    for wrong, message in (
        (("figure6", "--kl", "model"), "--kl: only for figure3, figure4, fidelity-and-loss, got figure6"),
        (("figure5", "--time", "10m"), "--time: only for figure2"),
        (("figure3", "--time", "10"), "expected 90s, 10m or 2h"),
        (("figure3", "--time", "-1s"), "expected 90s, 10m or 2h"),
        (("--from", "made/figure3-quick-kl-sampled.h5"), "--from: needs the NAME"),
    ):
        refused = run("reproduce", *wrong)
        assert refused.code == 2
        assert message in refused.err
    other = run("reproduce", "figure4", "--from", "made/figure3-quick-kl-sampled.h5")
    assert other.code == 1
    assert "expected results of figure4, got made/figure3-quick-kl-sampled.h5, which is of figure3" in other.err


def test_all_and_a_name_are_one_too_many(run):
    done = run("reproduce", "figure6", "--all")
    assert done.code == 2
    assert "remove figure6" in done.err


def test_a_results_file_that_cannot_be_judged_is_named(run, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "figure6-quick.h5").write_bytes(b"no file of ours")
    done = run("reproduce", "--out", "made")
    assert done.code == 0
    assert "figure6-quick.h5: cannot be judged" in done.out
