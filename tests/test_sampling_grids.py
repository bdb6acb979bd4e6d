"""Grids of temperatures: q once for all tf, derivatives once for all tb, in blocks of any size."""

import dataclasses
import itertools

import pytest
import torch

from gradlab import estimators, sampling
from gradlab.estimators.straight_through import DecoupledSTGS
from gradlab.latents import BINARY, CATEGORICAL, category_indices
from gradlab.sampling import engine, straight_through_moments

from . import problems
from .moments_of_draws import PULLED_BACK, TEMPERATURES, all_blocks, assert_same, decoder_rows, grid_of, moments_of


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "2x7-bernoulli-conv", "3x5-own-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("draws", [45, 64])
def test_a_grid_gives_what_each_estimate_in_turn_gives(name, draws, monkeypatch):
    problem = problems.make(name)
    grid = grid_of(*PULLED_BACK)
    found = moments_of(problem, grid, draws)
    monkeypatch.setattr(engine, "serves", lambda *a: False)
    assert_same(found, moments_of(problem, grid, draws))


@pytest.mark.parametrize("draws", [2, 45, 320])
@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_blocks_do_not_change_the_moments(draws, name, monkeypatch):
    problem = problems.make(name)
    grid = grid_of(*PULLED_BACK, tfs=(0.4, 2.0), tbs=(1.3,))
    whole = moments_of(problem, grid, draws)
    for numbers in (1, 500) if draws == 45 else (40, 5_000):
        monkeypatch.setattr(straight_through_moments, "_IN_CACHE", numbers)
        assert_same(moments_of(problem, grid, draws), whole)


@pytest.mark.parametrize("draws", [2, 31, 45, 64, 128])
@pytest.mark.parametrize("numbers", [1, 30, 400, 10_000, 2**18])
@pytest.mark.parametrize("examples", [1, 7, 100])
def test_blocks_cover_every_draw_and_example_once(draws, numbers, examples, monkeypatch):
    monkeypatch.setattr(straight_through_moments, "_IN_CACHE", numbers)
    bounds = sampling.batch_bounds(draws)
    seen = torch.zeros(draws, examples)
    for block in all_blocks(torch.empty(examples, 3, 4), bounds):
        rows = (block.stop - block.start) * (block.examples.stop - block.examples.start)
        assert rows == 1 or 12 * rows <= numbers
        assert block.before == block.start - bounds[block.batches.start]
        assert block.stop <= bounds[block.batches.stop]
        seen[block.start : block.stop, block.examples] += 1
    assert (seen == 1).all()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(DecoupledSTGS):
    """Keeps the shapes for which its q is computed."""

    name = "counting"
    same_at_every_tf = True
    shapes = []  # noqa: RUF012

    def perturbed(self, kind, logits, noise):
        self.shapes.append((self.tb, noise.shape[1]))
        return super().perturbed(kind, logits, noise)


def test_a_grid_has_each_q_once_and_each_pair_decoded_once():
    problem = problems.make("3x5-bernoulli-mlp")
    rows = decoder_rows(problem)
    moments_of(problem, [Counting(tf=tf, tb=0.1) for tf in TEMPERATURES], 64)
    alone, rows[:], Counting.shapes[:] = sum(rows), [], []
    moments_of(problem, [Counting(tf=tf, tb=tb) for tf in TEMPERATURES for tb in TEMPERATURES], 64)
    assert sum(rows) == alone <= 5 * 3**5 + 10
    assert Counting.shapes == [(tb, 64) for tb in TEMPERATURES]


@pytest.mark.parametrize("at_once", [2, 16])
@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_many_points_at_once_are_each_point(name, at_once, monkeypatch):
    """As on a GPU; of some q more points than go together, of one fewer, and blocks of some examples."""
    problem = problems.make(name)
    grid = [e.at(tf, tb) for e in PULLED_BACK if problem.model.kind.name in e.kinds
            for tf in TEMPERATURES for tb in (0.3, 1.3) if tb > 1 or tf > 1.5]  # fmt: skip
    wanted = moments_of(problem, grid, 70)
    monkeypatch.setattr(straight_through_moments, "_points_at_once", lambda device: at_once)
    for in_cache in (2**18, 50):
        monkeypatch.setattr(straight_through_moments, "_IN_CACHE", in_cache)
        assert_same(moments_of(problem, grid, 70), wanted)


