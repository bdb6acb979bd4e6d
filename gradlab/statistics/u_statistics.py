"""Inner products of expected values without sampling noise, and their variances.

Let e_b and r_b be the means of batches b = 1 .. B of independent draws, all batches of one size. The symmetric part of
the kernel K_bc = <e_b, r_c> gives an unbiased estimate of the inner product of the expected values:

    U = 1/(B(B-1)) sum_{b != c} K_bc

As K_bc = theta + a_b + a_c + eps_bc, all uncorrelated (Hoeffding 1948),

    Var U = 4/B Var a + 2/(B(B-1)) Var eps,

Only the second term remains if the mean itself is 0. Let h_b be the row means off the diagonal,
a^_b = (B-1)/(B-2) (h_b - U), and eps^ the remainder. Unbiased estimates are (Warner, Kenny, Stoto 1979)

    Var eps = sum_{b<c} eps^_bc^2 / (B(B-3)/2),    Var a = sum_b a^_b^2/(B-1) - Var eps/(B-2).

The jackknife counts the second term twice. Different groups of examples have independent noise, so the variance of a
sum over groups is the sum of their variances; it has much less noise than Var a of one group. Its quantile is that of
Student's t with B - 1 degrees of freedom for each of (sum of variances)^2 / (sum of squared variances) groups. A linear
statistic, the mean over b of s_b, has the kernel (s_b + s_c)/2. Intervals are those of `inversion`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .jackknife import LEVEL, Array, students_t

LEAST_BATCHES = 4


@dataclass(frozen=True)
class UStatistics:
    """Several U-statistics of the same batches, with their joint covariances."""

    value: Array  # (statistic,)
    raw: Array  # (statistic,): of the means as observed, noise included
    without: Array  # (batch, statistic): each without one batch in turn
    linear: Array  # (group, statistic, statistic): 4/B Cov a; unbiased, so not always positive definite
    observed: Array  # (statistic, statistic): 4/B Cov a^, at the observed means, positive definite
    quadratic: Array  # (group, statistic, statistic): 2/(B(B-1)) Cov eps
    of_examples: Array | None = None  # (statistic, example), where they are sums over examples
    squares_of_examples: Array | None = None  # (example,): of the squared norm of the reference's gradient, squared

    def quantile(self, weights: Array) -> float:
        """The quantile of Student's t for the 95 % interval of a weighted sum of statistics; weights (statistic,)."""
        of_groups = np.maximum(np.einsum("i,gij,j->g", weights, self.linear + self.quadratic, weights), 0.0)
        squares = float(of_groups @ of_groups)
        groups = float(of_groups.sum()) ** 2 / squares if squares else 1.0
        return students_t(LEVEL, int((len(self.without) - 1) * max(groups, 1.0)))


def u_statistics(kernels: Array) -> UStatistics:
    """The UStatistics of symmetric kernels (statistic, group, batch, batch), at least 4 batches."""
    batches = kernels.shape[-1]
    off = ~np.eye(batches, dtype=bool)
    k = np.where(off, kernels, 0.0)
    rows = k.sum(-1)  # (statistic, group, batch)
    total = rows.sum(-1)
    u = total / (batches * (batches - 1))
    without = (total[..., None] - 2 * rows) / ((batches - 1) * (batches - 2))
    a = (batches - 1) / (batches - 2) * (rows / (batches - 1) - u[..., None])
    eps = np.where(off, k - u[..., None, None] - a[..., :, None] - a[..., None, :], 0.0)
    of_eps = np.einsum("igbc,jgbc->gij", eps, eps) / (batches * (batches - 3))
    observed = np.einsum("igb,jgb->gij", a, a) / (batches - 1)
    linear = 4 / batches * (observed - of_eps / (batches - 2))
    raw = kernels.sum((-2, -1)).sum(-1) / batches**2
    quadratic = 2 / (batches * (batches - 1)) * of_eps
    return UStatistics(u.sum(1), raw, without.sum(1).T, linear, 4 / batches * observed.sum(0), quadratic)
