"""Allocations that fail at any moment: errors of the machine, no faults of a model or file, no other numbers."""

import os

import pytest
import torch
from torch import nn

import gradlab
from gradlab import errors
from gradlab.fidelity.encoder_gradients import PullBack

from . import tiny_sweep
from .command_line import POINT, tiny
from .problems import make


class Exhausting(nn.Module):
    """A module whose n-th call finds no memory, by torch's own error."""

    calls, at = 0, 0

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *given):
        Exhausting.calls += 1
        if Exhausting.calls == Exhausting.at:
            torch.empty(2**60, dtype=torch.uint8)
        return self.inner(*given)


def calls_of(measure):
    Exhausting.calls, Exhausting.at = 0, 0
    measure()
    return Exhausting.calls


def own_loss(parameters, x):
    return nn.functional.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)


OF = make("3x5-bernoulli-mlp")
X = OF.x[:2]


def model(part):
    parts = {"encoder": OF.model.encoder, "decoder": OF.model.decoder}
    parts[part] = Exhausting(parts[part])
    return gradlab.LatentModel(**parts, latents=3, categories=5, likelihood=own_loss)


def program():
    logits, score = nn.Linear(X[0].numel(), 8), Exhausting(nn.Linear(8, 1))

    def loss(x, sample):
        z = sample(logits(x.flatten(1)).unflatten(1, (2, 4)))
        return (score(z.flatten(1))[:, 0] - 1) ** 2

    return gradlab.Program(loss, wrt=nn.ModuleList([logits, score]))


MEASURED = {
    "bias": lambda: gradlab.bias(model("decoder"), X, draws=4),
    "encoder": lambda: gradlab.bias(model("encoder"), X, draws=4, wrt="encoder"),
    "exact moments": lambda: gradlab.bias(model("decoder"), X, moments="exact"),
    "sampled reference": lambda: gradlab.bias(model("decoder"), X, draws=64, reference="rloo"),
    "gap": lambda: gradlab.gap(model("decoder"), X, draws=4),
    "program": lambda: gradlab.bias(program(), X, tf=1.0, tb=1.0, draws=4),
    "program, sampled reference": lambda: gradlab.bias(program(), X, tf=1.0, tb=1.0, draws=64, reference="rloo"),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_call_of_a_model_that_finds_no_memory_is_told(name):
    total = calls_of(MEASURED[name])
    assert total > 5
    for at in range(1, total + 1):
        Exhausting.calls, Exhausting.at = 0, at
        with pytest.raises(Exception, match="allocate") as raised:
            MEASURED[name]()
        assert errors.out_of_memory(raised.value), (at, raised.value)


def test_a_cell_that_ran_out_of_memory_is_trained_again(tmp_path, monkeypatch):
    """In the decoder, where an error is one of its images or codes otherwise."""
    linear = nn.Linear.forward

    def counted(layer, x):
        Exhausting.calls += 1
        if Exhausting.calls == Exhausting.at:
            torch.empty(2**60, dtype=torch.uint8)
        return linear(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    ends = []
    for at in (6, 60, 0):
        Exhausting.calls, Exhausting.at = 0, at
        try:
            ends.append(tiny_sweep.sweep(tmp_path, **tiny_sweep.ONE).status.values.ravel().tolist())
        except RuntimeError as error:
            ends.append(errors.out_of_memory(error))
    assert ends == [True, True, ["done"]]


def test_a_part_that_ran_out_of_memory_is_measured_again(run, monkeypatch):
    for seed, name in enumerate("ab"):
        tiny(f"{name}.safetensors", seed=seed)
    command = ["bias", "a.safetensors", "b.safetensors", *POINT]
    bias, left = gradlab.bias, [1]

    def exhausted(*given, **options):
        if left:
            left.pop()
            torch.empty(2**60, dtype=torch.uint8)
        return bias(*given, **options)

    monkeypatch.setattr("gradlab.bias", exhausted)
    exhausted_once = run(*command)
    assert exhausted_once.code == 1
    assert "allocate" in exhausted_once.err
    assert run(*command).code == 0
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors", "bias.h5"]


@pytest.mark.parametrize("answer", ["batched", "single"])
def test_memory_of_a_batched_backward_pass_is_no_reason_for_another(monkeypatch, answer):
    def exhausted(*given):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(PullBack, "_batched" if answer == "batched" else "_one_by_one", exhausted)
    with pytest.raises(RuntimeError, match="allocate"):
        gradlab.bias(OF.model, X, draws=4, wrt="encoder")
