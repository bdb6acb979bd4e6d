"""The exact gradient of a program: all paths, many at once.

A path is a code at each site. With log p its log-probability, f its loss, and f* that of the most probable path,

    d/dtheta E[f] = sum over paths of  p (f - f*) d log p  +  p df,

where f* is free, since probabilities sum to one, and removes what would cancel where codes are almost certain. The
program is run on x repeated over a chunk of paths, so that a site computes the logits of all of them at once. Where the
codes decide which sites there are, paths are followed depth first instead, one example and one path at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..latents import configurations
from ..methods import MAX_CONFIGURATIONS
from ..numerics import MEMORY, plain_arithmetic, working_memory
from ..progress import bar
from .program import Program
from .run import Run
from .sites import Site, StructureChanged, described, paths

_ROWS = 2**13  # at once on a CPU: activations then stay near the processor


@dataclass(frozen=True)
class Exact:
    """Of the mean over examples: the gradient by parameter, and how often a draw shows what carries each example's."""

    gradients: list[Tensor]  # float64
    per_draw: Tensor  # (example,): see `fidelity.rarity`
    per_draw_of_all: float
    unlikely: Tensor  # (example,): the probability of all paths but the most probable one


def check_paths(run: Run, most: int) -> None:
    """SpaceTooLarge, a ValueError, for a program of more than `most` paths."""
    if paths(run.sites) > most:
        raise errors.SpaceTooLarge(
            f"program: expected at most {most:,} paths to enumerate, got {described(run.sites)} over"
            f" {len(run.sites)} site{'s' * (len(run.sites) > 1)}; measure bias against a sampled reference"
            " (gradlab.bias, reference='auto'), or raise max_configurations"
        )


def enumerated(
    run: Run, tf: float, most: int = MAX_CONFIGURATIONS, memory: int = MEMORY, progress: bool = False
) -> Exact:
    """The exact gradient at softmax(l/tf). Raises SpaceTooLarge, and ValueError for losses that are not finite."""
    check_paths(run, most)
    if run.by_row:
        return _summed(run, tf, _depth_first(run, tf, most, progress))
    try:
        return _summed(run, tf, _in_chunks(run, tf, memory, progress))
    except StructureChanged:  # of codes that the probe did not meet
        run.by_row = True
        return _summed(run, tf, _depth_first(run, tf, most, progress))


Part = tuple[list[Tensor], Tensor, Tensor, Tensor]  # gradients, and of paths x examples: p, |f - f*|, examples


def _summed(run: Run, tf: float, parts: Iterator[Part]) -> Exact:
    total = [torch.zeros_like(leaf, dtype=torch.float64) for leaf in run.leaves]
    squares = torch.zeros(2, run.examples, dtype=torch.float64, device=run.device)  # of a = p |f - f*|: a^2, a^4/p
    scale = float(run.greedy.abs().max().clamp(min=torch.finfo(run.dtype).tiny))
    for gradients, p, off, example in parts:
        for into, gradient in zip(total, gradients, strict=True):
            into += gradient
        a = (p * off / scale).double().square()
        by_p = torch.where(p > 0, a.square() / torch.where(p > 0, p, 1.0), 0.0)
        squares.index_add_(1, example, torch.stack([a, by_p]))
    greedy = along_greedy(run, tf)  # for losses that do not depend on the codes, and so tell nothing of paths
    two, four = squares
    per_draw = torch.where(four > 0, two.square() / torch.where(four > 0, four, 1.0), greedy.per_draw)
    of_all = float(two.sum() ** 2 / four.sum()) if float(four.sum()) > 0 else greedy.per_draw_of_all
    for name, gradient in zip(run.names, total, strict=True):
        if not bool(torch.isfinite(gradient).all()):
            raise ValueError(f"exact gradient: expected finite values, got others at {name}; take a larger tf")
    return Exact([gradient / run.examples for gradient in total], per_draw, of_all, greedy.unlikely)


