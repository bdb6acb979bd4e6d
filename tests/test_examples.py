"""Every public callable has an example, and every example runs and prints what it shows."""

import doctest
import io
import shutil

import pytest
import torch

from gradlab.estimators import registry as estimators
from gradlab.metrics import registry as metrics

from . import examples

WITHOUT = {
    "derived from": {"estimators.Estimator", "estimators.Relaxation", "latents.LatentKind", "likelihoods.Canonical"},
    "returned by functions, or listed": {
        "datasets.Check",
        "datasets.Images",
        "datasets.Observations",
        "datasets.Source",
        "latents.Binary",
        "latents.Categorical",
        "likelihoods.Bernoulli",
        "likelihoods.Gaussian",
    },
    "a category of warnings": {"estimators.LayerWarning"},
    "what the classes of estimators promise: docs/estimators.md": {
        "estimators.Constant",
        "estimators.FunctionOfCode",
        "estimators.LatentSummed",
        "estimators.LeaveOneOut",
        "estimators.NoiseIntegral",
        "estimators.PullBack",
        "estimators.SharedPoints",
    },
    "what metrics are made of: see metrics.register": {
        "metrics.GapMetric",
        "metrics.GapTerms",
        "metrics.Metric",
        "metrics.Norms",
        "metrics.Products",
    },
    "for callers inside the library": {
        "plots.draw",
        "training.Run",
    },
    "of a study that takes minutes": {"plots.gap_and_bias"},
}
CALLABLES = dict(examples.public_callables())
SHOWN = {where: shown for where, thing in CALLABLES.items() if (shown := examples.example(where, thing))}


def test_every_public_callable_has_an_example():
    """Give it an Examples section or, where none helps, a line in WITHOUT."""
    without = {f"gradlab.{name}" for names in WITHOUT.values() for name in names}
    assert sorted(set(CALLABLES) - set(SHOWN) - without) == []
    assert sorted(without - set(CALLABLES)) == []


def test_an_example_is_the_last_section_of_a_docstring():
    """Under the heading that the reference renders."""
    for where in SHOWN:
        text = CALLABLES[where].__doc__
        head, _, rest = text.partition("Examples\n")
        assert rest, where
        assert ">>>" not in head, where


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    examples.prepare(folder)
    return folder


def test_examples_run_and_print_what_they_show(prepared, tmp_path, monkeypatch):
    runner, said = doctest.DocTestRunner(optionflags=examples.FLAGS), {}
    # what an example registers is forgotten
    monkeypatch.setattr(estimators, "_CLASSES", dict(estimators._CLASSES))
    monkeypatch.setattr(metrics, "_BIAS", dict(metrics._BIAS))
    for where, shown in SHOWN.items():
        folder = shutil.copytree(prepared, tmp_path / where)
        monkeypatch.chdir(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = io.StringIO()
            runner.run(shown, out=out.write)
        if out.getvalue():
            said[where] = out.getvalue()
    assert "\n".join(said.values()) == ""


def test_an_example_that_prints_something_else_is_found():
    runner = doctest.DocTestRunner(optionflags=examples.FLAGS)
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert runner.run(wrong, out=lambda text: None).failed == 1
