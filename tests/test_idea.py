"""The picture of Getting started: what it shows agrees with the formulas, and the file in the repository is drawn."""

import numpy as np
import pytest
import torch

import gradlab
from examples import idea

from .imports import ROOT


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch):
    monkeypatch.setattr(idea, "DRAWS", 20_000)


def test_the_exact_gradient_is_the_slope_of_the_curve():
    here = np.array([idea.LOGITS[0]])
    slope = (idea.expected_loss(here + 1e-5) - idea.expected_loss(here - 1e-5)) / 2e-5
    assert idea.exact()[0] == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize(("name", "temperatures"), [("rloo", {}), ("decoupled-st-gs", {"tb": 0.5})])
def test_the_clouds_are_those_of_the_estimators(name, temperatures):
    """Within 5 standard errors in each of two coordinates: fails by chance once in a million."""
    x = torch.tensor([idea.LOGITS], dtype=torch.float64)
    tb = temperatures.get("tb", 1.0)
    ds = gradlab.bias(idea.model(), x, tf=1.0, tb=tb, estimator=name, moments="exact")
    cloud = idea.estimates(name, tf=1.0, **temperatures)
    off = cloud.mean(0) - ds.mean_gradient.values.ravel()
    assert np.all(np.abs(off) < 5 * cloud.std(0) / np.sqrt(len(cloud)))
    assert cloud.std(0) * np.sqrt(idea.AVERAGED) == pytest.approx(ds.std_gradient.values.ravel(), rel=0.1)


def test_it_is_drawn(tmp_path):
    gradlab.plots.save(idea.draw(), tmp_path / "idea.png")
    assert (tmp_path / "idea.png").stat().st_size > 50_000
    assert (ROOT / "docs" / "assets" / "idea.png").stat().st_size < 150_000