def _in_chunks(run: Run, tf: float, memory: int, progress: bool) -> Iterator[Part]:
    counts = [n for site in run.sites for n in site.counts]
    every, examples = paths(run.sites), run.examples
    bytes_each = 2 * (run.saved + sum(map(torch.Size.numel, (torch.Size(site.shape) for site in run.sites))) * examples)
    most = max(1, memory // (bytes_each * run.greedy.element_size()))
    step = min(every, most, max(1, _ROWS // examples) if run.device.type == "cpu" else every)
    with bar("enumerating paths", every, progress) as advance:
        for start in range(0, every, step):
            stop = min(every, start + step)
            indices = configurations(len(counts), counts, start, stop, run.device)
            at = torch.arange(examples, device=run.device).repeat(stop - start)
            codes = [code.repeat_interleave(examples, 0) for code in _codes(run, indices)]
            yield _of_rows(run, at, tf, codes)
            advance(stop - start)


def _codes(run: Run, indices: Tensor) -> list[Tensor]:
    """Codes (path, latent[, category]) of each site, of indices (path, latents of all sites)."""
    of_sites = indices.split([site.shape[0] for site in run.sites], 1)
    return [site.codes(of_site, run.dtype) for of_site, site in zip(of_sites, run.sites, strict=True)]


def _of_rows(run: Run, at: Tensor, tf: float, codes: list[Tensor]) -> Part:
    with torch.enable_grad():
        loss, sampler = run.at_codes(at, tf, codes)
        if sampler.sites != run.sites:
            raise StructureChanged
        return _of_paths(run, at, loss, sampler.log_probability)


def _of_paths(run: Run, at: Tensor, loss: Tensor, log_probability: Tensor | None) -> Part:
    assert log_probability is not None
    p = log_probability.detach().exp()
    fixed = loss.detach()
    bad = ~torch.isfinite(fixed) & (p > 0)
    if bool(bad.any()):
        row = int(torch.nonzero(bad)[0])
        raise ValueError(f"loss: expected finite losses on every path, got {fixed[row].item()} at example {at[row]}")
    off = torch.where(p > 0, fixed - run.greedy[at], 0.0)
    surrogate = (p * off * log_probability + torch.where(p > 0, p * loss, 0.0)).sum()
    return run.gradients(surrogate), p, off.abs(), at


def _depth_first(run: Run, tf: float, most: int, progress: bool) -> Iterator[Part]:
    """One example and one path at a time; every run ends one path and finds the branches beside it."""
    count = 0
    with bar("following the paths of each example", run.examples, progress) as advance:
        for example in range(run.examples):
            at = torch.tensor([example], device=run.device)
            stack: list[list[Tensor]] = [[]]
            while stack:
                prefix = stack.pop()
                with torch.enable_grad():
                    loss, sampler = run.at_codes(at, tf, prefix)
                    for depth in range(len(prefix), len(sampler.sites)):
                        stack += _beside(run, sampler.taken[:depth], sampler.taken[depth], sampler.sites[depth], most)
                    yield _of_paths(run, at, loss, sampler.log_probability)
                count += 1
                if count > most * run.examples:
                    raise errors.SpaceTooLarge(
                        f"program: expected at most {most:,} paths of an example to enumerate, got more; measure bias"
                        " against a sampled reference (gradlab.bias, reference='rloo'), or raise max_configurations"
                    )
            advance(1)


def _beside(run: Run, before: list[Tensor], taken: Tensor, site: Site, most: int) -> list[list[Tensor]]:
    """Prefixes that take every other code at a site."""
    if paths([site]) > most:
        raise errors.SpaceTooLarge(f"program: expected at most {most:,} codes at a site, got {described([site])}")
    indices = configurations(len(site.counts), site.counts, 0, paths([site]), run.device)
    codes = site.codes(indices, run.dtype)
    return [[*before, code] for code in codes.split(1) if not torch.equal(code, taken)]


@torch.no_grad()
def along_greedy(run: Run, tf: float) -> Exact:
    """The same but the gradient, from the probabilities of other categories along the most probable path.

    Equal losses are assumed, so that a category carries its probability.
    """
    _, sampler = run.at_codes(None, tf, ())
    p = torch.cat(sampler.others, 1).double()
    two, four = p.square().sum(1), p.pow(3).sum(1)
    per_draw = torch.where(four > 0, two.square() / torch.where(four > 0, four, 1.0), 0.0)
    of_all = float(two.sum() ** 2 / four.sum()) if float(four.sum()) > 0 else 0.0
    return Exact([], per_draw, of_all, p.sum(1))


def gradient_of(
    program: Program,
    x: Any,
    tf: float,
    *,
    dtype: torch.dtype = torch.float64,
    most: int = MAX_CONFIGURATIONS,
    memory: int | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """By parameter name, the exact gradient of the mean over examples at softmax(l/tf), float64."""
    with plain_arithmetic(), Run(program, x, dtype).prepared() as run:
        found = enumerated(run, tf, most, working_memory(memory, run.device), progress)
        shapes = [leaf.shape for leaf in run.leaves]
        return {n: g.reshape(s) for n, g, s in zip(run.names, found.gradients, shapes, strict=True)}
