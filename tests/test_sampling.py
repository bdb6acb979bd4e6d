"""Monte Carlo moments against plain autograd loops, and their accumulation."""

import random

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, sampling
from gradlab.latents import CATEGORICAL
from gradlab.sampling import engine, straight_through_moments

from . import oracles, problems
from .moments_of_draws import ALL, PULLED_BACK, all_blocks, assert_same, decoder_rows, grid_of, moments, moments_of


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
def test_chunks_do_not_change_the_moments(estimator):
    problem = problems.make("3x5-bernoulli-mlp" if "categorical" in estimator.kinds else "binary6-bernoulli-mlp")
    whole = moments(problem, estimator.at(1.6, 1.3), 45)
    for memory in (1, 20_000, 300_000):
        assert_same([moments(problem, estimator.at(1.6, 1.3), 45, memory=memory)], [whole])


def test_what_is_measured_together_does_not_matter():
    problem = problems.make("3x5-bernoulli-mlp")
    several = [e.at(1.6, 1.3) for e in ALL if "categorical" in e.kinds] + grid_of(*PULLED_BACK, tfs=(0.7,))
    together = moments_of(problem, several, 33)
    assert_same(together, [moments(problem, e, 33) for e in several])


def test_each_moments_come_with_their_positions():
    problem = problems.make("3x5-bernoulli-mlp")
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    several = [e.at(tf, 1.3) for tf in (0.4, 2.0) for e in ALL if "categorical" in e.kinds]
    noise = sampling.Noise(CATEGORICAL, logits, max(e.noise_arrays for e in several), 8, 0)
    found = {}
    for positions, of in sampling.each_moments(problems.setup_of(problem.model, problem.x, logits), several, noise):
        assert len(of.mean) == len(positions)
        for p, mean, squares in zip(positions, of.mean, of.squares, strict=True):
            found[p] = sampling.BatchMoments(of.count, mean, squares)
    wanted = [moments(problem, e, 8) for e in several]
    assert sorted(found) == list(range(len(several)))
    assert_same([found[i] for i in range(len(several))], wanted)


@pytest.mark.parametrize("memory", [30_000, sampling.MEMORY])
def test_progress_adds_up(memory):
    problem = problems.make("3x5-bernoulli-mlp")
    names = ["decoupled-st-gs", "ste", "rloo:n=3", "exact", "rebar", "gumbel-softmax", "reinmax", "reinforce"]
    several = grid_of(*map(estimators.parse, names), tfs=(0.4, 2.0), tbs=(0.5, 1.3))
    steps = []
    moments_of(problem, several, 45, memory=memory, advance=steps.append)
    assert sum(steps) == 45 * len(sampling.by_points(several))


def test_single_precision_is_that_of_the_estimates():
    wide, narrow = (problems.make("8x4-bernoulli-mlp", t) for t in (torch.float64, torch.float32))
    with torch.no_grad():
        logits = narrow.model.logits(narrow.x)
    noise = sampling.Noise(CATEGORICAL, logits, 1, 320, 0)
    grid = grid_of(estimators.get("decoupled-st-gs"))
    found = sampling.sample_moments(problems.setup_of(narrow.model, narrow.x, logits), grid, noise)
    noise.kept = noise.kept.double()
    wanted = sampling.sample_moments(
        problems.setup_of(wide.model.double(), narrow.x.double(), logits.double()), grid, noise
    )
    for one, other in zip(found, wanted, strict=True):
        assert one.mean.dtype == one.squares.dtype == torch.float64
        for a, b in zip(pooled(one), pooled(other), strict=True):
            assert oracles.relative_error(torch.tensor(a), torch.tensor(b)) < 2e-6


@pytest.mark.parametrize("draws", [2, 31, 45, 64, 320])
@pytest.mark.parametrize("bytes_each", [1, 2**15, 2**17, 2**21])
@pytest.mark.parametrize("memory", [1, 2**18, 2**28])
def test_draws_are_evaluated_once_in_order_and_in_bounded_memory(draws, bytes_each, memory):
    """Small batches together, large ones in chunks."""
    bounds, done = sampling.batch_bounds(draws), 0
    for parts in engine._pieces(bounds, bytes_each, memory):
        at_once = parts[-1][2] - parts[0][1]
        assert at_once == 1 or at_once * bytes_each <= memory
        assert len(parts) == 1 or at_once * bytes_each <= engine._SMALL
        for batch, start, stop in parts:
            assert start == done < stop
            assert bounds[batch] <= start < stop <= bounds[batch + 1]
            done = stop
    assert done == draws


def test_small_batches_are_decoded_together():
    problem = problems.make("3x5-bernoulli-mlp")
    rows = decoder_rows(problem)
    moments_of(problem, [estimators.get("reinmax")], 64, decoder="draws")
    assert rows.count(64 * len(problem.x)) == 1
    assert sum(rows) < 2 * 64 * len(problem.x)


# --- accumulation ---


def test_centred_accumulation_of_a_block_keeps_small_variances():
    """As the next, but in float32: a block's mean is off by some 3e-5, which adds 1e-5 of the variance to it."""
    values = (100 + 0.01 * torch.randn(1024, 1, generator=torch.Generator().manual_seed(0))).float()
    bounds = sampling.batch_bounds(1024)
    like = torch.empty(1, 1, 1)
    sums = straight_through_moments._Sums(CATEGORICAL, like, bounds, 1)
    for block in all_blocks(like, bounds):
        sums.add(0, block, block.arrange(CATEGORICAL, values[None, block.start : block.stop, None, None].clone()))
    of = sums.scaled([1.0])
    mean, std = pooled(sampling.BatchMoments(of.count, of.mean[0], of.squares[0]))
    wide = values.double()
    assert float(mean.squeeze()) == pytest.approx(float(wide.mean()), rel=1e-7)
    assert float(std.squeeze()) == pytest.approx(float(wide.std()), rel=2e-5)


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


def test_global_random_state_is_untouched():
    problem = problems.make("3x5-bernoulli-mlp", torch.float32)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    gradlab.bias(problem.model, problem.x, draws=4)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


def test_squares_of_small_examples_are_kept_beside_large_ones():
    """Two draws of +-1e8 and +-1e-15 in single precision, by one call and by one call for each draw."""
    sizes = torch.tensor([1e8, 1e-15])
    estimates = torch.tensor([1.0, -1.0])[:, None] * sizes
    for calls in (1, 2):
        sums = sampling.Sums.empty(torch.zeros(2, 1, 1), 1)
        for before, some in enumerate(estimates.reshape(2, 2, 1, 1).chunk(calls)):
            sums.add(0, before, some, slice(0, 2))
        torch.testing.assert_close(sums.squares[0], 2 * sizes.double().square(), rtol=1e-6, atol=0)
