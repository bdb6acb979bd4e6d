"""Inner products of means without the noise of sampling them, and how sure they are.

With means e_b, r_b of batches b = 1 .. B of independent draws, batches of one size, the kernel K_bc = <e_b, r_c>,
made symmetric, gives an unbiased estimate of the inner product of the expected values:

    U = 1/(B(B-1)) sum_{b != c} K_bc

As K_bc = theta + a_b + a_c + eps_bc, all uncorrelated (Hoeffding 1948),

    Var U = 4/B Var a + 2/(B(B-1)) Var eps,

the second term being all that is left where the mean itself is 0. With row means h_b of the off-diagonal,
a^_b = (B-1)/(B-2) (h_b - U) and eps^ what remains, unbiased estimates are (Warner, Kenny, Stoto 1979)

    Var eps = sum_{b<c} eps^_bc^2 / (B(B-3)/2),    Var a = sum_b a^_b^2/(B-1) - Var eps/(B-2).

The jackknife would count the second term twice. Sums over groups of examples, whose noise is independent, have the sum
of their variances, which is almost free of the noise that Var a has in one group; the quantile is that of Student's t
with B - 1 degrees for each of (sum of variances)^2 / (sum of their squares) groups. A statistic that is linear, a mean
over b of s_b, has the kernel (s_b + s_c)/2. Intervals are those of `inversion`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .jackknife import LEVEL, Array, students_t

LEAST_BATCHES = 4


@dataclass(frozen=True)
class UStatistics:
    """Several U-statistics of the same batches, with their joint variance."""

    value: Array  # (statistic,)
    raw: Array  # (statistic,): of the means as observed, noise included
    without: Array  # (batch, statistic): each without one batch in turn
    linear: Array  # (group, statistic, statistic): 4/B Cov a; not always positive definite, being unbiased
    observed: Array  # (statistic, statistic): 4/B Cov a^, at the observed means, positive definite
    quadratic: Array  # (group, statistic, statistic): 2/(B(B-1)) Cov eps

    def quantile(self, weights: Array) -> float:
        """Of Student's t, for the 95 % interval of a sum of weights (statistic,) times the statistics."""
        of_groups = np.maximum(np.einsum("i,gij,j->g", weights, self.linear + self.quadratic, weights), 0.0)
        squares = float(of_groups @ of_groups)
        groups = float(of_groups.sum()) ** 2 / squares if squares else 1.0
        return students_t(LEVEL, int((len(self.without) - 1) * max(groups, 1.0)))


def u_statistics(kernels: Array) -> UStatistics:
    """From symmetric kernels (statistic, group, batch, batch), at least 4 batches."""
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
