"""Draws of candidates of a program -> what they say of each: `Observed`.

The gradient of a draw is that of the mean over B examples, with noise of its own for each, so its variance is that of
one example over B. The variance kept here is that of one example: an average of n loss evaluations is off by V/n,
however many examples it was measured on.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import progress
from ..estimators import Estimator
from ..fidelity.program_gradients import Flat, ProgramDraws
from ..latents import derived_seed
from ..programs.layers import paths_of
from ..programs.run import Run
from .errors_of_averages import Observed
from .measuring import BATCHES, SUMS, Reference, observed


def measured_of_program(
    run: Run,
    chosen: Sequence[Estimator],
    reference: Reference,
    draws: int,
    name: str,
    seed: int,
    memory: int,
    advance: progress.Advance,
) -> list[Observed]:
    """As `measuring.measured`; `reference.exact` is (1, entry of all parameters)."""
    flat, seed = Flat(run), derived_seed(seed, "recommend", name)
    at_once = max(1, SUMS * memory // (8 * BATCHES * sum(flat.entries)))
    law = reference.tf if reference.target == "sampled" else 1.0
    unbiased = [] if reference.estimator is None else [reference.estimator.at(law, law)]
    found: list[Observed] = []
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        drawn = ProgramDraws(run, flat, list(dict.fromkeys([*some, *unbiased])), seed, memory, BATCHES)
        drawn.add(draws // BATCHES, advance)
        sums = dict(zip(drawn.every, drawn.sums, strict=True))
        r = sums[unbiased[0]].mean if unbiased else _each_batch(reference).to(run.device)
        for e in some:
            squares = run.examples * sums[e].squares[:, :1]  # of all parameters
            mean = sums[e].mean[:, None]
            found.append(observed(mean, r[:, None], squares, draws, paths_of(e), reference.is_of(e)))
    return found


def _each_batch(reference: Reference):
    assert reference.exact is not None
    return reference.exact.expand(BATCHES, -1)
