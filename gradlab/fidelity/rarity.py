"""Where draws miss what carries the exact gradient: latents whose important categories are rarely drawn.

The law p = softmax(l/tf) is known, so this can be predicted. With d the most probable category of a latent, category k
contributes to the exact gradient g about

    a_k = (1/tf) p_k (c_k - c_d) = g_k - p_k g_d / p_d,

and N draws show it N p_k times. Categories with shares w = a^2 / sum a^2 together count as one category that is seen

    count = N (sum w)^2 / sum (w^2 / p)

times. For n categories of equal shares and probabilities p, this is n N p. Below ten (SEEN), metrics from draws miss
what carries the gradient, and their intervals do not show this: all draws give one code, or a few draws dominate. If g
is not known, all categories are assumed to have equal losses: a_k = p_k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cautions import SEEN
from ..latents import LatentKind
from ..statistics.jackknife import Array

LIKELY = 0.25  # count per draw above which ten draws are too few of any law
CERTAIN = 1e-9  # probability below which only the most probable code is expected
GRID = ("estimator", "target", "tf", "tb")


@dataclass(frozen=True)
class Rarity:
    """How often a draw shows what carries the exact gradient, and certainty, by forward temperature."""

    per_draw: Array  # (tf,): count per draw of all examples together
    of_each: Array  # (tf, example): count per draw of each example
    certain: Array  # (tf, example): whether all its codes are certain

    @property
    def nothing_left(self) -> Any:
        """True (tf,) if the codes of all examples are certain, so that the exact gradient is almost 0."""
        return self.certain.all(-1)

    def of_middle_example(self) -> Rarity:
        """The Rarity for means over examples, which have equal weights: `per_draw` is the median over examples."""
        middle = (self.of_each.shape[1] - 1) // 2
        return dataclasses.replace(self, per_draw=np.sort(self.of_each, -1)[:, middle])

    def unseen(self, draws: float) -> Any:
        """True (tf,) if this number of draws misses what carries the exact gradient."""
        return _too_few(draws * self.per_draw, self.per_draw)


def _too_few(count: Array, per_draw: Array) -> Any:
    return (count < SEEN) & (per_draw < LIKELY)


def rarity(kind: LatentKind, logits: Tensor, tfs: Sequence[float], gradients: Tensor | None = None) -> Rarity:
    """The Rarity of each tf; `gradients` (tf, example, latent[, category]) are exact for softmax(l/tf), if known.

    Sets of k-hot latents stand in place of categories, all of equal losses: their gradient is not one per set.
    """
    # on the host: some 60 operations on few numbers, which a GPU takes longer to start
    logits, gradients = logits.double().cpu(), None if gradients is None else gradients.cpu()
    found = [_at(kind, logits, tf, None if gradients is None else gradients[i]) for i, tf in enumerate(tfs)]
    return Rarity(*(np.stack(of) for of in zip(*found, strict=True)))


def _at(kind: LatentKind, logits: Tensor, tf: float, gradient: Tensor | None) -> tuple[Array, Array, Array]:
    p = kind.law(logits, tf)
    most, at = p.max(-1, keepdim=True)
    others = p.scatter(-1, at, 0.0)
    of_all = of_each = others
    if gradient is not None and kind.one_hot:
        g = gradient if kind.event_dims else torch.stack([gradient, -gradient], -1)
        carried = (g - p * g.gather(-1, at) / most).scatter(-1, at, 0.0).abs()
        # a loss that does not depend on the code says nothing about categories
        of_each = torch.where(carried.amax((1, 2), keepdim=True) > 0, carried, others)
        of_all = carried if carried.any() else others
    found = _seen(of_all[None], p[None])[0], _seen(of_each, p), others.sum((1, 2)) < CERTAIN
    per_draw, per_example, certain = (one.numpy() for one in found)
    return per_draw, per_example, certain


def _seen(carried: Tensor, p: Tensor) -> Tensor:
    """(sum w)^2 / sum (w^2 / p) over all dims but the first; 0 if the shares are 0."""
    carried, p = carried.flatten(1), p.flatten(1)
    most = carried.amax(1, keepdim=True)
    w = (carried / torch.where(most > 0, most, 1.0)).square()
    below = torch.where(p > 0, w.square() / torch.where(p > 0, p, 1.0), 0.0).sum(1)
    return torch.where(below > 0, w.sum(1).square() / torch.where(below > 0, below, 1.0), 0.0)


def variables(found: Rarity, draws: Array, sampled: Any = True, grid: Sequence[str] = GRID) -> dict[str, Any]:
    """Variables that say where draws miss what carries the gradient; the last dims of `grid` are tf and tb.

    `draws` is the number of draws of each point, NaN where nothing was measured; `sampled` is True where the moments
    are from draws.
    """
    least = np.finfo(float).tiny  # infinitely many draws miss nothing
    per_draw, of_each = (np.maximum(each, least) for each in (found.per_draw[:, None], found.of_each[:, None]))
    count = draws * per_draw
    rare = _too_few(draws[..., None] * of_each, of_each).sum(-1)
    made = {
        "expected_count": ("draws expected to show the categories that carry the exact gradient", count),
        "unseen": (
            f"1 where fewer than {SEEN} draws are expected to show what carries the exact gradient: metrics from draws"
            " miss it",
            np.logical_and(sampled, _too_few(count, per_draw)),
        ),
        "rare_examples": (
            f"examples of which fewer than {SEEN} draws are expected to show what carries their gradient",
            rare,
        ),
        "certain_examples": (
            "examples whose codes are all certain: their exact gradient is almost 0",
            np.broadcast_to(found.certain.sum(-1)[:, None], count.shape),
        ),
    }
    return {
        name: (grid, np.where(np.isnan(draws), np.nan, values), {"long_name": words, "units": "1"})
        for name, (words, values) in made.items()
    }