def test_few_points_are_held_at_a_time_if_memory_is_short():
    problem = problems.make("3x5-bernoulli-mlp")
    grid = grid_of(estimators.get("decoupled-st-gs"), tfs=(0.4, 2.0))
    one_q = 2 * 16 * 32 * 5 * 5 * 3  # moments of the points of one tb
    assert len(list(straight_through_moments._parts(grid, one_q // 2, 10 * one_q))) == 1
    parts = list(straight_through_moments._parts(grid, one_q // 2, 2 * one_q))
    assert [len(part) for part in parts] == [2, 1]
    assert sorted(itertools.chain.from_iterable(q for part in parts for q in part)) == list(range(6))
    assert [len(part) for part in straight_through_moments._parts(grid, one_q // 2, one_q)] == [1, 1, 1]
    assert sorted(straight_through_moments._parts(grid, one_q // 2, 1)) == [[[position]] for position in range(6)]
    assert_same(moments_of(problem, grid, 64, memory=3 * one_q), moments_of(problem, grid, 64))
    assert_same(moments_of(problem, grid, 64, memory=1), moments_of(problem, grid, 64))


@pytest.mark.parametrize("estimator", PULLED_BACK, ids=lambda e: e.label)
@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda k: k.name)
def test_pull_back_keeps_its_promise(estimator, kind):
    """estimate = scale J(q) v(z), with q a function of noise and all parameters but tf."""
    generator = torch.Generator().manual_seed(5)
    shape = (4, 3, 5) if kind is CATEGORICAL else (4, 3)
    logits, v = (torch.randn(*n, *shape, generator=generator, dtype=torch.float64) for n in ((), (1, 7)))
    g = kind.noise((estimator.noise_arrays, 7, *shape), dtype=torch.float64, generator=generator)
    e = estimator.at(0.7, 1.6)
    points = e.points(kind, logits, g)
    assert len(points) == 1
    promise = e.pull_back
    a = promise.perturbed(kind, logits, g)
    pulled = promise.scale * kind.pull(kind.jacobian(a), kind.centred(v[0], logits))
    torch.testing.assert_close(e.estimate(kind, logits, g, points, None, v), pulled, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(promise.scale * kind.pullback(kind.soft(a), v[0]), pulled, rtol=1e-12, atol=1e-15)
    hotter, other = e.at(2.0, 1.6), e.at(0.7, 1.7)
    assert e.relaxation_key == hotter.relaxation_key != other.relaxation_key
    assert torch.equal(a, hotter.pull_back.perturbed(kind, logits, g))


def test_the_straight_through_family_is_served():
    assert {e.name for e in PULLED_BACK} == {"ste", "ste-argmax", "st-gs", "decoupled-st-gs"}
    others = [e for e in PULLED_BACK if e.name != "ste-argmax"]  # whose q is that of ste
    by_q = {e.at(0.7, 1.6).relaxation_key: e.name for e in others}
    assert len(by_q) == len(PULLED_BACK) - 1 == 4


def test_a_subclass_with_an_estimate_of_its_own_is_taken_at_its_word():
    class Doubled(DecoupledSTGS):
        name = "doubled"

        def estimate(self, *given):
            return 2 * super().estimate(*given)

    problem = problems.make("3x5-bernoulli-mlp")
    plain, doubled = moments_of(problem, [DecoupledSTGS(tf=0.7, tb=1.3), Doubled(tf=0.7, tb=1.3)], 40)
    torch.testing.assert_close(doubled.mean, 2 * plain.mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda k: k.name)
def test_shortcuts_of_the_latents(kind):
    """On categories that are not the last dimension, and with ties, of which the first wins."""
    generator = torch.Generator().manual_seed(5)
    a, v = torch.randint(-2, 3, (2, 50, 6, 4), generator=generator).double()
    assert torch.equal(kind.indices(a), category_indices(kind, kind.hard(a)))
    q = kind.jacobian(a)
    v = kind.centred(v, a)
    wanted = kind.pullback_at(a, v)
    if kind is BINARY:
        q, v, wanted = (b.flatten(1)[:, None] for b in (q, v, wanted))
    else:
        q, v, wanted = (b.transpose(1, 2).contiguous()[:, :, None] for b in (q, v, wanted))
    found = kind.pull_into(v.new_empty(2, *v.shape), q, torch.stack([v, -v]))  # two of one q
    torch.testing.assert_close(found, torch.stack([wanted, -wanted]), rtol=1e-12, atol=1e-15)
