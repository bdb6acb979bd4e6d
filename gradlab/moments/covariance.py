"""Covariance of an estimate over all D logits of an example, without sampling. The encoder's gradients need it.

The noise of different examples is independent. Let J_b be the derivative of example b's logits with respect to theta,
and C_b the covariance (D, D) of its estimate e_b. Then the variances of (1/B) sum_b J_b^T e_b, summed over the entries
of theta, are (1/B^2) sum_b <C_b, J_b J_b^T>. C is computed as follows:

    function of the code    C = Cov_z e(z), by enumeration
    leave-one-out           C of a sample covariance of n codes, from E[f^a 1[z_l = k, z_m = j]] with a = 0, 1, 2; of
                            codes that are not one-hot, from E[f^a s s^T] with the score s
    noise integral          given the code, the noise of different latents is independent. Between latents
                            C = Cov_z a(z) with a_l(z) = (1/tb) E[J(q_l)|z_l] v_l(z); within a latent, `noise` gives C
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..latents import LatentKind
from .enumeration import Block, Law
from .noise import Integral, Relaxed


class OfCode:
    """Cov_z y(z) (example, D, D), where `values(block)` gives y (configuration, example, latent[, category])."""

    def __init__(self, values: Callable[[Block], Tensor], first: Block):
        self.values = values
        self.centre = values(first)[0].flatten(1)  # y at the most probable code of each example (see `enumeration`)
        examples, size = self.centre.shape
        self.first = torch.zeros_like(self.centre)
        self.second = self.centre.new_zeros(examples, size, size)

    def add(self, block: Block, log_chosen: Tensor) -> None:
        deviation = (self.values(block).flatten(2) - self.centre).transpose(0, 1)  # (example, configuration, D)
        weighted = log_chosen.sum(-1).exp()[..., None] * deviation
        self.first += weighted.sum(1)
        self.second += weighted.mT @ deviation

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each (example, D)."""
        variance = self.second.diagonal(dim1=1, dim2=2) - self.first.square()
        return self.centre + self.first, variance.clamp(min=0.0)

    def covariance(self) -> Tensor:
        return self.second - self.first[:, :, None] * self.first[:, None, :]


class OfLosses:
    """E[(f - f0)^a 1[z_l = k, z_m = j]] for a = 1, 2, from which the covariance of leave-one-out estimators follows."""

    def __init__(self, law: Law, f0: Tensor):
        self.law, self.f0 = law, f0  # (example,)
        size = law.log_p[0].numel()
        self.sums = law.log_p.new_zeros(2, len(f0), size, size)

    def add(self, block: Block, log_chosen: Tensor) -> None:
        assert block.f is not None
        p = self.law.log_p
        code = torch.nn.functional.one_hot(block.indices, p.shape[2]).to(p).flatten(1)  # (configuration, D)
        deviation = block.f - self.f0[:, None]
        weight = log_chosen.sum(-1).exp() * deviation
        for sums, by in zip(self.sums, (weight, weight * deviation), strict=True):
            sums += (by[:, :, None] * code).mT @ code

    def covariance(self, n: int, tf: float) -> Tensor:
        """Covariance (example, D, D) of the estimate from n codes.

        With d = 1[z_l = k] - p_k and mu_ab = E[(f - Ef)^a d^b], it is
        1/tf^2 (mu22/n - (n-2)/(n(n-1)) mu11 mu11^T + mu20 mu02/(n(n-1))).
        """
        p = self.law.log_p.exp()
        latent, categories = p.shape[1:]
        flat = p.flatten(1)
        joint = flat[:, :, None] * flat[:, None, :]  # E[1[z_l = k, z_m = j]]
        within = torch.block_diag(*torch.ones(latent, categories, categories, dtype=p.dtype)).to(p.device)
        one = torch.diag_embed(flat) + joint * (1 - within)
        mean = self._total(self.sums[0], categories)
        centred = [
            one,
            self.sums[0] - mean[:, None, None] * one,
            self.sums[1] - 2 * mean[:, None, None] * self.sums[0] + mean.square()[:, None, None] * one,
        ]

        def of_d(moment: Tensor) -> Tensor:
            """E[w d d^T] from E[w 1 1^T]."""
            single = moment.diagonal(dim1=1, dim2=2)
            crossed = single[:, :, None] * flat[:, None, :]
            return moment - crossed - crossed.mT + self._total(moment, categories)[:, None, None] * joint

        mu11 = centred[1].diagonal(dim1=1, dim2=2) - self._total(centred[1], categories)[:, None] * flat
        mu20 = self._total(centred[2], categories)[:, None, None]
        found = of_d(centred[2]) / n - (n - 2) / (n * (n - 1)) * mu11[:, :, None] * mu11[:, None, :]
        return (found + mu20 * of_d(one) / (n * (n - 1))) / tf**2

    @staticmethod
    def _total(moment: Tensor, categories: int) -> Tensor:
        """E[w] (example,) from E[w 1 1^T]: summed over the categories of a latent."""
        return moment.diagonal(dim1=1, dim2=2)[:, :categories].sum(1)


