"""Inner products of means without the noise of sampling them, functions of these, and their intervals.

With means e_b, r_b of batches b = 1 .. B of independent draws, batches of one size, the kernel K_bc = <e_b, r_c>,
made symmetric, gives an unbiased estimate of the inner product of the expected values:

    U = 1/(B(B-1)) sum_{b != c} K_bc

As K_bc = theta + a_b + a_c + eps_bc, all uncorrelated (Hoeffding 1948),

    Var U = 4/B Var a + 2/(B(B-1)) Var eps,

the second term being all that is left where the mean itself is 0. With row means h_b of the off-diagonal,
a^_b = (B-1)/(B-2) (h_b - U) and eps^ what remains, unbiased estimates are (Warner, Kenny, Stoto 1979)

    Var eps = sum_{b<c} eps^_bc^2 / (B(B-3)/2),    Var a = sum_b a^_b^2/(B-1) - Var eps/(B-2).

The jackknife would count the second term twice. Sums over groups of examples, whose noise is independent, have the sum
of their variances, which is all but free of the noise that Var a has in one group; the quantile is that of Student's t
with B - 1 degrees for each of (sum of variances)^2 / (sum of their squares) groups. A statistic that is linear, a mean
over b of s_b, has the kernel (s_b + s_c)/2.

U is taken for normal, which it is nearly if many coordinates contribute. Of 1,000 intervals of a squared bias over the
exact gradient's, 92.5 % held the truth on a problem of 30 coordinates whose bias was barely resolved, and 98.5 % where
there was no bias, the clip of Var a at 0 making them wider; of 200 on an 8x4 VAE with 640, 96.5 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import LEVEL, Array, students_t

LEAST_BATCHES = 4


@dataclass(frozen=True)
class UStatistics:
    """Several U-statistics of the same batches, with their joint variance."""

    value: Array  # (statistic,)
    without: Array  # (batch, statistic): each without one batch in turn
    linear: Array  # (group, statistic, statistic): 4/B Cov a; not always positive definite, being unbiased
    quadratic: Array  # (group, statistic, statistic): 2/(B(B-1)) Cov eps

    def variance(self, weights: Array) -> float:
        """Of the sum of weights (statistic,) times the statistics; that of each part at least 0."""
        linear, quadratic = (weights @ part.sum(0) @ weights for part in (self.linear, self.quadratic))
        return max(float(linear), 0.0) + max(float(quadratic), 0.0)  # the latter but for rounding

    def covariance(self, one: Array, other: Array) -> float:
        """Of two such sums, by polarisation."""
        return (self.variance(one + other) - self.variance(one - other)) / 4

    def quantile(self, weights: Array) -> float:
        """Of Student's t, for the 95 % interval of such a sum."""
        of_groups = np.maximum(np.einsum("i,gij,j->g", weights, self.linear + self.quadratic, weights), 0.0)
        squares = float(of_groups @ of_groups)
        groups = float(of_groups.sum()) ** 2 / squares if squares else 1.0
        return students_t(LEVEL, int((len(self.without) - 1) * max(groups, 1.0)))

    def half_width(self, weights: Array) -> float:
        return self.quantile(weights) * float(np.sqrt(self.variance(weights)))


def u_statistics(kernels: Array) -> UStatistics:
    """From symmetric kernels (statistic, group, batch, batch), whose diagonals do not matter; at least 4 batches."""
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
    of_a = np.einsum("igb,jgb->gij", a, a) / (batches - 1) - of_eps / (batches - 2)
    return UStatistics(u.sum(1), without.sum(1).T, 4 / batches * of_a, 2 / (batches * (batches - 1)) * of_eps)


Interval = tuple[float, float, float]  # value, lower and upper end


def combined(of: UStatistics, weights: Array) -> Interval:
    """Of a sum of weights (statistic,) times the statistics."""
    value, half = float(weights @ of.value), of.half_width(weights)
    return value, value - half, value + half


def ratio(of: UStatistics, above: Array, below: Array) -> Interval:
    """Of the ratio of two such sums (Fieller 1954); NaN where `below` is not positive.

    The interval holds every rho for which above - rho below is not resolved from 0, and has no ends where `below`
    itself is not.
    """
    n, d = float(above @ of.value), float(below @ of.value)
    value = n / d if d > 0 else np.nan
    t2 = of.quantile(above - value * below) ** 2 if d > 0 else np.inf
    a = d * d - t2 * of.variance(below)
    if not a > 0:
        return value, -np.inf, np.inf
    b = n * d - t2 * of.covariance(above, below)
    c = n * n - t2 * of.variance(above)
    half = float(np.sqrt(max(b * b - a * c, 0.0)))
    return value, (b - half) / a, (b + half) / a


def smooth(of: UStatistics, value: float, gradient: Array) -> Interval:
    """Of a function of the statistics with this value and gradient (statistic,), to first order."""
    half = of.half_width(gradient)
    return value, value - half, value + half
