"""Layers of other packages by name: they mean what the layers are, at the temperatures that they have."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F

import gradlab
from gradlab import estimators
from gradlab.estimators import dictionary
from gradlab.settings import Settings

from . import problems

PAGE = (Path(__file__).parents[1] / "docs" / "own-layer.md").read_text()
TORCH = {
    "torch:gumbel-softmax(tau=0.5, hard=True)": lambda l: F.gumbel_softmax(l, tau=0.5, hard=True),
    "torch:gumbel-softmax(tau=0.5)": lambda l: F.gumbel_softmax(l, tau=0.5),
    "torch:one-hot-categorical-straight-through": lambda l: D.OneHotCategoricalStraightThrough(logits=l).rsample(),
    "torch:relaxed-one-hot-categorical(temperature=0.5)": lambda l: D.RelaxedOneHotCategorical(
        torch.tensor(0.5, dtype=torch.float64), logits=l
    ).rsample(),
    "torch:relaxed-bernoulli(temperature=0.5)": lambda l: D.RelaxedBernoulli(
        torch.tensor(0.5, dtype=torch.float64), logits=l
    ).rsample(),
}


def label(text):
    e = estimators.parse(text)
    return f"{e.label} at tf={e.tf:g}, tb={e.tb:g}"


def is_layer(text, layer):
    report = gradlab.check_layer(layer, binary="bernoulli" in text, tf=estimators.parse(text).tf)
    return label(text) in report.same_as


@pytest.mark.parametrize("text", TORCH)
def test_names_of_torch_mean_its_layers(text):
    assert is_layer(text, TORCH[text])


@pytest.mark.foreign
def test_names_of_pyro_mean_its_layers():
    pyro = pytest.importorskip("pyro.distributions")
    t = torch.tensor(0.5, dtype=torch.float64)
    layers = {
        "pyro:one-hot-categorical-straight-through": lambda l: pyro.OneHotCategoricalStraightThrough(logits=l),
        "pyro:relaxed-one-hot-categorical(temperature=0.5)": lambda l: pyro.RelaxedOneHotCategorical(t, logits=l),
        "pyro:relaxed-one-hot-categorical-straight-through(temperature=0.5)": lambda l: (
            pyro.RelaxedOneHotCategoricalStraightThrough(t, logits=l)
        ),
        "pyro:relaxed-bernoulli(temperature=0.5)": lambda l: pyro.RelaxedBernoulli(t, logits=l),
        "pyro:relaxed-bernoulli-straight-through(temperature=0.5)": lambda l: pyro.RelaxedBernoulliStraightThrough(
            t, logits=l
        ),
    }
    for text, layer in layers.items():
        assert is_layer(text, lambda logits, layer=layer: layer(logits).rsample()), text


@pytest.mark.foreign
def test_names_of_other_packages_mean_their_layers():
    vq = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch")
    text = "vector-quantize-pytorch:gumbel-sample(temperature=0.5)"
    assert is_layer(text, lambda l: vq.gumbel_sample(l, 0.5, stochastic=True, straight_through=True)[1])
    reinmax = pytest.importorskip("reinmax")
    assert is_layer("reinmax:reinmax(tau=1.5)", lambda l: reinmax.reinmax(l, 1.5)[0])


def test_the_page_lists_all_names_and_what_they_mean():
    rows = re.findall(r"^\| `([a-z-]+:[^`]+)` \| .* \| `([^`]+)`.* at tf = ([\d.]+), tb = ([\d.]+) \|$", PAGE, re.M)
    assert {name.split("(")[0] for name, *_ in rows} == set(dictionary.WORDS)
    for name, entry, tf, tb in rows:
        assert estimators.parse(name) == estimators.parse(entry).at(float(tf), float(tb)), name


@pytest.mark.parametrize(
    "text", ["torch:gumbel_softmax:hard=True", "torch:GumbelSoftmax(hard=True)", "torch:gumbel-softmax( hard=True )"]
)
def test_names_are_written_in_several_ways(text):
    assert estimators.parse(text).label == "st-gs(convention=jang)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch:gumbel-softmx", "did you mean torch:gumbel-softmax"),
        ("torch:gumbel-softmax(tua=0.5)", "did you mean tau?"),
        ("torch:gumbel-softmax(tau=-1)", "tau: expected a finite number above 0, got -1"),
        ("torch:gumbel-softmax(hard=3)", "hard: expected True or False, got 3"),
        ("jax:gumbel", "expected parameters as name:key=value"),
    ],
)
def test_other_names_are_refused(text, words):
    with pytest.raises(ValueError, match="estimator") as refused:
        estimators.parse(text)
    assert words in str(refused.value)


def test_a_name_is_measured_at_the_temperatures_of_its_layer():
    problem, text = problems.make("3x2-bernoulli-mlp"), "torch:gumbel-softmax(tau=0.5, hard=True)"
    ds = gradlab.bias(problem.model, problem.x, estimator=text, draws=64)
    assert (ds.tf.item(), ds.tb.item(), ds.attrs["estimator"]) == (1.0, 0.5, "st-gs(convention=jang)")
    for at, argument in (({"tb": 1.0}, "tb"), ({"tf": 1.6}, "tf"), ({"tb": [0.5, 1.0]}, "tb")):
        with pytest.raises(ValueError, match=rf"^{argument}: expected \S+, the only one that torch:gumbel-softmax"):
            gradlab.bias(problem.model, problem.x, estimator=text, draws=64, **at)
    free = gradlab.bias(
        problem.model, problem.x, estimator=["torch:gumbel-softmax(hard=True)"], tb=[0.5, 1.0], draws=64
    )
    assert free.sizes["tb"] == 2


def test_a_training_takes_a_name():
    settings = Settings(estimator="torch:gumbel-softmax(hard=True)", tf=1.0, tb=0.5)
    assert settings.estimator == "st-gs:convention=jang"
    with pytest.raises(ValueError, match=r"tf: expected 1, the only one that torch"):
        Settings(estimator="torch:gumbel-softmax(hard=True)", tf=1.6)


def test_names_on_the_command_line(run):
    text = "torch:gumbel-softmax(tau=0.5, hard=True)"
    point = ["--images", "2", "--draws", "64", "--tf", "1", "--tb", "0.5", "--sweep", "none", "--no-plot"]
    ran = run("bias", *point, "--estimator", text)
    assert ran.code == 0, ran.err
    assert "st-gs(convention=jang)" in ran.out
    ran = run("check-estimator", "torch:one-hot-categorical-straight-through", "--draws", "200")
    assert "ste" in ran.out
