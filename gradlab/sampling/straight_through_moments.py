"""Moments of estimates scale J(q) v(z) over a grid: q is computed once for all tf, v once for all tb.

Each draw, image and point still needs J(q) v = q (v - <q, v>) and its moments. These are about seven passes over arrays
in cache: q v; its sum over categories; minus q times the sum; the mean over a batch's draws; minus the mean; square;
sum. They are three to five times faster if draws and categories are slow dims: (draw of its batch, category, batch,
cell), where a cell is a latent of an example. A GPU has no such cache, so it processes many tf of one q at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import parallel, progress
from ..estimators import Estimator, PullBack
from ..latents import LatentKind
from ..numerics import power_of_two
from ..setup import Setup
from .batches import BatchMoments, batch_bounds, merge
from .noise import Noise
from .shared import all_built_in
from .unique_evaluations import DrawnPairs

_IN_CACHE = 2**18  # numbers of an array
_ARRAYS = 16  # arrays of a block and one point that exist at a time, if no cache bounds the block
_POINTS = 16  # points of one q that a GPU processes at a time


def serves(estimator: Estimator, kind: LatentKind, logits: Tensor) -> bool:
    return (
        kind.one_hot
        and estimator.relaxation_key is not None
        and estimator.discrete_points
        and not estimator.noise_free
        and estimator.baseline_decay is None
        and estimator.evaluations_at(kind, logits) == 1
    )


def _pull_back(estimator: Estimator) -> PullBack:
    promise = estimator.pull_back
    assert promise is not None  # as `serves` says
    return promise


def pulled_back_moments(
    setup: Setup,
    estimators: Sequence[Estimator],
    noise: Noise,
    drawn: DrawnPairs,
    ranks: dict[Hashable, Tensor],
    advance: progress.Advance,
) -> Iterator[tuple[list[int], BatchMoments]]:
    """Yields positions of estimators and their moments, points first; each position once.

    `ranks[points key]` (evaluation, draw, example) are those of an estimator's points; `drawn` is centred.

    Processes q in chunks whose moments, for all their tf, fit in the remaining memory. Batches are independent and run
    on separate threads.
    `advance` is called with draws * distinct points in all.
    """
    logits, memory, kind, bounds = setup.logits, setup.memory, setup.kind, batch_bounds(noise.draws)
    held = noise.bytes + sum(of.numel() * of.element_size() for of in ranks.values())
    parts = list(_parts(estimators, 16 * (len(bounds) - 1) * logits.numel(), memory - held))
    arrays = max(e.noise_arrays for e in estimators)
    share = len({e.points_key for e in estimators}), len(parts)
    threads = all_built_in(estimators)
    size = float(power_of_two(drawn.derivative))
    size = size if not 2.0**-30 < size < 2.0**30 else 1.0  # squares of the estimates stay in the range of float32
    done = 0
    for part in parts:
        positions = [position for same_q in part for position in same_q]
        sums = _Sums(kind, logits, bounds, len(positions))

        def add(batches: slice, sums: _Sums = sums, part: list[list[int]] = part) -> int:
            for start, stop, blocks in _blocks(logits, bounds, batches, memory):
                g = noise.of(arrays, start, stop)
                for block in blocks:
                    here = g[:, :, block.examples]
                    _add_block(sums, block, logits[block.examples], here, estimators, part, drawn, ranks, size)
            return bounds[batches.stop] - bounds[batches.start]

        batches = _batches_at_once(logits, bounds, memory)
        for draws in parallel.each(add, batches, logits.device, threads=threads):
            done += draws * share[0]
            advance(done // share[1])
            done %= share[1]
        yield positions, sums.scaled([size * _pull_back(estimators[position]).scale for position in positions])
        del sums, add  # before those of the next part are made


def _parts(estimators: Sequence[Estimator], bytes_each: int, memory: int) -> Iterator[list[list[int]]]:
    """Positions of the estimators by equal q, in parts of bounded memory, of one estimator at least."""
    by_q: dict[Hashable, list[int]] = {}
    for position, estimator in enumerate(estimators):
        by_q.setdefault(estimator.relaxation_key, []).append(position)
    most = max(1, memory // bytes_each)
    part: list[list[int]] = []
    for same_q in (of[start : start + most] for of in by_q.values() for start in range(0, len(of), most)):
        if part and sum(map(len, [*part, same_q])) > most:
            yield part
            part = []
        part.append(same_q)
    if part:
        yield part


class _Block(NamedTuple):
    """Whole batches of equal size, or some draws of one batch; of some examples."""

    batches: slice
    start: int  # first draw
    stop: int
    before: int  # draws of the batch before it
    examples: slice

    def arrange(self, kind: LatentKind, a: Tensor) -> Tensor:
        """(..., draw, example, latent[, category]) -> (..., draw of its batch, category or 1, batch, cell).

        Without draws: (example, latent[, category]) -> (1, category or 1, 1, cell).
        """
        a = a if kind.event_dims else a[..., None]
        if a.ndim == 3:
            return a.flatten(0, 1).T.contiguous()[None, :, None]
        a = a.unflatten(-4, (self.batches.stop - self.batches.start, -1)).flatten(-3, -2)
        return a.movedim((-3, -1), (-4, -3)).contiguous()


def _rows(logits: Tensor, memory: int) -> int:
    """Rows, of one draw and example, whose arrays fit the memory and, on a CPU, the cache."""
    numbers = memory // ((_ARRAYS + 4 * (_points_at_once(logits.device) - 1)) * logits.element_size())
    if logits.device.type == "cpu":
        numbers = min(numbers, _IN_CACHE)
    return max(1, numbers // logits[0].numel())


def _points_at_once(device: torch.device) -> int:
    return 1 if device.type == "cpu" else _POINTS


def _batches_at_once(logits: Tensor, bounds: list[int], memory: int) -> Iterator[slice]:
    """All batches, several at a time where they are of equal size and small."""
    batches, draws = len(bounds) - 1, bounds[1]  # no batch has fewer draws than the first
    even = bounds[-1] == batches * draws
    at_once = max(1, _rows(logits, memory) // (draws * len(logits))) if even else 1
    for batch in range(0, batches, at_once):
        yield slice(batch, min(batch + at_once, batches))


def _blocks(
    logits: Tensor, bounds: list[int], batches: slice, memory: int
) -> Iterator[tuple[int, int, Iterator[_Block]]]:
    """The draws of some batches: first and last + 1, and their blocks, whose noise is best made once."""
    rows, examples = _rows(logits, memory), len(logits)
    begin, end = bounds[batches.start], bounds[batches.stop]
    if batches.stop - batches.start > 1:
        draws, of_examples = end - begin, examples
    else:
        draws = min(rows, end - begin)
        of_examples = min(rows // draws, examples)
    for start in range(begin, end, draws):
        stop = min(start + draws, end)
        slices = (slice(e, min(e + of_examples, examples)) for e in range(0, examples, of_examples))
        yield start, stop, (_Block(batches, start, stop, start - begin, some) for some in slices)


class _Sums:
    """Moments of estimates / scale / size, float64, (point, category or 1, batch, example * latent)."""

    def __init__(self, kind: LatentKind, logits: Tensor, bounds: list[int], points: int):
        self.kind, self.logits, self.bounds = kind, logits, bounds
        categories = logits.shape[2] if kind.event_dims else 1
        shape = (points, categories, len(bounds) - 1, logits.numel() // categories)
        self.mean = torch.empty(shape, dtype=torch.float64, device=logits.device)
        self.squares = torch.empty_like(self.mean)

    def add(self, first: int, block: _Block, estimates: Tensor) -> None:
        """Merge estimates (point, draw, category, batch, cell) of the points from `first` on; overwrites them."""
        mean = estimates.mean(1)
        squares = estimates.sub_(mean[:, None]).square_().sum(1)
        latents = self.logits.shape[1]
        cells = slice(block.examples.start * latents, block.examples.stop * latents)
        at = (slice(first, first + len(estimates)), slice(None), block.batches, cells)
        merge(self.mean[at], self.squares[at], block.before, mean, squares, estimates.shape[1])

    def scaled(self, scales: list[float]) -> BatchMoments:
        """Moments of the estimates, points first; those here are overwritten."""
        scale = self.mean.new_tensor(scales)[:, None, None, None]
        shape = (*self.mean.shape[:3], *self.logits.shape[:2])
        mean, squares = self.mean.mul_(scale), self.squares.mul_(scale.square())
        mean, squares = (a.reshape(shape).movedim(1, -1) for a in (mean, squares))
        if not self.kind.event_dims:
            mean, squares = mean[..., 0], squares[..., 0]
        return BatchMoments(torch.tensor(self.bounds).diff(), mean, squares)


def _add_block(
    sums: _Sums,
    block: _Block,
    logits: Tensor,
    g: Tensor,
    estimators: Sequence[Estimator],
    part: list[list[int]],
    drawn: DrawnPairs,
    ranks: dict[Hashable, Tensor],
    size: float,
) -> None:
    """Adds the block's estimates over `size` to the sums."""
    kind, at_once = sums.kind, _points_at_once(logits.device)
    v: dict[tuple[Hashable, ...], Tensor] = {}
    out = torch.empty(0)
    first = 0
    for same_q in part:
        of_q = estimators[same_q[0]]
        a = _pull_back(of_q).perturbed(kind, logits, g[: of_q.noise_arrays])
        q = block.arrange(kind, kind.jacobian(a))
        for start in range(0, len(same_q), at_once):
            keys = tuple(estimators[position].points_key for position in same_q[start : start + at_once])
            if keys not in v:
                here = torch.stack([ranks[key][0, block.start : block.stop, block.examples] for key in keys])
                of_ranks = drawn.derivatives(here)
                v[keys] = block.arrange(kind, of_ranks if size == 1 else of_ranks.div_(size))
            if out.shape != v[keys].shape:
                out = torch.empty_like(v[keys])
            sums.add(first, block, kind.pull_into(out, q, v[keys]))
            first += len(keys)
