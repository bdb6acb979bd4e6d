"""The lines that gradlab.recommend gives to paste: torch's spellings of estimators, and gradlab's own."""

import copy
import re

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F

import gradlab
from gradlab import estimators
from gradlab.estimators.evaluation import evaluate
from gradlab.k_hot import KHot
from gradlab.latents import BINARY, CATEGORICAL
from gradlab.recommending.pasting import line, spelled, torch_line

from .problems import make


def gradient_by_estimator(e, kind, logits, weight, noise):
    """Of the loss <weight, z> by the estimator, from given noise."""

    def loss_at(points, differentiated):
        return (points * weight).flatten(-logits.ndim + 1).sum(-1), torch.broadcast_to(weight, points.shape)

    return next(evaluate([e], kind, logits, noise[None, None], loss_at))[0]


def pasted(code, logits, seed):
    torch.manual_seed(seed)
    names = {"logits": logits, "F": F, "D": D, "torch": torch, "gradlab": gradlab}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        exec(code, names)
    return names["z"]


@pytest.mark.parametrize(
    "spec",
    [
        "decoupled-st-gs:tf=1.6,tb=1.6",
        "decoupled-st-gs:tf=1,tb=1",
        "gumbel-softmax:tf=1.6,tb=0.5",
        "gumbel-softmax:tf=1,tb=0.5",
        "st-gs:convention=jang,tf=1,tb=2",
        "ste:tf=1.6,tb=1.6",
        "ste:tf=1,tb=1",
    ],
)
def test_torch_spellings_are_the_estimators(spec):
    """At the noise that torch draws: the same gradient."""
    e, seed = estimators.parse(spec), 7
    logits = torch.randn(6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        noise = -torch.empty_like(logits).exponential_().log()  # as F.gumbel_softmax draws it
    leaf = logits.clone().requires_grad_()
    (pasted(torch_line(e, CATEGORICAL), leaf, seed) * weight).sum().backward()
    torch.testing.assert_close(leaf.grad, gradient_by_estimator(e, CATEGORICAL, logits, weight, noise))


def test_torch_has_no_spelling_of_others():
    for spec in ("decoupled-st-gs:tf=1.6,tb=1", "st-gs:convention=jang,tf=2,tb=1", "ste:tf=1,tb=2", "reinmax", "rloo"):
        assert torch_line(estimators.parse(spec), CATEGORICAL) == ""
    assert torch_line(estimators.parse("ste"), BINARY) == torch_line(estimators.parse("ste"), KHot(2)) == ""


def test_the_relaxed_binary_spelling_has_the_law_and_the_slope():
    """RelaxedBernoulli draws uniforms: y follows sigmoid((l/tf + n)/tb), so its logit less l/tf tb^-1 is free of l."""
    e = estimators.parse("gumbel-softmax:tf=2,tb=0.5")
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = logits.clone().requires_grad_()
    y = pasted(torch_line(e, BINARY).replace("torch.tensor(0.5)", "torch.tensor(0.5, dtype=torch.float64)"), leaf, 3)
    noise = torch.logit(y.detach()) * 0.5 - logits / 2
    weight = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (y * weight).sum().backward()
    torch.testing.assert_close(leaf.grad, gradient_by_estimator(e, BINARY, logits, weight, noise), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("spec", ["rloo:n=4,tf=1.6", "decoupled-st-gs:tf=1.6,tb=1.3", "gumbel-softmax:tb=0.5", "zgr"])
@pytest.mark.parametrize("binary", [False, True])
def test_lines_of_gradlab_run(spec, binary):
    e = estimators.parse(spec)
    assert estimators.parse(spelled(e)) == e
    logits = torch.randn(4, 3, requires_grad=True) if binary else torch.randn(4, 3, 5, requires_grad=True)
    weight = torch.randn(logits.shape[1:])

    def f(z):
        return (z * weight).flatten(1).sum(1)

    names = {"logits": logits, "gradlab": gradlab, "f": f}
    exec(line(e, BINARY if binary else CATEGORICAL), names)
    (names["loss"] if "loss" in names else f(names["z"]).mean()).backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("spec", ["rloo:n=4", "zgr"])
def test_the_loss_that_is_said_runs_in_the_line(spec):
    """With four codes per example, model.losses(z, x) alone does not fit."""
    problem = make("4x3-bernoulli-mlp")
    found = gradlab.recommend(problem.model, problem.x, tf=1.0, tb=1.0, estimator=spec, averaged=1000, draws=256)
    (f,) = re.findall(r"Here (f = lambda z: [^,]*\(.*\)), or any", str(found))
    model, x = copy.deepcopy(problem.model).requires_grad_(True), problem.x
    names = {"gradlab": gradlab, "torch": torch, "model": model, "x": x, "logits": model.logits(x)}
    exec(f"{f}\n{found.line}", names, names)
    names["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