class OfScores:
    """E[(f - f0)^a s s^T] for a = 0, 1, 2, with s = d log p(z)/da: moments of leave-one-out estimators of any codes.

    The estimate from n codes is 1/tf times the sample covariance of f and s. With mu_ab = E[(f - Ef)^a s^b] and Es = 0,
    its mean is mu11/tf, its covariance 1/tf^2 (mu22/n - (n-2)/(n(n-1)) mu11 mu11^T + mu20 mu02/(n(n-1))).
    """

    def __init__(self, kind: LatentKind, logits: Tensor, tf: float, f0: Tensor, whole: bool):
        """`whole`: products of all entries of s, else their squares alone."""
        self.kind, self.a, self.f0, self.whole = kind, logits / tf, f0, whole
        size = logits[0].numel()
        self.of_f = logits.new_zeros(3, len(f0))
        self.first = logits.new_zeros(len(f0), size)
        self.second = logits.new_zeros(3, len(f0), *(size, size)[: 1 + whole])

    def add(self, block: Block, log_chosen: Tensor) -> None:
        assert block.f is not None
        s = self.kind.score(self.a, block.codes[:, None]).flatten(2).transpose(0, 1)  # (example, configuration, D)
        deviation, weight = block.f - self.f0[:, None], log_chosen.sum(-1).exp()
        for power in range(3):
            weighted = weight[..., None] * s
            self.of_f[power] += weight.sum(1)
            self.second[power] += weighted.mT @ s if self.whole else (weighted * s).sum(1)
            if power == 1:
                self.first += weighted.sum(1)
            weight = weight * deviation

    def leave_one_out(self, n: int, tf: float) -> tuple[Tensor, Tensor]:
        """Mean and variance (example, latent, category) of the estimate from n codes."""
        variance = self._second(n, tf, self.first.square(), lambda moments: moments)
        return (self.first / tf).reshape(self.a.shape), variance.clamp(min=0.0).reshape(self.a.shape)

    def covariance(self, n: int, tf: float) -> Tensor:
        """Covariance (example, D, D) of the estimate from n codes."""
        return self._second(n, tf, self.first[:, :, None] * self.first[:, None, :], lambda moments: moments[..., None])

    def _second(self, n: int, tf: float, squared_mean: Tensor, shaped: Callable[[Tensor], Tensor]) -> Tensor:
        mean, mean_square = (shaped(moments[:, None]) for moments in self.of_f[1:])
        mu20 = mean_square - mean.square()
        mu22 = self.second[2] - 2 * mean * self.second[1] + mean.square() * self.second[0]
        return (mu22 / n - (n - 2) / (n * (n - 1)) * squared_mean + mu20 * self.second[0] / (n * (n - 1))) / tf**2


def given_code(law: Relaxed, integral: Integral, binary: bool) -> Callable[[Block], Tensor]:
    """A function of a block: a(z) (configuration, example, latent[, category]), the estimate's mean over the noise."""
    assert integral.jacobian is not None
    jacobian = integral.jacobian  # (example, latent, k, j, category): E[J(q_l) | z_l = k]

    def values(block: Block) -> Tensor:
        assert block.v is not None
        v = torch.stack([block.v, torch.zeros_like(block.v)], -1) if binary else block.v
        examples = torch.arange(len(v), device=v.device)[:, None, None]
        latent = torch.arange(v.shape[2], device=v.device)
        # the first block has one code per example, so its indices are (example, latent)
        own = block.codes.ndim > 2 + (not binary)
        chosen = block.indices[:, None] if own else block.indices[None]  # (example or 1, configuration, latent)
        v = v - v.gather(-1, chosen.expand(v.shape[:3])[..., None])
        found = (jacobian[examples, latent, chosen] @ v[..., None])[..., 0] / law.tb
        return (found[..., :1] if binary else found).transpose(0, 1)

    return values


def within_latents(between: Tensor, integral: Integral, binary: bool) -> Tensor:
    """The covariance (example, D, D): `between` with the blocks of single latents replaced by the integral's."""
    assert integral.covariance is not None
    blocks = integral.covariance[..., :1, :1] if binary else integral.covariance  # (example, latent, K, K)
    size = blocks.shape[-1]
    found = between.clone()
    for latent in range(blocks.shape[1]):
        at = slice(latent * size, (latent + 1) * size)
        found[:, at, at] = blocks[:, latent]
    return found
