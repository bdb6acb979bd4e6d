"""Draws of candidates -> what they say of each: `Observed`.

One way for both references: e_b and r_b are means of batches b of draws, of the estimate and of an unbiased reference
or, where the code space can be enumerated, of the exact gradient itself. Products of different batches have no noise of
sampling: <m, g> is the mean of <e_b, r_c> over b != c.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import progress
from ..estimators import Estimator, is_built_in
from ..exact import exact_gradients
from ..latents import derived_seed
from ..sampling import Noise, PairedDraws, each_moments
from ..setup import Setup
from ..statistics.u_statistics import u_statistics
from .errors_of_averages import Array, Observed

BATCHES = 16  # of draws
LEAST_DRAWS = 2 * BATCHES
LEAST_EXAMPLES = 8  # for a variance over examples
SUMS = 8  # times the working memory, for sums of a sampled reference


@dataclass(frozen=True)
class Reference:
    """What estimates are compared with: the exact gradient of a law, or an unbiased estimator of it."""

    tf: float
    target: str
    exact: Tensor | None  # (example, latent[, category]), float64
    estimator: Estimator | None = None

    @property
    def label(self) -> str:
        return "exact" if self.estimator is None else self.estimator.label

    def is_of(self, e: Estimator) -> bool:
        """Whether an estimator's expectation is this gradient, by its formula. Those from outside are measured."""
        law = e.tf if self.target == "sampled" else 1.0
        return e.unbiased and is_built_in(e) and e.tf == law


def exact_reference(setup: Setup, tf: float, target: str) -> Reference:
    return Reference(tf, target, exact_gradients(setup, [(tf, target)])[0])


def measured(
    setup: Setup,
    chosen: Sequence[Estimator],
    reference: Reference,
    draws: int,
    name: str,
    advance: progress.Advance,
) -> list[Observed]:
    """Each estimator from `draws` draws, a multiple of BATCHES; rounds of other names have noise of their own."""
    seed = derived_seed(setup.seed, "recommend", name)
    found: dict[int, Observed] = {}
    of = _enumerated if reference.exact is not None else _sampled
    for position, one in of(setup, chosen, reference, draws, seed, advance):
        found[position] = one
    return [found[position] for position in range(len(chosen))]


def _enumerated(
    setup: Setup, chosen: Sequence[Estimator], reference: Reference, draws: int, seed: int, advance: progress.Advance
) -> Iterator[tuple[int, Observed]]:
    assert reference.exact is not None
    arrays = max(e.noise_arrays for e in chosen)
    noise = Noise(setup.kind, setup.logits, arrays, draws, seed, setup.memory)
    g = reference.exact.flatten(1).expand(BATCHES, -1, -1)
    for positions, moments in each_moments(setup, chosen, noise, advance=advance):
        for k, position in enumerate(positions):
            e = _in_batches(moments.mean[k], moments.count)
            within = _in_batches(moments.squares[k].flatten(2).sum(-1), moments.count, mean=False)
            between = moments.mean[k].unflatten(0, (BATCHES, -1))
            each = moments.count.reshape(BATCHES, -1, *[1] * (between.ndim - 2)).to(between)
            off = (each * (between - e[:, None]).square()).flatten(3).sum((1, 3))
            cost = chosen[position].evaluations_at(setup.kind, setup.logits)
            unbiased = reference.is_of(chosen[position])
            yield position, observed(e, g, within + off, draws, cost, unbiased)


def _in_batches(of: Tensor, count: Tensor, mean: bool = True) -> Tensor:
    """(batch, ...) of more batches of draws, of equal size, joined to BATCHES: their mean or sum."""
    joined = of.unflatten(0, (BATCHES, -1))
    return joined.mean(1) if mean else joined.sum(1)


def _sampled(
    setup: Setup, chosen: Sequence[Estimator], reference: Reference, draws: int, seed: int, advance: progress.Advance
) -> Iterator[tuple[int, Observed]]:
    assert reference.estimator is not None
    law = reference.tf if reference.target == "sampled" else 1.0
    unbiased = reference.estimator.at(law, law)
    at_once = max(1, SUMS * setup.memory // (8 * BATCHES * setup.logits.numel()))
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        every = list(dict.fromkeys([*some, unbiased]))
        drawn = PairedDraws(dataclasses.replace(setup, seed=seed), every, BATCHES)
        drawn.add(draws // BATCHES, advance)
        sums = dict(zip(every, drawn.sums, strict=True))
        r = sums[unbiased].mean.flatten(2)
        for position, e in enumerate(some, start):
            mean, squares = sums[e].mean.flatten(2), sums[e].squares
            cost = e.evaluations_at(setup.kind, setup.logits)
            yield position, observed(mean, r, squares, draws, cost, reference.is_of(e))


def observed(e: Tensor, r: Tensor, squares: Tensor, draws: int, evaluations: int, unbiased: bool) -> Observed:
    """From means (batch, example, coordinate) and squared deviations (batch, example) from them.

    `evaluations` of a draw; `unbiased` by its formula, for the law of the reference.
    """
    e = e.flatten(2)
    variance = squares / (draws // BATCHES - 1)  # (batch, example), each unbiased
    per_example = torch.stack([_across(r, r), _across(e, r), _across(e, e), variance.mean(0)], -1)
    kernels = torch.stack([torch.einsum("bed,ced->bc", *pair) for pair in ((r, r), (e, r), (e, e))])
    of_draws = u_statistics(((kernels + kernels.mT) / 2)[:, None].cpu().numpy())
    noise = float((of_draws.linear + of_draws.quadratic).sum(0)[1, 1])
    total = per_example.sum(0).cpu().numpy()
    if len(per_example) >= LEAST_EXAMPLES:
        influence = _of_examples(per_example.cpu().numpy())
    else:
        influence = _of_batches(of_draws.without, variance.sum(1).cpu().numpy())
    return Observed(total, max(noise, 0.0), influence, evaluations, unbiased)


def _across(a: Tensor, b: Tensor) -> Tensor:
    """(example,): mean of <a_b, b_c> over pairs of different batches."""
    batches = len(a)
    everything = (a.sum(0) * b.sum(0)).sum(-1) - (a * b).sum((0, 2))
    return everything / (batches * (batches - 1))


def _of_examples(per_example: Array) -> Array:
    count = len(per_example)
    return np.asarray(np.sqrt(count / (count - 1)) * (per_example - per_example.mean(0)))


def _of_batches(without: Array, variance: Array) -> Array:
    """Jackknife: `without` (batch, 3) without each batch in turn, `variance` (batch,) of each."""
    batches = len(variance)
    left = np.concatenate([without, ((variance.sum() - variance) / (batches - 1))[:, None]], 1)
    return np.asarray(np.sqrt((batches - 1) / batches) * (left - left.mean(0)))
