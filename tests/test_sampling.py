"""Monte Carlo moments against plain autograd loops, and their independence of how they are computed."""

import dataclasses
import itertools
import math
import random
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import derivatives, estimators, hashing, latents, parallel, sampling, stacks
from gradlab.estimators.straight_through import DecoupledSTGS
from gradlab.latents import BINARY, CATEGORICAL, category_indices
from gradlab.sampling import engine, straight_through_moments, unique_evaluations

from . import oracles, problems

ALL = [e for name in estimators.names() for e in [estimators.get(name)]]
PULLED_BACK = [e for e in [*ALL, estimators.get("st-gs", convention="jang")] if e.pull_back is not None]
TEMPERATURES = (0.4, 1.3, 2.0)
STACK_ROUTES = [("auto", sampling.MEMORY), ("pairs", sampling.MEMORY), ("table", sampling.MEMORY), ("table", 120_000)]


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


# --- grids: q once for all tf, derivatives once for all tb ---


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "2x7-bernoulli-conv", "3x5-own-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("draws", [45, 64])
def test_a_grid_gives_what_each_estimate_in_turn_gives(name, draws, monkeypatch):
    problem = problems.make(name)
    grid = grid_of(*PULLED_BACK)
    found = moments_of(problem, grid, draws)
    monkeypatch.setattr(engine, "serves", lambda *a: False)
    assert_same(found, moments_of(problem, grid, draws))


def test_what_is_measured_together_does_not_matter():
    problem = problems.make("3x5-bernoulli-mlp")
    several = [e.at(1.6, 1.3) for e in ALL if "categorical" in e.kinds] + grid_of(*PULLED_BACK, tfs=(0.7,))
    together = moments_of(problem, several, 33)
    assert_same(together, [moments(problem, e, 33) for e in several])


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
    assert [len(part) for part in straight_through_moments._parts(grid, one_q // 2, 1)] == [1, 1, 1]
    assert_same(moments_of(problem, grid, 64, memory=3 * one_q), moments_of(problem, grid, 64))


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


# --- threads ---


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_pieces_are_worked_on_side_by_side_and_given_in_order(two_threads):
    meet = threading.Barrier(2, timeout=300)

    def work(piece):
        assert torch.get_num_threads() == 1
        meet.wait()  # breaks unless another thread is at it too
        return piece

    assert list(parallel.each(work, range(6), torch.device("cpu"))) == list(range(6))
    assert torch.get_num_threads() == 2


def test_what_a_piece_raises_is_raised_and_the_rest_is_left(two_threads):
    done = []

    def work(piece):
        done.append(piece)
        if piece == 1:
            raise ValueError("of piece 1")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="of piece 1"):
        list(parallel.each(work, range(1000), torch.device("cpu")))
    assert torch.get_num_threads() == 2
    assert len(done) < 1000


def test_numbers_do_not_depend_on_the_threads(two_threads, monkeypatch):
    problem = problems.make("3x5-bernoulli-mlp")
    monkeypatch.setattr(straight_through_moments, "_IN_CACHE", 100)
    monkeypatch.setattr(stacks, "_BLOCK", 20_000)
    grid = grid_of(estimators.get("decoupled-st-gs"))
    with_two = moments_of(problem, grid, 300)
    torch.set_num_threads(1)
    for one, other in zip(with_two, moments_of(problem, grid, 300), strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.squares, other.squares)


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY])
def test_noise_does_not_depend_on_the_threads(kind, two_threads, monkeypatch):
    like = torch.zeros(3, 4, 5)
    whole = sampling.Noise(kind, like, 2, 40, 7).kept
    threads = set()
    own = latents.derived_seed
    monkeypatch.setattr(sampling.noise, "derived_seed", lambda *of: threads.add(threading.get_ident()) or own(*of))
    monkeypatch.setattr(sampling.noise, "_PIECE", 500)
    assert torch.equal(sampling.Noise(kind, like, 2, 40, 7).kept, whole)
    assert threading.get_ident() not in threads
    assert torch.get_num_threads() == 2


