"""Every warning points at the line of the caller, whatever stands between that line and the one that warns."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import gradlab
from gradlab import errors, estimators

from . import problems

HERE = Path(__file__)
ROOT = HERE.parent.parent
CERTAIN = problems.make("3x2-bernoulli-mlp")
with torch.no_grad():
    for parameter in CERTAIN.model.encoder[-1].parameters():
        parameter.mul_(400)


def old_class():
    @dataclass(frozen=True, kw_only=True)
    class Old(estimators.Estimator):
        name, code_only = "old", True

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return derivative[0]


SMALL = problems.make("3x2-bernoulli-mlp")
CAUSES = {
    "moments: expected a relative numerical error": lambda: gradlab.bias(
        SMALL.model, SMALL.x, estimator="st-gs", moments=gradlab.Integrated(tolerance=1e-12)
    ),
    "draws: no effect": lambda: gradlab.bias(SMALL.model, SMALL.x, estimator="ste", moments="exact", draws=8),
    "draws: expected whole batches": lambda: gradlab.bias(SMALL.model, SMALL.x, reference="rloo", draws=65),
    "precision: 1 of 1 points": lambda: gradlab.bias(
        SMALL.model, SMALL.x, reference=gradlab.Sampled("rloo", precision=1e-6, max_draws=128), draws=64
    ),
    "certain|of all": lambda: gradlab.bias(CERTAIN.model, CERTAIN.x, tf=0.5, draws=64),
    "latents|certain": lambda: gradlab.gap(CERTAIN.model, CERTAIN.x, tf=0.5, draws=8),
    "expected code_only not to be stated": old_class,
}


@pytest.mark.parametrize("words", CAUSES)
def test_a_warning_points_at_the_line_of_the_caller(words):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        CAUSES[words]()
    said = [warning for warning in found if re.search(words, str(warning.message))]
    assert said, list(map(str, found))
    assert {Path(warning.filename) for warning in said} == {HERE}


def test_all_warnings_go_that_way():
    files = [path for path in (ROOT / "gradlab").rglob("*.py") if path.name != "errors.py"]
    assert [path for path in files if "warnings.warn(" in path.read_text()] == []
    assert "stacklevel" not in "".join(path.read_text() for path in files)


def test_a_warning_from_outside_is_that_line():
    with pytest.warns(UserWarning, match="here") as found:
        errors.warn("here")
    assert Path(found[0].filename) == HERE
