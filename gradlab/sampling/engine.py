"""Monte Carlo moments: which points are evaluated, and how the decoder is run at them.

There are three ways to run the decoder at the sampled codes. They give the same numbers up to rounding:

    table   by configuration: one Jacobian for each that is drawn, and products with all images
    pairs   pair by pair: each distinct image and code once
    draws   each draw separately

There are never more distinct pairs than draws. So "auto" uses draws only if the pairs cannot be numbered with 64 bits
or do not fit in memory. Otherwise it uses table or pairs, whichever needs fewer operations (see `derivatives`). Relaxed
points differ from draw to draw, so they always use draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .. import checks, progress
from ..derivatives import at_all_points
from ..estimators import Estimator, is_built_in
from ..estimators.evaluation import baselines_of, evaluate, points_of
from ..latents import LatentKind
from ..setup import Setup
from .batches import BATCHES, Accumulator, BatchMoments, batch_bounds, empty
from .noise import Noise
from .straight_through_moments import pulled_back_moments, serves
from .unique_evaluations import DrawnPairs

A = TypeVar("A", bound=Accumulator)
_SMALL = 2**20  # bytes of the arrays of batches that are evaluated together, which stay in the cache


def sample_moments(
    setup: Setup,
    estimators: Sequence[Estimator],
    noise: Noise,
    *,
    decoder: str = "auto",
    advance: progress.Advance = lambda *a, **k: None,
) -> list[BatchMoments]:
    """Moments of the estimates of each estimator over all draws of `noise`, as `each_moments` gives them."""
    found: dict[int, BatchMoments] = {}
    for positions, of in each_moments(setup, estimators, noise, decoder=decoder, advance=advance):
        found |= {p: BatchMoments(of.count, *each) for p, *each in zip(positions, of.mean, of.squares, strict=True)}
    return [found[position] for position in range(len(estimators))]


def each_moments(
    setup: Setup,
    estimators: Sequence[Estimator],
    noise: Noise,
    *,
    decoder: str = "auto",
    advance: progress.Advance = lambda *a, **k: None,
) -> Iterator[tuple[list[int], BatchMoments]]:
    """Yields positions of estimators and their moments over all draws of `noise`, points first; each position once.

    Moments are float64. Estimators with equal points share the decoder passes, and estimators with equal q share q. So
    pass a whole grid of temperatures. `advance` is called with the number of draws done, per group of equal points.
    `decoder` is one of `methods.DECODERS`; "table" and "pairs" raise ValueError where they are not possible, or do not
    fit.
    """
    drawn, ranks = _evaluated_pairs(setup, estimators, noise, decoder)
    fast = [i for i, e in enumerate(estimators) if e.points_key in ranks and serves(e, setup.kind, setup.logits)]
    served = {estimators[i].points_key for i in fast}
    for group in by_points(estimators):
        rest = [i for i in group if i not in fast]
        if not rest:
            continue
        step = _silent if estimators[rest[0]].points_key in served else advance
        at = ranks.get(estimators[rest[0]].points_key)
        together = max(1, setup.memory // (16 * BATCHES * setup.logits.numel()))  # whose moments fit
        for some in (rest[start : start + together] for start in range(0, len(rest), together)):
            into = {i: empty(setup.logits, noise.draws) for i in some}
            _sample_group(setup, [estimators[i] for i in some], into.values(), noise, drawn, at, step)
            step = _silent
            for position, of in into.items():
                yield [position], BatchMoments(of.count, of.mean[None], of.squares[None])
            del into, of
    if drawn is not None and fast:
        drawn.centre(setup.logits)  # in place, so last
        chosen = [estimators[i] for i in fast]
        for positions, found in pulled_back_moments(setup, chosen, noise, drawn, ranks, advance):
            yield [fast[position] for position in positions], found
            del found  # before those of the next points are made


def each_accumulated(
    setup: Setup,
    estimators: Sequence[Estimator],
    noise: Noise,
    accumulator: Callable[[], A],
    *,
    decoder: str = "auto",
    advance: progress.Advance = lambda *a, **k: None,
) -> Iterator[tuple[list[int], A]]:
    """Yields the position of each estimator, and an accumulator that holds all its estimates.

    For quantities that moments do not determine. Unlike `each_moments`, it computes the estimate of every draw.
    """
    drawn, ranks = _evaluated_pairs(setup, estimators, noise, decoder)
    for group in by_points(estimators):
        chosen = [estimators[i] for i in group]
        into = {i: accumulator() for i in group}
        at = ranks.get(chosen[0].points_key)
        _sample_group(setup, chosen, into.values(), noise, drawn, at, advance)
        for position, of in into.items():
            yield [position], of


def by_points(estimators: Sequence[Estimator]) -> list[list[int]]:
    """Positions of the estimators that share their points."""
    found: dict[Hashable, list[int]] = {}
    for position, estimator in enumerate(estimators):
        found.setdefault(estimator.points_key, []).append(position)
    return list(found.values())


def _evaluated_pairs(
    setup: Setup,
    estimators: Sequence[Estimator],
    noise: Noise,
    decoder: str,
) -> tuple[DrawnPairs | None, dict[Hashable, Tensor]]:
    """The result of `_drawn_pairs`, with loss and derivative at the pairs."""
    firsts = [estimators[group[0]] for group in by_points(estimators)]
    drawn, ranks = _drawn_pairs(setup, firsts, noise, decoder)
    if drawn is not None:
        drawn.evaluate(setup.memory, any(e.uses_derivative for e in estimators if e.points_key in ranks), decoder)
    return drawn, ranks


def _drawn_pairs(
    setup: Setup, firsts: list[Estimator], noise: Noise, decoder: str
) -> tuple[DrawnPairs | None, dict[Hashable, Tensor]]:
    """The distinct pairs of all discrete points, and their ranks by points key; (None, {}) if pairs are not used."""
    model, x, logits, memory, kind = setup.model, setup.x, setup.logits, setup.memory, setup.kind
    firsts = [e for e in firsts if e.discrete_points and not e.noise_free]
    if not firsts or decoder == "draws":
        return None, {}
    evaluations = [e.evaluations_at(kind, logits) for e in firsts]
    needed = 12 * sum(evaluations) * noise.draws * len(x)  # keys, and ranks in their place
    if not DrawnPairs.possible(model, x) or needed > memory:
        _check_not_asked_for(decoder, needed, memory)
        return None, {}
    drawn = DrawnPairs(model, x)
    keys = [torch.empty(n, noise.draws, len(x), dtype=torch.long, device=x.device) for n in evaluations]
    arrays = max(e.noise_arrays for e in firsts)
    numbers = logits.numel() * (2 * arrays + 8 * max(evaluations))
    for start, stop in _chunks(0, noise.draws, numbers * logits.element_size(), memory):
        g = noise.of(arrays, start, stop)
        for e, of in zip(firsts, keys, strict=True):
            if e.samples:  # the points are hard(l/tf + g)
                of[0, start:stop] = drawn.keys(kind.indices(logits / e.tf + g[0]))
            else:
                of[:, start:stop] = drawn.keys_of(_codes_of(e, kind, logits, g))
    ranks = drawn.rank(keys, memory)
    if drawn.bytes > memory:
        _check_not_asked_for(decoder, drawn.bytes, memory)
        return None, {}
    return drawn, {e.points_key: of for e, of in zip(firsts, ranks, strict=True)}


def _codes_of(e: Estimator, kind: LatentKind, logits: Tensor, g: Tensor) -> Tensor:
    """The points of an estimator whose points are codes; ValueError if they are not."""
    points = points_of(e, kind, logits, g)
    if not (is_built_in(e) or bool(((points == 0) | (points == 1)).all())):
        raise ValueError(
            f"estimator: {e.label}: expected codes, got relaxed points; state `codes=False` in its `shared_points`"
        )
    return points


def _check_not_asked_for(decoder: str, needed: int, memory: int) -> None:
    if decoder != "auto":
        raise ValueError(
            f"decoder: expected {needed / 2**20:.3g} MiB of memory for {decoder!r}, and codes that 64 bits can number,"
            f" got {memory / 2**20:.3g} MiB; decoder='draws' needs less"
        )


def _sample_group(
    setup: Setup,
    estimators: list[Estimator],
    accumulators: Collection[Accumulator],
    noise: Noise,
    drawn: DrawnPairs | None,
    ranks: Tensor | None,
    advance: progress.Advance,
) -> None:
    """Add the estimates of estimators that share their points to the accumulator of each, draw by draw."""
    model, x, logits, memory, kind = setup.model, setup.x, setup.logits, setup.memory, setup.kind
    draws = noise.draws
    arrays = max(e.noise_arrays for e in estimators)
    baselines = baselines_of(estimators)
    bounds = batch_bounds(draws)

    def evaluated(start: int, stop: int, check: checks.Check = checks.at_once) -> Iterator[Tensor]:
        """Each estimator's estimates of the draws start .. stop-1."""

        def loss_at(points: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
            if drawn is None or ranks is None:
                return at_all_points(model, x, points, memory // 2, differentiated, check)
            at = ranks[:, start:stop]
            return drawn.losses(at), drawn.derivatives(at) if differentiated else None

        return evaluate(estimators, kind, logits, noise.of(arrays, start, stop), loss_at, baselines)

    if all(e.noise_free for e in estimators):
        for into, estimates in zip(accumulators, evaluated(0, 1), strict=True):
            into.fill(bounds, estimates[0])
        advance(draws)
        return
    with checks.deferred(logits.device) as check:
        for parts in _pieces(bounds, bytes_of_draw(setup, estimators), memory // 4):
            begin, stop = parts[0][1], parts[-1][2]
            for into, estimates in zip(accumulators, evaluated(begin, stop, check), strict=True):
                for batch, first, last in parts:
                    into.add(batch, estimates[first - begin : last - begin])
            advance(stop - begin)


def bytes_of_draw(setup: Setup, estimators: Sequence[Estimator]) -> int:
    """Bytes of the arrays of one draw, on all examples, of estimators that share their points."""
    arrays = max(e.noise_arrays for e in estimators)
    evaluations = estimators[0].evaluations_at(setup.kind, setup.logits)
    return setup.logits.numel() * (2 * arrays + 8 * evaluations) * setup.logits.element_size()


def _chunks(begin: int, end: int, bytes_each: int, memory: int) -> Iterator[tuple[int, int]]:
    """Draws begin .. end-1, in chunks of bounded memory."""
    step = max(1, memory // bytes_each)
    for start in range(begin, end, step):
        yield start, min(end, start + step)


def _pieces(bounds: list[int], bytes_each: int, memory: int) -> Iterator[list[tuple[int, int, int]]]:
    """Draws that are evaluated at once, as parts (batch, first, last + 1) of batches.

    Several whole batches if they are small, because then a call costs more than its arithmetic; otherwise one batch, in
    chunks of bounded memory.
    """
    small = max(1, min(_SMALL, memory) // bytes_each)
    parts: list[tuple[int, int, int]] = []
    for batch, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if parts and end - parts[0][1] > small:
            yield parts
            parts = []
        for chunk in _chunks(begin, end, bytes_each, memory):
            if chunk[1] < end:
                yield [(batch, *chunk)]
            else:
                parts.append((batch, *chunk))
    yield parts


def _silent(steps: int) -> None:
    """An `advance` that does nothing, for steps that are already counted."""
