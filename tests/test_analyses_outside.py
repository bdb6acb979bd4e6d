"""An analysis of somebody else's, in one file outside of the project: run, listed by its results, judged, shown."""

import errno
import json
import sys

import pytest
from gradlab.analyses import analysis, registry

import gradlab
from gradlab import errors

from .command_line import refused

OUTSIDE = '''"""ReinMax: its bias falls as tf rises."""

import gradlab
from gradlab.analyses import RunOptions, analysis
from gradlab.analyses.run_options import measure_checkpoint
from gradlab.analyses.verdicts import trend

print("imported")


@analysis("reinmax-bias", takes=("checkpoint", "data", "images", "draws"))
class ReinMaxBias:
    def cost(self, budget):
        return "64 draws on 4 images at 2 points"

    def measure(self, options: RunOptions, budget):
        def bias(model, x, draws):
            return gradlab.bias(model, x, tf=[0.5, 2.0], tb=1.0, estimator="reinmax", draws=draws)

        return measure_checkpoint(options, "vae-8x4-mnist", 4, 64, bias)

    def judge(self, ds):
        which = {"tb": 1.0}
        return [trend(ds, "bias falls as tf rises", "relative_bias_debiased", "tf", {}, True, which)]

    def draw(self, ds):
        return gradlab.plots.bias_trends(ds)


class NoAnalysis:
    pass
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The module, as a user has it in the current folder, forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside.py").write_text(OUTSIDE)
    yield "outside:ReinMaxBias"
    sys.modules.pop("outside", None)
    registry._KNOWN.pop("reinmax-bias", None)


def test_verdicts_that_rest_on_results_that_cannot_be_written_are_given(run, outside, monkeypatch):
    def full(ds, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("gradlab.results.save_results", full)
    ran = run("reproduce", outside, "--out", "made", "--json", "--draws", 32)
    assert ran.code == 1
    given = json.loads(ran.out)
    assert len(given["verdicts"]) == 1
    assert given["files"] == []
    assert "No space left on device: 'made/reinmax-bias-quick.h5'" in ran.err
    ran = run("reproduce", outside, "--out", "made", "--draws", 32)
    assert ran.code == 1
    assert "bias falls as tf rises" in ran.out


def test_one_file_outside_is_measured_judged_drawn_shown_and_reported(run, outside, tmp_path):
    ran = run("reproduce", outside, "--out", "made", "--json", "--draws", 32)
    assert ran.code == 0, ran.err
    assert "imported" in ran.err  # standard output is one JSON object
    found = json.loads(ran.out)
    assert [row["claim"] for row in found["verdicts"]] == ["bias falls as tf rises"]
    assert found["files"] == ["made/reinmax-bias-quick.h5", "made/reinmax-bias-quick.png"]
    ds = gradlab.open_results("made/reinmax-bias-quick.h5")
    assert (ds.attrs["reproduces"], ds.attrs["budget"], ds.attrs["draws"]) == ("reinmax-bias", "quick", 32)
    again = run("reproduce", outside, "--from", "made/reinmax-bias-quick.h5", "--out", "again", "--json")
    assert json.loads(again.out)["verdicts"] == found["verdicts"]
    for command in (["show"], ["plot"], ["report", "--out", "page.html"]):
        assert run(*command, "made/reinmax-bias-quick.h5").code == 0


def test_what_is_no_analysis_is_refused(run, outside):
    run("reproduce", outside, "--from", "nosuch.h5")  # imports it, which prints
    refused(run("reproduce", "outside:ReinmaxBias"), 2, "NAME: ", "did you mean ReinMaxBias")
    refused(run("reproduce", "outside:NoAnalysis"), 1, "decorated with gradlab.analyses.analysis")
    refused(run("reproduce", "nosuch:Thing"), 1, "'nosuch'", "gradlab reproduce")
    refused(run("reproduce", "outside:"), 1, "MODULE:NAME")
    refused(run("reproduce", "figure7"), 2, "unknown name 'figure7'", "figure6")
    refused(run("reproduce", outside, "--kl", "model"), 2, "--kl: only for figure3", "got reinmax-bias")


def test_an_analysis_is_checked_when_it_is_registered():
    class Whole:
        """A claim."""

        cost = measure = judge = draw = lambda self, *given: None

    class Half:
        """A claim."""

        cost = measure = judge = lambda self, *given: None

    registry.find("figure6")
    with pytest.raises(ValueError, match=r"name: expected a new one, got 'figure6' of Figure6"):
        analysis("figure6", takes=())(Whole)
    with pytest.raises(ValueError, match="Half: expected the methods cost, measure, judge, draw, got no draw"):
        analysis("half", takes=())(Half)
    with pytest.raises(errors.UnknownName, match="takes: unknown name 'draw'; did you mean draws"):
        analysis("whole", takes=("draw",))
    with pytest.raises(ValueError, match="name: expected letters, digits and hyphens"):
        analysis("../x", takes=())
    assert analysis("whole", takes=("draws",))(Whole) is Whole
    assert registry.of(Whole, "here").claim == "A claim."
    del registry._KNOWN["whole"]


def test_names_are_those_of_the_registrations():
    """They are read from the sources, so that help lists them without importing torch."""
    assert {registry.find(name).name for name in registry.names()} == set(registry.names())
    assert len(registry.names()) >= 10
    assert registry.names()[:2] == ["figure2", "figure3"]


def test_an_analysis_heeds_the_options_that_it_takes(tmp_path):
    from gradlab.analyses import RunOptions

    options = RunOptions(folder=tmp_path, images=3, draws=8, kl="none")
    assert options.only(("draws",)) == RunOptions(folder=tmp_path, draws=8)
    with pytest.raises(ValueError, match="images: "):
        RunOptions(images=0)
