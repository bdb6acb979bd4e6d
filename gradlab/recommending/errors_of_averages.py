"""The matched error of an average of estimates, and how sure it is: plain float64 arrays.

With the exact gradient g, mean m and summed variance V of an estimate, and the best scale a, which a learning rate
absorbs, an average of k estimates is off by

    error^2 = min over a of E|a average - g|^2 / |g|^2 = 1 - c^2 / ((M + V/k) |g|^2),    c = <m, g>, M = |m|^2,

without the noise of measuring m (science.md, section 15). k = n / evaluations: all estimators cost n loss evaluations.
An unbiased estimator has c = M = |g|^2, and so error^2 = (V/k) / (|g|^2 + V/k). Estimates that point away from g are
best left out, a = 0: then the error is 1, as that of the answer 0.

All is a function of sums over examples of |g|^2, c, M and V, so the variance of the error is that of a sum of
influences: of examples, where there are enough (then it holds the noise of the draws too), else of batches of draws.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special  # not scipy.stats, which takes 0.7 s to import
from numpy.typing import NDArray

Array = NDArray[np.float64]
EXACT, ALONG, MEAN, VARIANCE = range(4)  # columns of `Observed.influence`
MULTIPLIERS = 4000  # of the bootstrap that finds joint quantiles


@dataclass(frozen=True)
class Observed:
    """What one round of draws says of one candidate."""

    total: Array  # (4,): |g|^2, <m, g>, |m|^2, V; without sampling noise
    along_noise: float  # variance of <m, g> over draws, which its square has on top
    influence: Array  # (unit, 4), the covariance of `total` being influence.T @ influence
    evaluations: int
    unbiased: bool  # by its formula, for the law whose gradient g is

    @property
    def degrees(self) -> int:
        return len(self.influence) - 1

    def squared_error(self, averaged: float) -> float:
        """Of an average that costs `averaged` loss evaluations; by chance beyond [0, 1]. NaN where |g| is not seen."""
        g, along, mean, spread = self._terms(averaged)
        if not (g > 0 and mean + spread > 0):
            return float("nan")
        if self.unbiased:
            return float(spread / (g + spread))
        return float(1 - (along * abs(along) - self.along_noise) / ((mean + spread) * g))

    def of_error(self, averaged: float) -> Array:
        """Influences (unit,) on the squared error: the delta method. NaN where that is."""
        g, along, mean, spread = self._terms(averaged)
        if not (g > 0 and mean + spread > 0):
            return np.full(len(self.influence), np.nan)
        per_variance = self.evaluations / averaged
        gradient = np.zeros(4)
        if self.unbiased:
            whole = (g + spread) ** 2
            gradient[EXACT], gradient[VARIANCE] = -spread / whole, per_variance * g / whole
        else:
            whole = (mean + spread) * g
            explained = (along * abs(along) - self.along_noise) / whole
            gradient[EXACT], gradient[ALONG] = explained / g, -2 * abs(along) / whole
            gradient[MEAN] = explained / (mean + spread)
            gradient[VARIANCE] = per_variance * gradient[MEAN]
        return np.asarray(self.influence @ gradient)

    def _terms(self, averaged: float) -> tuple[float, float, float, float]:
        g, along, mean, variance = (float(value) for value in self.total)
        return g, along, mean, variance * self.evaluations / averaged


def root(squared: Any) -> Any:
    """An error from its square, which chance may take beyond [0, 1]."""
    return np.sqrt(np.clip(squared, 0.0, 1.0))


def joint_quantile(influences: Array, level: float) -> float:
    """The number of standard errors within which several deviations stay together with probability `level`.

    `influences` (candidate, unit). By a multiplier bootstrap (Chernozhukov, Chetverikov, Kato 2013), with the tails of
    Student's t, whose degrees of freedom are the number of units less one.
    """
    size = np.sqrt(np.square(influences).sum(1))
    moving = influences[size > 0] / size[size > 0, None]
    if not len(moving):
        return 0.0
    largest = np.abs(_multipliers(influences.shape[1]) @ moving.T).max(1)
    normal = float(np.quantile(largest, level))
    return -float(scipy.special.stdtrit(max(1, influences.shape[1] - 1), scipy.special.ndtr(-normal)))


@functools.lru_cache(maxsize=4)
def _multipliers(units: int) -> Array:
    """Always the same: the quantile is no random number of the measurement."""
    return np.random.default_rng(units).standard_normal((MULTIPLIERS, units))
