"""What a layer is: the catalogue and what others write are recognised, faults are found, correct layers have none."""

import json

import pytest
import torch
import torch.nn.functional as F

import gradlab
from gradlab import estimators
from gradlab.inspection import checking, laws

from .own_layers import CORRECT, FAULTY, FAULTY_BINARY, catalogue_layer

ENTRIES = [
    (text, kind)
    for name in estimators.names()
    for text in ([name, "st-gs:convention=jang"] if name == "st-gs" else [name])
    for kind in estimators.find(name).kinds
    if estimators.find(name).uses == ("derivative",) and kind != "k-hot"  # of which there are no layers
]
FAULTS = [*((name, False) for name in FAULTY), *((name, True) for name in FAULTY_BINARY)]
AT = {"tf": 1.6, "tb": 0.7}


@pytest.fixture
def few_draws(monkeypatch):
    """A tenth of the time; `test_..._in_twenty_seeds` take all."""
    monkeypatch.setattr(laws, "DRAWS", 6000)
    monkeypatch.setattr(checking, "BIAS_DRAWS", 200)


def check(written, **options):
    return gradlab.check_layer(written.layer, binary=written.kinds == ("binary",), **options)


def check_faulty(name, binary, **options):
    layer, words = (FAULTY_BINARY if binary else FAULTY)[name]
    return gradlab.check_layer(layer, binary=binary, **options), words


@pytest.mark.parametrize("written", CORRECT, ids=lambda written: written.name)
def test_a_correct_layer_is_recognised_and_has_no_problems(written, few_draws):
    tf = 1.6 if written.law == "tf" else 1.0
    report = check(written, tf=tf, tb=0.7)
    twin = written.twin(tf, 0.7)
    assert report.problems == []
    assert f"{twin.label} at tf={twin.tf:g}, tb={twin.tb:g}" in report.same_as
    assert report.values == ("one-hot" if written.discrete else "relaxed")
    assert report.follows
    assert report.temperature == pytest.approx(twin.tf, rel=0.1)
    assert report.temperature_low < report.temperature < report.temperature_high


@pytest.mark.parametrize(("text", "kind"), ENTRIES)
def test_every_entry_of_the_catalogue_is_recognised_as_itself(text, kind, few_draws):
    report = gradlab.check_layer(catalogue_layer(text, kind == "binary"), binary=kind == "binary", **AT)
    entry = estimators.parse(text).at(**AT)
    at = ", ".join(f"{name}={AT[name]:g}" for name in ("tf", "tb") if name in entry.parameters)
    assert f"{entry.label} at {at}" in report.same_as
    if text != "ste-argmax":  # which does not sample
        assert report.problems == []


@pytest.mark.parametrize(("name", "binary"), FAULTS)
def test_a_fault_is_found_and_named(name, binary, few_draws):
    report, words = check_faulty(name, binary)
    assert any(words in sentence for sentence in report.problems)


@pytest.mark.deep
@pytest.mark.parametrize("written", CORRECT, ids=lambda written: written.name)
def test_correct_layers_have_no_problems_in_twenty_seeds(written):
    """Each test of a law fails by chance in 1e-7 of all seeds; there are at most 12 in a report."""
    for seed in range(20):
        for at in ({}, {"tb": 0.7}, {"tf": 1.6, "tb": 1.3} if written.law == "tf" else {"tb": 3.0}):
            assert check(written, seed=seed, **at).problems == [], seed


@pytest.mark.deep
@pytest.mark.parametrize(("name", "binary"), FAULTS)
def test_faults_are_found_in_twenty_seeds(name, binary):
    for seed in range(20):
        report, words = check_faulty(name, binary, seed=seed)
        assert any(words in sentence for sentence in report.problems), seed


@pytest.mark.deep
def test_the_interval_of_the_temperature_holds_it():
    """In 95 % of 200 seeds; below 180 or all of them: chance 1e-3 each."""
    held = 0
    for seed in range(200):
        report = gradlab.check_layer(FAULTY["noise inside the division"][0], tf=1.0, seed=seed, latents=2, categories=3)
        held += report.temperature_low <= 1.0 <= report.temperature_high
    assert 179 < held < 200


