"""Sums over the configurations, block by block, each weighted by its probability.

Sums are of y - y0, where y0 is the value at the most probable code z0. The variance of y is at least
p(z0) (mean y - y0)^2, so E[(y - y0)^2] - E[y - y0]^2 has a relative rounding error of at most eps/p(z0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..estimators import Estimator
from ..estimators.evaluation import estimate_of
from ..latents import BINARY, CATEGORICAL, LatentKind, strides
from .noise import Conditional


class Block(NamedTuple):
    """Loss f and derivative v of some configurations at every example."""

    indices: Tensor  # (configuration, latent)
    codes: Tensor  # (configuration, latent[, category])
    f: Tensor | None  # (example, configuration)
    v: Tensor | None  # (example, configuration, latent[, category])


class Law:
    """The law of each latent's codes at softmax(l/tf)."""

    def __init__(self, kind: LatentKind, logits: Tensor, tf: float):
        self.log_p = kind.log_law(logits, tf)  # (example, latent, code)

    def log_chosen(self, indices: Tensor) -> Tensor:
        """log p_l(z_l) (example, configuration, latent) of numbers of codes (configuration, latent)."""
        latent = torch.arange(indices.shape[1], device=indices.device)
        return self.log_p[:, latent, indices]


class CodeOnly:
    """Mean and variance of an estimate that is a function of the code."""

    def __init__(self, estimator: Estimator, kind: LatentKind, logits: Tensor, law: Law, first: Block):
        self.estimator, self.kind, self.logits, self.law = estimator, kind, logits, law
        self.centre = self.estimates(first)[0]  # at the most probable code of each example
        self.first = torch.zeros_like(logits)
        self.second = torch.zeros_like(logits)

    def estimates(self, block: Block) -> Tensor:
        """The estimate at each code: (configuration, example, latent[, category])."""
        shape = (block.codes.shape[0], *self.logits.shape)
        points = block.codes if block.codes.ndim == len(shape) else block.codes[:, None].expand(shape)
        f = None if block.f is None else block.f.T[None]
        v = None if block.v is None else block.v.transpose(0, 1)[None]
        noise = self.logits.new_zeros(()).expand(self.estimator.noise_arrays, *shape)  # has no effect
        return estimate_of(self.estimator, self.kind, self.logits, noise, points[None], f, v)

    def add(self, block: Block, log_chosen: Tensor) -> None:
        deviation = self.estimates(block) - self.centre
        weight = log_chosen.sum(-1).exp().T
        weight = weight[(..., *[None] * (deviation.ndim - 2))]
        self.first += (weight * deviation).sum(0)
        self.second += (weight * deviation.square_()).sum(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.centre + self.first, (self.second - self.first.square()).clamp(min=0.0)


class Neighbours(CodeOnly):
    """Mean and variance of (1/tf) J(p_l) f_l, where f_lk is the loss of the code with latent l set to category k.

    `losses` holds the loss of every configuration (example, configuration): the neighbours are looked up in it.
    """

    def __init__(
        self,
        estimator: Estimator,
        kind: LatentKind,
        logits: Tensor,
        law: Law,
        first: Block,
        losses: Tensor,
        counts: Sequence[int],
    ):
        self.losses = losses
        self.counts = torch.tensor(counts, device=logits.device)
        self.strides = torch.tensor(strides(counts), device=logits.device)
        super().__init__(estimator, kind, logits, law, first)

    def estimates(self, block: Block) -> Tensor:
        chosen = block.indices[..., None]  # the first block has one code per example: (example, latent, 1)
        category = torch.arange(self.law.log_p.shape[-1], device=chosen.device)
        moved = torch.where(category < self.counts[:, None], category, chosen)  # no latent has a category beyond
        numbers = (block.indices * self.strides).sum(-1)[..., None, None] + (moved - chosen) * self.strides[:, None]
        if block.codes.ndim == self.logits.ndim + 1:
            examples = torch.arange(len(self.losses), device=chosen.device)[:, None, None]
            f = self.losses[examples, numbers][None]
        else:
            f = self.losses[:, numbers].transpose(0, 1)
        tf = self.estimator.tf
        f = f[..., 0] - f[..., 1] if self.kind is BINARY else f
        return self.kind.pullback_at(self.logits / tf, f) / tf


class Losses:
    """E[f - f0 | z_l = k] and E[(f - f0)^2 | z_l = k], from which leave-one-out moments follow."""

    def __init__(self, law: Law, f0: Tensor):
        self.law, self.f0 = law, f0  # (example,)
        self.first = torch.zeros_like(law.log_p)
        self.second = torch.zeros_like(law.log_p)

    def add(self, block: Block, log_chosen: Tensor) -> None:
        assert block.f is not None
        deviation = block.f - self.f0[:, None]
        total = log_chosen.sum(-1)
        for latent in range(self.first.shape[1]):
            given = (total - log_chosen[..., latent]).exp() * deviation  # p(z)/p_l(z_l)
            code = torch.nn.functional.one_hot(block.indices[:, latent], self.first.shape[2]).to(given)
            self.first[:, latent] += given @ code
            self.second[:, latent] += (given * deviation) @ code

    def leave_one_out(self, n: int, tf: float) -> tuple[Tensor, Tensor]:
        """Mean and variance (example, latent, category) of the estimate from n codes.

        The estimate is 1/tf times the sample covariance of f and d = 1[z_l = k]. The variance of that covariance is
        mu22/n - (n-2)/(n(n-1)) mu11^2 + mu20 mu02/(n(n-1)),  mu_ab = E[(f - Ef)^a (d - p)^b].
        """
        p = self.law.log_p.exp()
        others = (1 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)) @ p[..., None]
        others = others[..., 0]  # 1 - p_k, to full precision
        mean = (p * self.first).sum(-1, keepdim=True)
        given = self.second - 2 * mean * self.first + mean.square()  # E[(f - Ef)^2 | z_l = k]
        mu11 = CATEGORICAL.pullback(p, self.first)
        mu20 = (p * given).sum(-1, keepdim=True)
        mu02 = p * others
        elsewhere = (p * given) @ (1 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device))
        mu22 = p * others.square() * given + p.square() * elsewhere
        variance = mu22 / n - (n - 2) / (n * (n - 1)) * mu11.square() + mu20 * mu02 / (n * (n - 1))
        return mu11 / tf, variance.clamp(min=0.0) / tf**2


