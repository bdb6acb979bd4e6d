"""A made-up population of examples with known figures, and how often intervals from samples of it hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gradlab.metrics import Norms, Products, over_examples, registry, routes
from gradlab.statistics.coordinates import norms, norms_by_example
from gradlab.statistics.jackknife import means_without_each, variances_without_each

COORDINATES, BATCHES = 3, 16
NAMES = ("relative_bias_debiased", "relative_std", "cosine_debiased", "matched_bias_debiased", "matched_scale_debiased")
METRICS = {name: registry.get(name) for name in NAMES}


class Population(NamedTuple):
    """Of each example: exact gradient and bias (example, coordinate), and the spread of an estimate (example,)."""

    exact: np.ndarray
    bias: np.ndarray
    spread: np.ndarray


def made_up(examples: int = 2**16) -> Population:
    """Norms are log-normal, so that a tenth of the examples carries more than a third of the sum of squares; the
    relative bias goes with the norm."""
    generator = np.random.default_rng(5)
    size = np.exp(0.3 * generator.standard_normal(examples))
    direction = generator.standard_normal((examples, COORDINATES)) + np.array([1.0, -0.5, 0.2])
    exact = size[:, None] * direction
    bias = exact * (0.2 + 0.3 * generator.random((examples, 1)) + 0.1 * np.minimum(size, 2)[:, None])
    bias += 0.3 * size[:, None] * generator.standard_normal((examples, COORDINATES))
    return Population(exact, bias, size * (1 + generator.random(examples)))


def truth(of: Population) -> dict[str, float]:
    """The figures of the population itself."""
    g, m = of.exact.ravel(), (of.exact + of.bias).ravel()
    variance = COORDINATES * np.square(of.spread).sum()
    products = Products(Norms(*norms(g, m)), variance, np.inf)
    return {name: float(value) for name, value in routes.values(METRICS, products).items()}


def intervals(of: Population, examples: int, draws: int, seed: int) -> Iterator[tuple[str, str, float, float]]:
    """(figure, over draws or over examples, low, high) of a sample of the population, its estimates drawn."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(of.exact), size=examples)
    exact, bias, spread = (part[chosen] for part in of)
    count = np.full(BATCHES, draws / BATCHES)
    noise = generator.standard_normal((BATCHES, examples, COORDINATES)) / np.sqrt(count[0])
    batch_mean = (exact + bias + spread[:, None] * noise).reshape(BATCHES, -1)
    within = np.repeat(np.square(spread), COORDINATES) * generator.chisquare(count[0] - 1, batch_mean.shape)
    means = means_without_each(count, batch_mean)
    squared_off = np.square(batch_mean - means[0])
    n, variances = variances_without_each(count, within.sum(-1, keepdims=True), squared_off.sum(-1, keepdims=True))
    g = exact.ravel()
    for metric, _, low, high in routes.measured(METRICS, Norms(*norms(g, means)), variances[:, 0], n):
        yield metric.name, "draws", float(low), float(high)
    by_example = (within + count[:, None] * squared_off).sum(0).reshape(examples, -1).sum(-1) / (draws - 1)
    of_examples = Norms(*norms_by_example(g, means[0], examples))
    for name, over in over_examples.of_products(METRICS, of_examples, by_example, draws):
        yield name, "examples", float(over.low), float(over.high)


def coverage(examples: int, draws: int, repetitions: int) -> dict[tuple[str, str], float]:
    """Share of samples whose interval holds the population's figure."""
    of = made_up()
    wanted = truth(of)
    held: dict[tuple[str, str], int] = {}
    for seed in range(repetitions):
        for name, over, low, high in intervals(of, examples, draws, seed):
            held[over, name] = held.get((over, name), 0) + (low <= wanted[name] <= high)
    return {at: count / repetitions for at, count in held.items()}
