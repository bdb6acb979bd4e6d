"""Refuses measurements that do not fit in memory, before they take any.

`Compute(memory=...)` limits blocks of draws, examples and configurations. What cannot be divided into blocks is the
result, the moments of one point, the law of all codes, and one draw on all examples. `of_bias` and `of_gap` predict
what these take at their peak: the largest of the steps that follow one another. `tests/test_room.py` compares them with
measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import errors
from ..estimators import Estimator
from ..methods import MonteCarlo, Sampled
from ..metrics import registry
from ..metrics.over_examples import has_interval, has_replicates
from ..metrics.record import Record
from ..numerics import MEMORY, free_memory
from ..sampling import BATCHES, bytes_of_draw
from ..setup import Setup
from ..statistics.coordinates import QUANTILES
from .encoder_gradients import encoder_parameters
from .reference_metrics import STATISTICS
from .reference_metrics import metrics as metrics_by_reference
from .request import Request, unbiased_reference

DRAW = 2  # one draw may take this multiple of the memory
LAW = 8  # arrays of the size of the law of all codes, while exact gradients are computed
OF_ONE_LAW = 7  # of one forward temperature, where only the rarity of its codes is computed
MOMENTS = 8  # arrays of the size of the means of the batches of a point: means, squares, and without each batch
OBSERVATIONS = 2  # copies in float64
GRADIENTS = 8  # arrays of the size of all parameters of the encoder: copies, gradients, and their sums
OF_CELL = 60  # numbers of a point of the gap that depend neither on examples nor on draws: metrics, their ends, copies
NUMBER = 10  # bytes: 8, and what the allocator keeps of arrays that were freed


def check_room(setup: Setup, request: Request) -> None:
    """Raises ValueError if one draw or the result of `bias` is too large."""
    drawn = list(request.estimators) if isinstance(request.moments, MonteCarlo) else []
    if isinstance(request.reference, Sampled):
        reference = unbiased_reference(request.reference, setup.kind)
        drawn += [reference] if isinstance(reference, Estimator) else []
    check_draws(setup, [e for e in drawn if not e.noise_free])
    check_result(len(request.tfs), len(request.tbs), len(setup.x), of_bias(setup, request))


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


def of_bias(setup: Setup, request: Request) -> int:
    """Bytes that `bias` takes at its peak, besides its blocks."""
    examples, coordinates = len(setup.x), setup.logits.numel()
    points = len(request.estimators) * len(request.tfs) * len(request.tbs)
    observations = OBSERVATIONS * setup.x.numel()
    of_law = examples * sum(setup.model.code_counts)  # numbers
    sampled = isinstance(request.reference, Sampled)
    laws = OF_ONE_LAW * of_law if sampled else LAW * of_law * len(set(request.laws))
    if request.wrt == "encoder":
        parameters = encoder_parameters(setup.model)
        gradients = GRADIENTS * sum(p.numel() for p in parameters.values())
        of_metrics = _of_parameters(request, len(parameters), coordinates)
        return NUMBER * (observations + gradients + max(laws, of_metrics))
    if sampled:
        kept, made = _of_metrics(metrics_by_reference(), BATCHES, examples)
        cells = points * len(request.targets)
        kernels = len(STATISTICS) * examples * BATCHES**2  # of one point
        point = MOMENTS * BATCHES * coordinates + 4 * kernels
        return NUMBER * (observations + max(laws, _peak(cells * kept, point, cells * made, request)))
    kept, made = _of_metrics(registry.of_analysis("bias"), _batches(request), examples)
    ratios = 3 * (examples + 2 * len(QUANTILES))  # with their ends
    cells = points * len(request.targets)
    exact = len(request.targets) * len(request.tfs) * coordinates
    arrays = 2 * exact + 2 * points * coordinates + cells * (kept + ratios)
    point = MOMENTS * _batches(request) * coordinates
    copies = cells * (made + ratios) + points * coordinates  # one array at a time is written
    return NUMBER * (observations + max(laws, _peak(arrays, point, copies, request)))


def of_program(request: Request, tensors: int, numbers: int) -> int:
    """Bytes that `bias` of a Program takes at its peak, besides its blocks; `numbers` of a gradient."""
    return NUMBER * _of_parameters(request, tensors, numbers)


def _of_parameters(request: Request, tensors: int, numbers: int) -> int:
    """Numbers at the peak of metrics by parameter tensor, and of all tensors together."""
    sampled = isinstance(request.reference, Sampled)
    metrics = metrics_by_reference() if sampled else registry.of_analysis("bias")
    batches = BATCHES if sampled else _batches(request)
    kept, made = _of_metrics(metrics, batches, 0)
    cells = len(request.estimators) * len(request.targets) * len(request.tfs) * len(request.tbs) * (1 + tensors)
    exact = 2 * len(request.targets) * len(request.tfs) * numbers
    return _peak(exact + cells * kept, MOMENTS * batches * numbers, cells * made, request)


def _batches(request: Request) -> int:
    return min(BATCHES, request.moments.draws) if isinstance(request.moments, MonteCarlo) else 0


def of_gap(setup: Setup, points: int, batches: int, terms: int) -> int:
    """Bytes that `gap` takes at its peak, besides its blocks; `points` with both definitions, `terms` of all metrics.

    Sums of the terms for each batch, and for each example; norms of each example without each batch, and their ends.
    """
    examples = len(setup.x)
    of_point = OF_CELL + (1 + batches) * (5 * examples + 6 * terms) + 3 * terms * examples
    return NUMBER * (OBSERVATIONS * setup.x.numel() + points * of_point)


def _of_metrics(metrics: Mapping[str, Record], batches: int, examples: int) -> tuple[int, int]:
    """Numbers of a point: of the arrays that are filled, and those that the Dataset copies."""
    ends = 3 * len(metrics) + 2 * sum(map(has_interval, metrics.values())) * (examples > 0)
    of_examples = examples * sum(map(has_replicates, metrics.values()))
    return ends + of_examples + batches * len(metrics), ends + of_examples


def _peak(arrays: int, point: int, copies: int, request: Request) -> int:
    """Numbers at the peak: the arrays and one point, or the arrays, their copies and the file, without what is NaN."""
    filled = len(request.pairs) / (len(request.tfs) * len(request.tbs))
    return arrays + max(point, copies + int(filled * arrays))
