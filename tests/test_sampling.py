"""Monte Carlo moments against plain autograd loops, and their independence of how they are computed."""

import random

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, sampling
from gradlab.latents import CATEGORICAL

from . import oracles, problems

ALL = [e for name in estimators.names() for e in [estimators.get(name)]]


def moments(problem, estimator, draws, seed=0, memory=sampling.MEMORY):
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = sampling.Noise(problem.model.kind, logits, estimator.noise_arrays, draws, seed, memory)
    return sampling.sample_moments(problem.model, problem.x, logits, [estimator], noise, memory=memory)[0]


def pooled(found):
    count, mean, squares = found.count.numpy().astype(float), found.mean.numpy(), found.squares.numpy()
    total = np.tensordot(count / count.sum(), mean, 1)
    variance = (squares.sum(0) + np.tensordot(count, (mean - total) ** 2, 1)) / (count.sum() - 1)
    return total, np.sqrt(variance)


def loop(problem, tf, tb, noise):
    return oracles.straight_through_draws(
        problem.model, problem.x, lambda l, g: oracles.one_hot_argmax(l / tf + g),
        lambda l, g: torch.softmax(l / tb + g, -1), noise,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "2x7-gaussian-conv", "8x4-bernoulli-mlp", "3x5-own-mlp"])
def test_same_noise_same_moments_as_a_loop(name):
    problem = problems.make(name)
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = sampling.Noise(CATEGORICAL, logits, 1, 101, 0)
    draws = loop(problem, 1.6, 1.3, noise.of(1, 0, 101)[0])
    mean, std = pooled(moments(problem, estimators.get("decoupled-st-gs", tf=1.6, tb=1.3), 101))
    assert oracles.relative_error(torch.tensor(mean), draws.mean(0)) < 1e-12
    assert oracles.relative_error(torch.tensor(std), draws.std(0)) < 1e-12


def test_other_noise_agrees_within_standard_errors():
    """1,500 draws of each, per coordinate within 5 standard errors (75 coordinates, failure rate 4e-5; fixed seed);
    an estimate without its factor 1/tb does not agree, nor does a variance 1.3 times as large."""
    problem = problems.make("3x5-bernoulli-mlp")
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = CATEGORICAL.noise((1500, *logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(99))
    draws = loop(problem, 1.6, 1.3, noise)
    mean, std = pooled(moments(problem, estimators.get("decoupled-st-gs", tf=1.6, tb=1.3), 1500))
    for factor, agrees in ((1.0, True), (1.3, False)):
        error = np.sqrt(factor**2 * std**2 / 1500 + draws.var(0).numpy() / 1500) + 1e-12
        assert bool((np.abs(factor * mean - draws.mean(0).numpy()) < 5 * error).all()) == agrees
    spread = draws.std(0).numpy()
    fourth = ((draws - draws.mean(0)) ** 4).mean(0).numpy()
    error_of_variance = np.sqrt(2 * np.maximum(fourth - spread**4, 0) / 1500) + 1e-12
    assert (np.abs(std**2 - spread**2) < 6 * error_of_variance).all()
    assert not (np.abs(1.3 * std**2 - spread**2) < 6 * error_of_variance).all()


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: e.name)
@pytest.mark.parametrize("memory", [1, 20_000, 300_000])
def test_chunks_do_not_change_the_moments(estimator, memory):
    problem = problems.make("3x5-bernoulli-mlp" if "categorical" in estimator.kinds else "binary6-bernoulli-mlp")
    whole = moments(problem, estimator.at(1.6, 1.3), 45)
    found = moments(problem, estimator.at(1.6, 1.3), 45, memory=memory)
    assert torch.equal(found.count, whole.count)
    torch.testing.assert_close(found.mean, whole.mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.squares, whole.squares, rtol=1e-10, atol=1e-12)


def test_distinct_pairs_give_what_every_draw_decoded_gives():
    problem = problems.make("2x7-bernoulli-conv")
    rows = []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    estimator = estimators.get("decoupled-st-gs", tf=0.5, tb=1.3)
    table = moments(problem, estimator, 300)
    of_table, rows[:] = sum(rows), []
    direct = moments(problem, estimator, 300, memory=5_000)
    assert of_table < 5 * 2**7 + 10 < 300 * 5 < sum(rows)
    torch.testing.assert_close(table.mean, direct.mean, rtol=1e-12, atol=1e-13)


def test_estimators_that_share_points_share_the_decoder_pass():
    problem = problems.make("3x5-bernoulli-mlp")
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    rows = []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    noise = sampling.Noise(CATEGORICAL, logits, 1, 50, 0)
    many = [estimators.get("decoupled-st-gs", tf=1.6, tb=0.1 * k) for k in range(1, 11)]
    sampling.sample_moments(problem.model, problem.x, logits, many[:1], noise)
    one, rows[:] = sum(rows), []
    found = sampling.sample_moments(problem.model, problem.x, logits, many, noise)
    assert sum(rows) == one
    alone = sampling.sample_moments(problem.model, problem.x, logits, many[4:5], noise)[0]
    assert torch.equal(found[4].mean, alone.mean)


def test_centred_accumulation_keeps_small_variances():
    """Mean 100, variance 1e-4: E[g^2] - E[g]^2 in float32 is off by 100 %."""
    values = (100 + 0.01 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))).float()
    found = sampling.BatchMoments(
        torch.zeros(1, dtype=torch.long), torch.zeros(1, 1).double(), torch.zeros(1, 1).double()
    )
    for part in values.split(100):
        found.add(0, part)
    wanted = float(values.double().var())
    assert float(found.squares[0, 0] / 4095) == pytest.approx(wanted, rel=1e-9)
    naive = float((values**2).mean() - values.mean() ** 2)
    assert abs(naive / wanted - 1) > 0.1


def test_batches_are_even_and_cover_all_draws():
    for draws in (2, 31, 32, 33, 1000, 1024):
        sizes = np.diff(sampling.batch_bounds(draws))
        assert sizes.sum() == draws
        assert len(sizes) == min(32, draws)
        assert sizes.max() - sizes.min() <= 1


def test_first_draws_do_not_depend_on_how_many_follow():
    like = torch.zeros(2, 3, 4)
    few, many = (sampling.Noise(CATEGORICAL, like, 1, n, seed=7).of(1, 0, 5) for n in (5, 50))
    assert torch.equal(few, many)
    assert torch.equal(sampling.Noise(CATEGORICAL, like, 1, 50, 7, memory=1).of(1, 0, 5), many)
    assert not torch.equal(sampling.Noise(CATEGORICAL, like, 1, 50, seed=8).of(1, 0, 5), many)


def test_second_noise_array_is_other_noise():
    noise = sampling.Noise(CATEGORICAL, torch.zeros(2, 3, 4), 2, 6, seed=7).of(2, 0, 6)
    assert noise.unique().numel() == noise.numel()


def test_global_random_state_is_untouched():
    problem = problems.make("3x5-bernoulli-mlp", torch.float32)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    gradlab.bias(problem.model, problem.x, draws=4)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()
