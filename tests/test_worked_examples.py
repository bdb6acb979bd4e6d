"""The worked examples of models of other people, against plain autograd."""

import itertools
import runpy
import sys

import pytest
import torch

import gradlab
from examples import logic_gates, stochastic_vq

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
    monkeypatch.delitem(sys.modules, "examples.logic_gates")  # imported above; run as by python -m
    runpy.run_module("examples.logic_gates", run_name="__main__")
    assert "reinmax" in capsys.readouterr().out


# --- a stochastic vector quantiser ---


def of_all_codes(made, x):
    """Every joint code, and its probability for each example (example,)."""
    p = torch.softmax(made.logits(x).detach(), -1)
    for words in itertools.product(range(stochastic_vq.WORDS), repeat=stochastic_vq.VECTORS):
        z = torch.eye(stochastic_vq.WORDS).double()[list(words)].expand(len(x), -1, -1)
        yield z, torch.stack([p[:, vector, word] for vector, word in enumerate(words)]).prod(0)


def quantiser():
    torch.manual_seed(0)
    return stochastic_vq.model().double().eval(), torch.randn(3, stochastic_vq.FEATURES).double()


def test_the_exact_gradient_of_a_quantiser_s_vectors_is_that_of_plain_autograd():
    made, x = quantiser()
    e = made.encoder(x)[1].detach().requires_grad_()
    log_p = torch.log_softmax(made.encoder.logits(e), -1)
    expected = torch.zeros(())
    for z, _ in of_all_codes(made, x):
        loss = (made.decoder(z) - x).square().mean(1).detach()
        expected = expected + ((log_p * z).sum((1, 2)).exp() * loss).sum()
    wanted = torch.autograd.grad(expected, e)[0]
    torch.testing.assert_close(stochastic_vq.exact(made, x), wanted, rtol=1e-9, atol=1e-12)


def test_the_rotation_takes_the_encoder_s_vector_to_the_code_vector():
    torch.manual_seed(1)
    e, q = torch.randn(5, 4).double().requires_grad_(), torch.randn(5, 4).double()
    found = stochastic_vq.rotated(e, q)
    torch.testing.assert_close(found.detach(), q)
    u = torch.randn(5, 4).double()
    back = torch.autograd.grad(found, e, u)[0]
    ratio = q.norm(dim=1) / e.norm(dim=1)
    torch.testing.assert_close(back.norm(dim=1), ratio * u.norm(dim=1))  # a rotation keeps lengths


@pytest.mark.parametrize("name", ["at the vector", "rotation"])
def test_the_compared_figures_are_those_of_enumeration(name):
    """64 draws; the squared bias is within 6 standard errors of its enumerated value: chance of a miss below 1e-6."""
    made, x = quantiser()
    g, mean, second = stochastic_vq.exact(made, x), 0.0, 0.0
    for z, p in of_all_codes(made, x):
        one = stochastic_vq.estimate(name, made, x, z)
        mean = mean + p[:, None, None] * one
        second = second + p[:, None, None] * one.square()
    bias = float((mean - g).square().sum() / g.square().sum())
    variance = (second - mean.square()) / 64
    # Var |m - g|^2 = 4 sum (bias^2 var) + 2 sum var^2, coordinates of a vector correlated: at most WIDTH times
    error = (4 * ((mean - g).square() * variance).sum() + 2 * variance.square().sum()) * stochastic_vq.WIDTH
    found = stochastic_vq.compared(made, x, 64)[name][0]
    assert abs(found - bias) < 6 * float(error.sqrt() / g.square().sum())
