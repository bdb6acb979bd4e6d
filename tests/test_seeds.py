"""What a seed stands for: torch's generator on a CPU keeps 32 bits of it."""

import pytest
import torch

from gradlab import estimators, latents, networks
from gradlab.estimators import conformance

LOW = 2**32 - 1
CONFIG = {"latents": 2, "categories": 3, "hidden": [4], "image_shape": [1, 4, 4]}


def first_numbers(seed):
    return torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()


def test_the_cpu_s_generator_keeps_32_bits():
    """If this fails, torch keeps more, and what is said of collisions (latents.derived_seed, docs/start.md) is out."""
    assert first_numbers(5) == first_numbers(5 + 2**32) == first_numbers(5 + 2**62)
    assert first_numbers(5) != first_numbers(6)


def test_draws_share_their_noise_as_rarely_as_is_said():
    """n²/2^33 pairs of n: 2 of 131,072, so 8 in four runs; a Poisson count is outside 1 to 18 once in 1,300 times."""
    pairs = 0
    for seed in range(4):
        low = [latents.derived_seed(seed, "draw", draw, 0) & LOW for draw in range(2**17)]
        pairs += len(low) - len(set(low))
    assert 1 <= pairs <= 18


def test_places_have_seeds_of_their_own():
    places = [(0, "draw", 1, 0), (0, "draw", 0, 1), (0, "draw", 10), (0, "noise", 1), (1, "draw", 1, 0)]
    assert len({latents.derived_seed(*place) for place in places}) == len(places)


@pytest.mark.parametrize("seed", [2**32, 2**32 + 7, 2**63 - 1])
def test_seeds_beyond_32_bits_are_not_those_that_they_end_in(seed):
    low = seed & LOW
    assert first_numbers(latents.generator_seed(seed)) != first_numbers(low)

    def weights(seed):
        return next(networks.build("categorical-vae", CONFIG, seed=seed).parameters())

    assert not torch.equal(weights(seed), weights(low))
    problem, rloo = conformance.PROBLEMS[next(iter(conformance.PROBLEMS))], estimators.get("rloo")

    def estimates(seed):
        return next(conformance.estimates_of(rloo, problem, 3, seed))

    assert not torch.equal(estimates(seed), estimates(low))


@pytest.mark.parametrize("seed", [0, 1, LOW])
def test_seeds_of_32_bits_are_taken_as_they_are(seed):
    assert latents.generator_seed(seed) == seed