def test_a_temperature_that_is_not_read_is_no_fault_at_one(few_draws):
    def torch_s(logits, tf, tb):
        return F.gumbel_softmax(logits, tau=tb, hard=True)

    report = gradlab.check_layer(torch_s, tf=1.0, tb=2.0)
    assert report.same_as == ["st-gs(convention=jang) at tf=1, tb=2"]
    assert (report.without_effect, report.problems) == (["tf"], [])
    (sentence,) = gradlab.check_layer(torch_s, tf=0.5, tb=2.0).problems
    assert sentence.startswith("Its codes follow softmax(l/")
    assert "tf = 0.5, not softmax(l/tf)" in sentence


def test_a_report_is_text_html_and_pure(few_draws):
    state = torch.random.get_rng_state()
    report, _ = check_faulty("noise inside the division", False, tf=0.5, tb=2.0)
    assert torch.equal(state, torch.random.get_rng_state())
    again, _ = check_faulty("noise inside the division", False, tf=0.5, tb=2.0)
    assert report == again
    text = str(report)
    assert text.splitlines()[0] == "noise_inside at tf = 0.5, tb = 2"
    assert "st-gs(convention=jang) at tf=1, tb=2" in text
    assert all(len(line) <= 110 for line in text.splitlines())
    assert "<table>" in report._repr_html_()
    assert set(report.bias) == {"categorical-3x3", "categorical-4x2"}


@pytest.mark.parametrize(
    ("layer", "options", "words"),
    [
        (3, {}, "expected a function of logits, got a int"),
        (lambda logits, a, b, c: logits, {}, "expected no arguments but logits, tf and tb"),
        (lambda logits: logits[0], {}, "expected codes of the shape of its logits"),
        (lambda logits: 1 / 0, {}, "ZeroDivisionError"),
        (lambda logits: torch.poisson(logits.exp()), {}, "got torch's poisson"),
        (lambda logits: logits, {"tf": 0}, "tf: expected a finite number above 0"),
        (lambda logits: logits, {"categories": 1}, "categories: expected a whole number"),
    ],
)
def test_what_cannot_be_run_is_refused(layer, options, words):
    with pytest.raises(ValueError, match="expected") as refused:
        gradlab.check_layer(layer, **options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


MODULE = """
import torch

def mine(logits, tf, tb):
    g = -torch.log(-torch.log(torch.rand_like(logits)))
    q = torch.softmax(logits / tb + g, -1)
    z = torch.nn.functional.one_hot((logits / tf + g).argmax(-1), logits.shape[-1])
    return z + q - q.detach()

class Module(torch.nn.Module):
    def forward(self, logits):
        print("from a layer")
        return torch.nn.functional.gumbel_softmax(logits, hard=True)

def factory():
    return Module()

def raises(logits):
    raise RuntimeError("two" + chr(10) + "lines")

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layers_of_mine.py").write_text(MODULE)
    return "layers_of_mine"


def test_on_the_command_line(module, run, few_draws):
    ran = run("check-layer", f"{module}:mine", "--tf", "0.5", "--tb", "2", "--json")
    found = json.loads(ran.out)
    assert ran.code == 0
    assert found["same_as"] == ["decoupled-st-gs at tf=0.5, tb=2", "st-gs at tf=0.5, tb=2"]
    assert found["problems"] == []
    for name in ("Module", "factory"):
        ran = run("check-layer", f"{module}:{name}", "--categories", "3", "--latents", "2")
        assert ran.code == 0
        assert ran.out.startswith("Module at tf = 1, tb = 1")


@pytest.mark.parametrize("name", ["number", "nothing", "raises"])
def test_what_cannot_be_run_is_one_line_on_the_command_line(module, run, name):
    ran = run("check-layer", f"{module}:{name}")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
