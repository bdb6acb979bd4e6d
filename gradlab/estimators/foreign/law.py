"""The law of a layer's codes: which softmax(l/t) they follow, if any."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...latents import LatentKind

LEAST_EXPECTED = 5.0  # of a cell of a chi-square test; rarer categories are pooled
MOST = 1e3  # |1/t|, which counts of a single category reach
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Fit:
    """softmax(b l) at the most likely b = 1/t, from counts of categories.

    error : standard error of b
    p_value : of the counts at that b; small where no t fits
    """

    b: float
    error: float
    p_value: float

    @property
    def temperature(self) -> float:
        return _inverse(self.b)

    @property
    def low(self) -> float:
        """The ends of the 95 % interval of the temperature."""
        return _inverse(self.b + Z95 * self.error)

    @property
    def high(self) -> float:
        return _inverse(self.b - Z95 * self.error)

    def z(self, t: float) -> float:
        """How many standard errors 1/t is away."""
        return abs(self.b - 1 / t) / self.error if abs(self.b) < MOST / 2 else math.inf


def counts_of(kind: LatentKind, codes: Tensor) -> Tensor:
    """How often each category has the largest value, float64: (latent, category); binary (latent, 2)."""
    chosen = kind.two_category(codes - 0.5) if kind.event_dims == 0 else codes
    return torch.nn.functional.one_hot(chosen.argmax(-1), chosen.shape[-1]).double().sum(0)


def fit(logits: Tensor, counts: Tensor) -> Fit:
    """The Fit of counts (latent, category) at logits (latent, category).

    Maximum likelihood in b = 1/t, an exponential family: the mean of l under softmax(b l) is that of the sample.
    """
    logits, draws = logits.double(), counts.sum(-1, keepdim=True)
    observed = float((counts * logits).sum())

    def moments(b: float) -> tuple[float, float]:
        p = torch.softmax(b * logits, -1)
        mean = (p * logits).sum(-1, keepdim=True)
        variance = (p * (logits - mean).square()).sum(-1, keepdim=True)
        return float((draws * mean).sum()), float((draws * variance).sum())

    if bool((counts.amax(-1, keepdim=True) == draws).all()):  # one code alone: any large b is as likely
        return Fit(MOST, math.inf, p_value(torch.softmax(MOST * logits, -1), counts))
    low, high = -MOST, MOST
    for _ in range(80):  # the mean grows with b
        b = (low + high) / 2
        low, high = (b, high) if moments(b)[0] < observed else (low, b)
    b = (low + high) / 2
    error = 1 / math.sqrt(max(moments(b)[1], 1e-300))
    return Fit(b, error, p_value(torch.softmax(b * logits, -1), counts, fitted=1))


def p_value(p: Tensor, counts: Tensor, fitted: int = 0) -> float:
    """Pearson's test of counts (latent, category) against probabilities; categories that are rare are pooled."""
    expected = p.double() * counts.sum(-1, keepdim=True)
    statistic, freedom = 0.0, -fitted
    for n, m in zip(counts, expected, strict=True):
        rare = m < LEAST_EXPECTED
        n, m = (torch.cat([one[~rare], one[rare].sum()[None]]) if bool(rare.any()) else one for one in (n, m))
        if float(m[-1]) < LEAST_EXPECTED:  # the rare ones together are rare: a Poisson number
            if float(n[-1]) > 0 and float(torch.special.gammainc(n[-1], m[-1].clamp(min=1e-300))) < 1e-12:
                return 0.0
            n, m = n[:-1], m[:-1]
        if len(m):
            statistic += float(((n - m).square() / m).sum())
            freedom += len(m) - 1
    if freedom <= 0:
        return 1.0
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _inverse(b: float) -> float:
    return 1 / b if b > 0 else math.inf
