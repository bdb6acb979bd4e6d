"""What tests of Monte Carlo moments share: estimators, measured moments and their comparison."""

import torch

from gradlab import estimators, sampling
from gradlab.sampling import straight_through_moments

from . import problems

ALL = [e for name in estimators.names() for e in [estimators.get(name)]]
PULLED_BACK = [e for e in [*ALL, estimators.get("st-gs", convention="jang")] if e.pull_back is not None]
TEMPERATURES = (0.4, 1.3, 2.0)


def moments(problem, estimator, draws, seed=0, memory=sampling.MEMORY):
    return moments_of(problem, [estimator], draws, seed, memory)[0]


def moments_of(problem, several, draws, seed=0, memory=sampling.MEMORY, **options):
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = sampling.Noise(problem.model.kind, logits, max(e.noise_arrays for e in several), draws, seed, memory)
    return sampling.sample_moments(
        problems.setup_of(problem.model, problem.x, logits, memory=memory), several, noise, **options
    )


def all_blocks(logits, bounds):
    for batches in straight_through_moments._batches_at_once(logits, bounds, sampling.MEMORY):
        for start, stop, blocks in straight_through_moments._blocks(logits, bounds, batches, sampling.MEMORY):
            for block in blocks:
                assert (block.start, block.stop) == (start, stop)
                yield block


def grid_of(*several, tfs=TEMPERATURES, tbs=TEMPERATURES):
    return [e.at(tf, tb) for e in several for tf in tfs for tb in tbs]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.count, other.count)
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(one.squares, other.squares, rtol=1e-10, atol=1e-12)


def decoder_rows(problem):
    rows = []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    return rows
