"""Models as programs: exact gradients against plain enumeration, estimates against plain autograd, refusals."""

import pytest
import torch

import gradlab

from . import program_problems as problems
from .program_problems import PROGRAMS


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


# --- the exact gradient ---


@pytest.mark.parametrize("tf", [1.0, 0.6])
@pytest.mark.parametrize("name", PROGRAMS)
def test_exact_gradient_is_that_of_plain_enumeration(name, tf):
    model, x = problems.problem(name)
    found = gradlab.exact_gradient(model.program(), x, tf=tf)
    wide, x = problems.wide(model, x)
    with problems.in_float64():
        wanted = problems.enumerated(wide.loss, wide.parameters(), x, tf)
    assert list(found) == [parameter for parameter, _ in model.named_parameters()]
    for (parameter, p), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert found[parameter].dtype == torch.float64
        assert found[parameter].shape == p.shape
        assert float((found[parameter] - gradient).abs().max()) < 1e-10
    assert float(flat(wanted).norm()) > 0.1


@pytest.mark.parametrize("memory", [1, 200_000])
def test_chunks_of_paths_change_nothing(memory):
    model, x = problems.problem("recurrent")
    whole, chunks = (gradlab.exact_gradient(model.program(), x, memory=m) for m in (None, memory))
    assert float((flat(whole.values()) - flat(chunks.values())).abs().max()) < 1e-13


def test_the_target_law():
    model, x = problems.problem("experts")
    of_model = gradlab.exact_gradient(model.program(), x, tf=0.5, target="model")
    assert torch.equal(flat(of_model.values()), flat(gradlab.exact_gradient(model.program(), x).values()))
