"""The worked examples of models of other people, against plain autograd."""

import runpy
import sys

import pytest
import torch

import gradlab
from examples import logic_gates

from . import oracles


def test_the_gates_are_the_16_functions_of_two_bits():
    a, b = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    tables = {tuple(gate.tolist()) for gate in logic_gates.gates(a, b).T}
    assert len(tables) == 16
    assert tables <= {tuple(float(i >> k & 1) for k in range(4)) for i in range(16)}


def test_the_gradient_of_a_logic_network_is_that_of_plain_autograd(monkeypatch):
    """Two neurons: the oracle decodes 256 configurations one by one."""
    monkeypatch.setattr(logic_gates, "WIRES", ((0, 1), (4, 2)))
    monkeypatch.setattr(logic_gates, "NEURONS", 2)
    torch.manual_seed(0)
    model, x = logic_gates.model().double(), logic_gates.data().double()
    logits = model.encoder(x).detach()
    wanted = oracles.gradient_of_plain_code(logits, lambda z: logic_gates.loss(model.decoder(z, x), x), 16, 1.0)
    torch.testing.assert_close(gradlab.exact_gradient(model, x), wanted, rtol=1e-10, atol=1e-14)
    ds = gradlab.bias(model, x, wrt="encoder", draws=32, estimator="rloo")
    assert float(ds.exact_norm.squeeze()[1]) == float(ds.exact_norm.squeeze()[0])
    torch.testing.assert_close(float(ds.exact_norm.squeeze()[0]), float(wanted.mean(0).norm()), rtol=1e-9, atol=0)


@pytest.mark.deep
def test_the_example_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["logic_gates", "--draws", "32"])
    runpy.run_module("examples.logic_gates", run_name="__main__")
    assert "reinmax" in capsys.readouterr().out
