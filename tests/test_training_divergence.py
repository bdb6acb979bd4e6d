"""Training: a loss that is no longer finite stops it, and the state before is kept."""

import math

import pytest
import torch

import gradlab
from gradlab import checkpoints, training

from .small_trainings import STEPS, assert_same, before_step, interrupt, press_ctrl_c, train

# a loss that is no longer finite


def poison(monkeypatch, step, part="encoder"):
    """Before this step, one weight becomes NaN."""

    def after_step(run, batch, one_step=training.Run.one_step):
        if run.step + 1 == step:
            with torch.no_grad():
                next(getattr(run.model, part).parameters()).view(-1)[0] = torch.nan
        one_step(run, batch)

    monkeypatch.setattr(training.Run, "one_step", after_step)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("step", [STEPS + 1, STEPS + 3, 2 * STEPS])
def test_a_loss_that_is_not_finite_stops_with_the_state_before_kept(unbroken, out, monkeypatch, part, step):
    with monkeypatch.context() as patch:
        poison(patch, step, part)
        with pytest.raises(FloatingPointError, match=r"no longer finite.*the last finite state is in"):
            train(out)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS
    assert not out.exists()
    assert_same(train(out, resume=True), unbroken)


def test_in_the_first_epoch_no_state_is_promised(out, monkeypatch):
    poison(monkeypatch, 3)
    with pytest.raises(FloatingPointError) as raised:
        train(out)
    assert "last finite state" not in str(raised.value)
    assert list(out.parent.iterdir()) == []


def test_ctrl_c_after_divergence_does_not_replace_the_good_state(unbroken, out, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, STEPS + 2)
        before_step(patch, STEPS + 3, press_ctrl_c)
        with pytest.raises(FloatingPointError):
            train(out)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS
    assert_same(train(out, resume=True), unbroken)


def test_weights_that_the_last_step_of_an_epoch_spoils_are_not_saved(unbroken, out, monkeypatch):
    one_step = training.Run.one_step

    def spoiled(run, batch):
        one_step(run, batch)
        if run.step == 2 * STEPS:
            with torch.no_grad():
                run.model.decoder[-2].bias[0] = torch.inf

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "one_step", spoiled)
        with pytest.raises(FloatingPointError):
            train(out)
    assert checkpoints.read(training.resume_path(out))[2]["step"] == STEPS


def test_a_validation_loss_that_is_not_finite_stops_too(unbroken, out, monkeypatch):
    """Finite weights can be so large that the loss is not."""
    interrupt(out, monkeypatch, STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("gradlab.training.run.evaluate", lambda *given: (math.inf, 0.0))
        with pytest.raises(FloatingPointError):
            train(out, resume=True)
    assert_same(train(out, resume=True), unbroken)


def test_a_learning_rate_far_too_large_ends_in_one_of_the_two(out):
    """Nothing is planted: the run itself diverges, or does not."""
    try:
        train(out, lr=1e30)
    except FloatingPointError:
        assert not out.exists()
    else:
        gradlab.load(out)