class Derivatives:
    """E[v'|z_l = k] and E[v' v'^T | z_l = k] with v' = v - v_k: the decoder's part of noise integrals.

    Computed for all laws together, because they share the outer products.
    """

    def __init__(self, laws: dict[float, Law]):
        self.tfs = list(laws)
        self.log_p = torch.stack([law.log_p for law in laws.values()])  # (law, example, latent, category)
        examples, latents, categories = self.log_p.shape[1:]
        shape = latents, categories, examples, len(laws)
        self.first = self.log_p.new_zeros(*shape, categories)
        self.second = self.log_p.new_zeros(*shape, categories**2)

    def numbers_per_configuration(self) -> int:
        laws, examples, latents, categories = self.log_p.shape
        return examples * (2 * categories**2 + laws * (2 + latents))

    def add(self, block: Block, counts: list[list[int]]) -> None:
        """Add a block; `counts[latent][category]` is the number of its configurations with that category."""
        assert block.v is not None
        v = torch.stack([block.v, torch.zeros_like(block.v)], -1) if block.v.ndim == 3 else block.v
        latent_of = torch.arange(block.indices.shape[1], device=v.device)
        log_chosen = self.log_p[:, :, latent_of, block.indices]  # (law, example, configuration, latent)
        total = log_chosen.sum(-1)
        for latent in range(len(self.first)):
            given = (total - log_chosen[..., latent]).exp().transpose(0, 1)  # p(z)/p_l(z_l)
            by_category = block.indices[:, latent].argsort(stable=True).split(counts[latent])
            for k, rows in enumerate(by_category):
                of_k = v[:, rows, latent]  # (example, configuration, category)
                of_k = of_k - of_k[..., k, None]
                weight = given[:, :, rows]
                self.first[latent, k] += weight @ of_k
                self.second[latent, k] += weight @ (of_k[..., :, None] * of_k[..., None, :]).flatten(2)

    def conditional(self, tf: float) -> Conditional:
        at = self.tfs.index(tf)
        first, second = (sums[:, :, :, at].permute(2, 0, 1, 3) for sums in (self.first, self.second))
        return Conditional(self.log_p[at], first, second.unflatten(-1, (first.shape[-1], -1)).contiguous())
