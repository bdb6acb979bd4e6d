"""What tests of moments without sampling share: estimators, and enumeration pair by pair."""

import numpy as np
import torch

from gradlab import estimators, latents, moments

from . import oracles, problems

get = estimators.get
CODE_ONLY = [
    get("reinforce", tf=0.7),
    get("ste", tf=1.6, tb=1.3),
    get("reinmax", tf=1.6, tb=0.8),
    get("zgr", tf=0.7),
    get("gst", tf=1.6, tb=1.3),
    get("gst", tf=0.7, mode="probability"),
]
RELAXED = [
    get("decoupled-st-gs", tf=1.6, tb=1.3),
    get("decoupled-st-gs", tf=0.6, tb=2.5),
    get("st-gs", tf=0.8),
    get("st-gs", tf=1.6, tb=0.7, convention="jang"),
    get("gumbel-rao", tf=0.7, tb=1.5, k=3),
]


def logits_of(problem):
    with torch.no_grad():
        return problem.model.logits(problem.x)


def found(problem, *some, memory=2**28, **options):
    setup = problems.setup_of(problem.model, problem.x, logits_of(problem), memory=memory)
    result = moments.exact_moments(setup, some, **options)
    return result if len(some) > 1 else result[0]


def agree(one, other, tolerance):
    assert oracles.relative_error(one.mean, other.mean) < tolerance
    assert oracles.relative_error(one.variance.sqrt(), other.variance.sqrt()) < tolerance


def all_codes(model):
    indices = latents.configurations(model.latents, model.categories, 0, model.configurations)
    return latents.codes_at(indices, model.categories, model.binary, torch.float64)


def pairs(problem, stride=1):
    """Every code, its losses (configuration, example) and derivatives, each pair decoded."""
    codes = all_codes(problem.model)[::stride]
    both = [problem.model.losses_and_derivatives(code.expand(len(problem.x), *code.shape), problem.x) for code in codes]
    return codes, torch.stack([f for f, _ in both]), torch.stack([v for _, v in both])


def pooled(batches):
    count, mean = batches.count.numpy().astype(float), batches.mean.numpy()
    total = np.tensordot(count / count.sum(), mean, 1)
    squares = batches.squares.numpy().sum(0) + np.tensordot(count, (mean - total) ** 2, 1)
    return torch.from_numpy(total), torch.from_numpy(squares / (count.sum() - 1))
