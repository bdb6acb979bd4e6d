"""Collected trainings that are committed, since they took a GPU: small, whole, and judged as the pages say."""

import json

import pytest
from gradlab.analyses import fidelity_and_loss, figure4_kl, registry
from gradlab.analyses.verdicts import PAPER
from gradlab.cli.studies import COLLECTED

import gradlab

from .pages import ROOT

FILES = sorted(COLLECTED.glob("*.h5"))


def verdicts(analysis, name, variable="final_validation_loss"):
    found = registry.find(analysis).judge(gradlab.open_results(COLLECTED / name))
    return {v.claim[:3]: v for v in found if v.figure in (variable, "misfit")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_collected_file_is_small_and_says_what_it_is(path):
    assert path.stat().st_size < 300_000
    ds = gradlab.open_results(path)
    assert path.stem == f"{ds.attrs['reproduces']}-{ds.attrs['budget']}"
    assert ds.attrs["paper"] == PAPER
    if path.stem in ("gap-and-bias-standard", "estimators-standard"):  # of bundled models and images, not of trainings
        return
    assert (ds.status == "done").all()
    assert ds.attrs["data_sha256"] == "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


def test_figure_3_at_the_papers_budget():
    found = verdicts("figure3", "fidelity-and-loss-paper.h5")
    assert {claim: v.verdict for claim, v in found.items()} == {
        "(f)": "supported",
        "(g)": "undetermined",
        "(h)": "undetermined",
        "(p)": "undetermined",
    }
    row = "| (f) the best loss lies at tf > tb, compared with tf < tb | **supported** | -6.74 [-10.62, -2.87]"
    assert "{:.2f} [{:.2f}, {:.2f}]".format(*found["(f)"].whole) == "-6.74 [-10.62, -2.87]"
    assert row in (ROOT / "docs" / "studies.md").read_text()


def test_what_stopped_early_is_not_tested():
    for name in ("figure4", "figure4-kl"):
        found = verdicts(name, f"{name}-part.h5")
        assert {v.verdict for v in found.values()} == {"not tested at this budget"}
    found = figure4_kl.Figure4ByKL().judge(gradlab.open_results(COLLECTED / "figure4-kl-part.h5"))
    misfits = {v.which["KL"]: v.note.split()[1] for v in found if v.claim.startswith("(q)")}
    assert misfits == {"none": "11.7", "model": "15.5", "sampled": "27.1"}
    page = " ".join((ROOT / "docs" / "studies.md").read_text().split())
    assert "11.7 nats without KL, 15.5 with KL(softmax(l)) and 27.1 with KL(softmax(l/tf))" in page


def test_fidelity_and_loss():
    found = fidelity_and_loss.FidelityAndLoss().judge(gradlab.open_results(COLLECTED / "fidelity-and-loss-paper.h5"))
    assert {v.verdict for v in found} == {"undetermined", "contradicted"}  # none is supported
    late = {v.claim[:3]: v for v in found if v.which == {"estimates averaged": "100", "epoch": "160"}}
    assert (late["(s)"].verdict, late["(t)"].verdict) == ("contradicted", "contradicted")


def test_the_listing_names_collected_files(run):
    rows = json.loads(run("reproduce", "--json").out)["analyses"]
    assert "fidelity-and-loss-paper.h5" in rows["figure3"]["results"]["paper"]
    assert "figure4-part.h5" in rows["figure4"]["results"]["part"]
    again = run("reproduce", "figure3", "--from", COLLECTED / "fidelity-and-loss-paper.h5", "--json")
    assert {row["verdict"] for row in json.loads(again.out)["verdicts"]} == {"supported", "undetermined"}
