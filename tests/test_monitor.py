"""gradlab.Monitor: what it tells, and that a training with it ends in the same bits as one without."""

import warnings

import numpy as np
import pytest
import torch

import gradlab
from gradlab.monitoring.monitor import MonitorWarning

from . import loops

SETUPS = [(model, "plain") for model in loops.MODELS]
SETUPS += [("batch norm and dropout", kind) for kind in ("amp", "accumulation", "compile", "ema")]


def monitored(model, **options):
    given = {"tf": 1.2, "tb": 0.8, "every": 3, "budget": 1, "examples": 4, "draws": 16} | options
    return gradlab.Monitor(model, **given)


# --- the training is untouched ---


@pytest.mark.parametrize(("name", "kind"), SETUPS)
def test_a_training_ends_in_the_same_bits(name, kind, tmp_path):
    torch._dynamo.reset()
    without = loops.train(loops.model_of(name), lambda x, step: None, kind)
    torch._dynamo.reset()
    model, found = loops.model_of(name), []
    monitor = monitored(model, out=tmp_path / "fidelity.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MonitorWarning)
        with_it = loops.train(model, lambda x, step: found.append(monitor.step(x)), kind)
    assert loops.differences(without, with_it) == []
    assert len([one for one in found if one]) == 4
    assert all(np.isfinite(one["cosine"]) for one in found if one)
    assert gradlab.open_results(tmp_path / "fidelity.h5").sizes["step"] == 4


def test_a_difference_would_be_found():
    model = loops.model_of("batch norm and dropout")
    without = loops.train(loops.model_of("batch norm and dropout"), lambda x, step: None)
    other = loops.train(model, lambda x, step: model.encoder(x) if step == 5 else None)
    found = loops.differences(without, other)
    assert {"/weights/encoder.1.running_mean", "/random/0"} <= set(found)
    assert loops.differences(without, without) == []
