"""What the codes of a layer follow, in counts: softmax(l/t), or one of the laws that faulty layers have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..estimators.foreign import law as counted
from ..latents import BINARY
from .setting import Setting

DRAWS = 40_000
NUMBERS = 2**22  # of noise, at most
CHANCE = 1e-7  # of each test to find a fault in a layer that has none


@dataclass(frozen=True)
class Law:
    """The counts of codes at one pair of temperatures, and what they fit."""

    tf: float
    tb: float
    logits: Tensor  # (latent, category), as categories in the binary case too
    counts: Tensor
    fit: counted.Fit
    certain: bool  # every draw gives the same code
    greedy: bool  # which is the most probable one
    together: float  # p-value of the independence of two latents

    @property
    def follows(self) -> bool:
        """Whether some softmax(l/t), t > 0, fits."""
        return not self.certain and self.fit.b > 0 and self.fit.p_value > CHANCE

    def is_at(self, t: float) -> bool:
        """Whether softmax(l/t) fits."""
        return self.follows and self.fit.z(t) < 5.5  # standard errors: 4e-8

    @property
    def instead(self) -> str:
        """The law that the codes follow, if it is a known mistake."""
        if self.greedy:
            return "every draw gives the most probable category: it does not sample"
        if self.certain:
            return "every draw gives the same category: it does not sample"
        if counted.p_value(torch.softmax(torch.zeros_like(self.logits), -1), self.counts) > CHANCE:
            return "all categories are equally probable, whatever the logits"
        if self.fit.b < 0 and self.fit.p_value > CHANCE:
            return f"they follow softmax(-l/{-1 / self.fit.b:.3g}): the sign of the logits is lost"
        p = torch.softmax(self.logits, -1)
        if bool((never := (self.counts == 0) & (p * self.counts.sum(-1, keepdim=True) > 50)).any()):
            return (
                f"categories of a probability of up to {float(p[never].max()):.2g} are never drawn (a mask,"
                " bounded noise, or the largest logits alone?)"
            )
        if (of_p := counted.fit(p, self.counts)).p_value > CHANCE and of_p.b > 0:
            t = "" if of_p.z(1.0) < 5.5 else f"/{of_p.temperature:.3g}"
            return f"they follow softmax(p{t}) with p = softmax(l): it takes probabilities for logits"
        return ""


def law(setting: Setting, tf: float, tb: float) -> Law:
    """The Law of the layer's codes, from draws of `setting.seed`."""
    latents, kind = setting.shape[0], setting.kind
    rows = max(200, min(DRAWS, NUMBERS // torch.Size(setting.shape).numel()))
    logits, z, _ = setting.codes(tf, tb, rows, "law")
    pairs = kind.two_category(logits)
    counts = counted.counts_of(kind, z)
    certain = bool((counts.amax(-1) == rows).all())
    greedy = certain and bool((counts.argmax(-1) == pairs.argmax(-1)).all())
    chosen = (kind.two_category(z - 0.5) if kind is BINARY else z).argmax(-1)
    together = 1.0 if certain or latents < 2 else min(1.0, _together(chosen, counts.shape[-1]) * (latents - 1))
    return Law(tf, tb, pairs, counts, counted.fit(pairs, counts), certain, greedy, together)


def _together(chosen: Tensor, categories: int) -> float:
    """The smallest p-value of the independence of a latent and the next; categories (row, latent)."""
    found = []
    for one, other in zip(chosen.unbind(1), chosen[:, 1:].unbind(1), strict=False):
        joint = torch.nn.functional.one_hot(one * categories + other, categories**2).double().sum(0)
        apart = joint.reshape(categories, categories) / len(chosen)
        p = (apart.sum(1, keepdim=True) * apart.sum(0, keepdim=True)).flatten()
        found.append(counted.p_value(p[None], joint[None], fitted=2 * (categories - 1)))
    return min(found)
