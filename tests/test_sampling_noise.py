"""Noise of draws, whatever the threads, the device and the cut; pieces that are worked on side by side."""

import math
import threading
import time

import pytest
import torch

from gradlab import estimators, hashing, latents, parallel, sampling, stacks
from gradlab.latents import BINARY, CATEGORICAL
from gradlab.sampling import straight_through_moments

from . import problems
from .moments_of_draws import grid_of, moments_of


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


def test_first_draws_do_not_depend_on_how_many_follow():
    like = torch.zeros(2, 3, 4)
    few, many = (sampling.Noise(CATEGORICAL, like, 1, n, seed=7).of(1, 0, 5) for n in (5, 50))
    assert torch.equal(few, many)
    assert torch.equal(sampling.Noise(CATEGORICAL, like, 1, 50, 7, memory=1).of(1, 0, 5), many)
    assert not torch.equal(sampling.Noise(CATEGORICAL, like, 1, 50, seed=8).of(1, 0, 5), many)


def test_second_noise_array_is_other_noise():
    noise = sampling.Noise(CATEGORICAL, torch.zeros(2, 3, 4), 2, 6, seed=7).of(2, 0, 6)
    assert noise.unique().numel() == noise.numel()
