"""Refuses measurements that do not fit in memory, before they take any.

`Compute(memory=...)` limits blocks of draws, examples and configurations. What cannot be divided into blocks is the
result, the moments of one point, and one draw on all examples.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import errors
from ..estimators import Estimator
from ..methods import MonteCarlo, Sampled
from ..metrics import registry
from ..numerics import MEMORY, free_memory
from ..sampling import BATCHES, bytes_of_draw
from ..setup import Setup
from ..statistics.coordinates import QUANTILES
from .request import Request, unbiased_reference

COPIES = 3  # of a result: as computed, as a Dataset, and as a file
DRAW = 2  # one draw may take this multiple of the memory


def check_room(setup: Setup, request: Request) -> None:
    """Raises ValueError if one draw or the result of `bias` is too large."""
    drawn = list(request.estimators) if isinstance(request.moments, MonteCarlo) else []
    if isinstance(request.reference, Sampled):
        reference = unbiased_reference(request.reference, setup.kind)
        drawn += [reference] if isinstance(reference, Estimator) else []
    check_draws(setup, [e for e in drawn if not e.noise_free])
    points = len(request.estimators) * len(request.tfs) * len(request.tbs)
    of_metrics = (BATCHES + 4) * len(registry.of_analysis("bias")) * len(request.targets)
    numbers, of_moments = points * of_metrics, 0
    if request.wrt == "logits" and not isinstance(request.reference, Sampled):
        of_examples = 3 * (len(setup.x) + 2 * len(QUANTILES)) * len(request.targets)
        numbers += points * (2 * setup.logits.numel() + of_examples)
        of_moments = 2 * BATCHES * setup.logits.numel()
    check_result(len(request.tfs), len(request.tbs), len(setup.x), 8 * (COPIES * numbers + of_moments))


def check_draws(setup: Setup, estimators: Sequence[Estimator]) -> None:
    """Raises ValueError if one draw of an estimator, on all examples, takes much more than the memory."""
    most = DRAW * max(setup.memory, MEMORY)
    for e in estimators:
        if (needed := bytes_of_draw(setup, [e])) > most:
            raise ValueError(
                f"estimator: expected one draw on all {len(setup.x):,} examples to fit in {errors.size(most)}, got"
                f" {errors.size(needed)} for {e.label}; take fewer examples or evaluations, or more memory"
            )


def check_result(tfs: int, tbs: int, examples: int, needed: int) -> None:
    """Raises ValueError if a result of `needed` bytes does not fit in the free memory."""
    if needed > (free := free_memory()):
        raise ValueError(
            f"tf, tb: expected a result that fits in the free memory of {errors.size(free)}, got"
            f" {errors.size(needed)} for {tfs:,} x {tbs:,} temperatures and {examples:,} examples; take fewer"
        )