def test_splitmix64_is_the_published_one():
    """The first numbers of its reference implementation at seed 1234567."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = hashing.splitmix64(1234567, torch.arange(5)).tolist()
    assert [n % 2**64 for n in found] == wanted


def test_hashed_exponentials_have_the_law_and_neighbours_nothing_in_common():
    """4 statistics of 2^18 numbers, each within 5 standard errors: by chance not so with probability 2e-6."""
    n = 2**18
    for key in (0, 2**63 - 1):
        e = hashing.exponentials(key, torch.arange(n))
        assert float(e.min()) > 0
        for value, mean, variance in (
            (e, 1, 1),
            ((e - 1) ** 2, 1, 8),  # the fourth central moment of Exp(1) is 9
            ((e > 5).double(), math.exp(-5), math.exp(-5)),
            ((e[:-1] - 1) * (e[1:] - 1), 0, 1),
        ):
            assert abs(float(value.mean()) - mean) < 5 * math.sqrt(variance / n)


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda k: k.name)
def test_hashed_noise_does_not_depend_on_how_it_is_cut(kind, monkeypatch):
    """As on a GPU: any draws, in any number, with other arrays beside them; other seeds give other numbers."""
    monkeypatch.setattr(sampling.Noise, "_draw_by_draw", sampling.Noise._hashed)
    like = torch.zeros(2, 3, 4) if kind is CATEGORICAL else torch.zeros(2, 3)
    whole = sampling.Noise(kind, like, 2, 50, seed=7).of(2, 0, 50)
    assert len(whole.unique()) == whole.numel()
    assert torch.equal(sampling.Noise(kind, like, 1, 50, 7, memory=1).of(1, 3, 40, 4), whole[:1, 3:40:4])
    monkeypatch.setattr(sampling.noise, "_HASHED", 100)
    assert torch.equal(sampling.Noise(kind, like, 2, 50, 7).kept, whole)
    assert not torch.isin(sampling.Noise(kind, like, 2, 50, 8).kept, whole).any()


def test_noise_that_is_not_kept_is_made_once_per_part(monkeypatch):
    problem = problems.make("3x5-bernoulli-mlp")
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    made = []
    make = sampling.Noise._make
    monkeypatch.setattr(
        sampling.Noise, "_make", lambda self, arrays, draws: made.append(len(draws)) or make(self, arrays, draws)
    )
    monkeypatch.setattr(straight_through_moments, "_IN_CACHE", 50)  # several blocks of examples for each batch
    noise = sampling.Noise(problem.model.kind, logits, 1, 320, 0, memory=1)
    grid = grid_of(estimators.get("decoupled-st-gs"), tfs=(0.7,))
    sampling.sample_moments(problems.setup_of(problem.model, problem.x, logits), grid, noise)
    assert sum(made) == 2 * 320  # for the codes, and for q


# --- the decoder's part has three routes ---


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp", "2x7-bernoulli-conv"])
def test_all_routes_give_the_same_numbers(name):
    problem = problems.make(name)
    grid = grid_of(*(estimators.get(n) for n in ("decoupled-st-gs", "reinmax", "rloo")), tbs=(1.3,))
    draws = moments_of(problem, grid, 64, decoder="draws")
    for route in ("table", "pairs", "auto"):
        assert_same(moments_of(problem, grid, 64, decoder=route), draws)
    assert_same(moments_of(problem, grid, 64, decoder="table", memory=120_000), draws)  # block by block


@pytest.fixture
def no_stacks(monkeypatch):
    """Decoders are differentiated as any other, not layer by layer."""
    monkeypatch.setattr(derivatives.Stack, "of", lambda *given: None)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_stacks_give_the_same_numbers_as_any_other_decoder(name, monkeypatch):
    problem = problems.make(name)
    grid = grid_of(*(estimators.get(n) for n in ("decoupled-st-gs", "reinmax", "rloo")), tbs=(1.3,))
    layer_by_layer = [moments_of(problem, grid, 64, decoder=route, memory=m) for route, m in STACK_ROUTES]
    monkeypatch.setattr(derivatives.Stack, "of", lambda *given: None)
    for (route, memory), found in zip(STACK_ROUTES, layer_by_layer, strict=True):
        assert_same(found, moments_of(problem, grid, 64, decoder=route, memory=memory))


def test_the_cost_model_counts_operations(no_stacks):
    problem = problems.make("3x5-bernoulli-mlp")
    layers = [m for m in problem.model.decoder.modules() if isinstance(m, torch.nn.Linear)]
    decoder = sum(2 * m.in_features * m.out_features for m in layers)
    table = derivatives.ByConfiguration(problem.model, problem.x)
    assert table.decoder == decoder
    assert table.operations == 16 * decoder + 2 * 15 * 16 * 5  # 15 inputs, 16 pixels, 5 images
    even = table.operations / (2 * decoder)
    assert table.pays(1.01 * even)
    assert not table.pays(0.99 * even)


@pytest.mark.parametrize(("images", "route"), [(5, "at_pairs"), (120, "by_jacobians")])
def test_the_cheaper_way_through_a_stack_is_taken(images, route, monkeypatch):
    problem = problems.make("8x4-bernoulli-mlp")
    problem.model.decoder[1] = nn.Sequential(nn.Linear(32, 100), nn.Tanh(), nn.Linear(100, 12)).double()
    x = torch.rand(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    taken = []
    for name in ("at_pairs", "by_jacobians"):
        plain = getattr(derivatives.Stack, name)
        monkeypatch.setattr(derivatives.Stack, name, lambda *a, n=name, f=plain: taken.append(n) or f(*a))
    moments(problems.Problem(problem.name, problem.model, x), estimators.get("decoupled-st-gs", tf=5.0), 4000)
    assert set(taken) == {route}


@pytest.mark.parametrize(("images", "route"), [(5, "pairs"), (120, "table")])
def test_the_cheaper_route_is_taken(images, route, no_stacks, monkeypatch):
    problem = problems.make("3x5-bernoulli-mlp")
    x = torch.rand(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    problem = problems.Problem(problem.name, problem.model, x)
    taken = []
    for name in ("pairs", "table"):
        methods = {
            "pairs": (unique_evaluations, "at_points"),
            "table": (unique_evaluations.ByConfiguration, "derivatives"),
        }
        owner, method = methods[name]
        plain = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *a, n=name, f=plain: taken.append(n) or f(*a))
    moments(problem, estimators.get("decoupled-st-gs", tf=5.0), 400)
    assert set(taken) == {route}


def test_a_route_that_is_not_possible_is_refused():
    problem = problems.make("3x5-bernoulli-mlp")
    estimator = [estimators.get("decoupled-st-gs")]
    with pytest.raises(ValueError, match=r"decoder: expected 0.00366 MiB of memory for 'pairs', .* got 0.000977 MiB"):
        moments_of(problem, estimator, 64, memory=2**10, decoder="pairs")
    problem.model._likelihood = lambda o, x: (o.flatten(1) - x.flatten(1)).square().sum(1)
    with pytest.raises(ValueError, match="decoder: expected for 'table' a bernoulli or gaussian likelihood"):
        moments_of(problem, estimator, 64, decoder="table")
    with pytest.raises(ValueError, match="decoder: unknown name 'tables'; did you mean table"):
        gradlab.bias(problem.model, problem.x, moments=gradlab.MonteCarlo(decoder="tables"))


# --- each distinct pair of image and code is evaluated once ---


def test_distinct_pairs_give_what_every_draw_decoded_gives():
    problem = problems.make("2x7-bernoulli-conv")
    rows = decoder_rows(problem)
    estimator = estimators.get("decoupled-st-gs", tf=0.5, tb=1.3)
    table = moments(problem, estimator, 300)
    of_table, rows[:] = sum(rows), []
    direct = moments(problem, estimator, 300, memory=5_000)
    assert of_table < 5 * 2**7 + 10 < 300 * 5 < sum(rows)
    torch.testing.assert_close(table.mean, direct.mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_pairs_are_ranked_with_and_without_sorting(name):
    problem = problems.make(name)
    drawn = unique_evaluations.DrawnPairs(problem.model, problem.x)
    indices = torch.randint(problem.model.categories, (2, 9, 5, problem.model.latents))
    keys = drawn.keys(indices)
    for memory in (sampling.MEMORY, 1):
        ranks = drawn.rank([keys[:1], keys[1:]], memory)
        assert torch.equal(drawn.pairs, keys.unique())
        assert torch.equal(drawn.pairs[torch.cat(ranks).long()], keys)
    drawn.evaluate(sampling.MEMORY, True)
    codes = latents.codes_at(indices, problem.model.categories, problem.model.binary, problem.x.dtype)
    assert torch.equal(drawn.keys_of(codes), keys)
    loss, derivative = derivatives.at_all_points(problem.model, problem.x, codes, sampling.MEMORY)
    ranks = torch.cat(ranks)
    torch.testing.assert_close(drawn.losses(ranks), loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(drawn.derivatives(ranks), derivative, rtol=1e-12, atol=1e-13)


def test_estimators_that_share_points_share_the_decoder_pass():
    problem = problems.make("3x5-bernoulli-mlp")
    rows = decoder_rows(problem)
    many = [estimators.get("decoupled-st-gs", tf=1.6, tb=0.1 * k) for k in range(1, 11)]
    moments_of(problem, many[:1], 50)
    one, rows[:] = sum(rows), []
    found = moments_of(problem, [*many, estimators.get("zgr", tf=1.6)], 50)
    assert sum(rows) == one
    alone = moments(problem, many[4], 50)
    assert torch.equal(found[4].mean, alone.mean)


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
