"""The record of a metric: its name, unit, and formula on the inner products that every route computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..statistics import inversion
from ..statistics.inversion import Ends, Estimated
from ..statistics.jackknife import Array, Numbers

GRADIENT, SQUARED, NONE = "gradient", "gradient^2", "1"  # units; that of a gradient follows from the loss


class Norms(NamedTuple):
    """Squared norms and inner product of the exact gradient g and the mean estimate m, arrays of any shape."""

    exact: Array  # |g|^2
    mean: Array  # |m|^2
    along: Array  # <m, g>
    bias: Array  # |m - g|^2
    across: Array  # |m - <m, g> g / |g|^2|^2: of the part of m orthogonal to g


@dataclass(frozen=True)
class Products:
    """The input of a bias metric: norms of a mean of `draws` draws, and the variance of one, summed over coordinates.

    `draws` is infinite if the mean has no sampling noise. Arrays of any shape; formulas work element by element.
    """

    norms: Norms
    variance: Array
    draws: Array | float

    @property
    def noise(self) -> Array:
        """The sampling noise in a squared norm of the mean: variance / draws."""
        return self.variance / self.draws

    @property
    def exact_norm(self) -> Array:
        """|g|, NaN where it is 0, so that ratios to it are NaN."""
        return np.sqrt(positive(self.norms.exact))

    @property
    def squared_mean(self) -> Array:
        """|m|^2 without sampling noise, NaN where that is not positive."""
        return positive(self.without_noise(self.norms.mean))

    def without_noise(self, squared: Array) -> Array:
        """A squared norm of a mean, without sampling noise."""
        return inversion.less_noise(squared, self.noise)


class GapTerms(NamedTuple):
    """The input of a gap metric for each example and draw: arrays or tensors of one shape.

    r is the relaxed gradient, d the discrete one.
    """

    gap: Numbers  # |r - d|
    discrete: Numbers  # |d|
    divisor: Numbers  # |d|, NaN where it is 0, so that ratios to it are NaN
    relaxed: Numbers  # |r|
    along: Numbers  # <r, d>


@dataclass(frozen=True, kw_only=True)
class Record:
    """The description of a metric, which result files store.

    Parameters
    ----------
    name : name of the variable
    long_name : description in one line
    unit : `metrics.GRADIENT`, `metrics.SQUARED` or `metrics.NONE`
    bounds : smallest and largest possible value; the interval does not exceed them
    short_name : a few words for headlines and axes, by default the name
    formula : for the documentation
    rank : position in short tables, headlines and figures, which show the three lowest ranks of a file; None: only in
        full tables
    sentence : for the headline; {value} stands for value and interval, {reference} for the reference of the estimates
    below_zero_by_chance : whether it is the signed root of a square whose debiased estimate may be negative
    root : whether its square is the smooth function of sums over examples; its interval over examples is then that of
        the square
    """

    name: str
    long_name: str
    unit: str
    bounds: tuple[float, float] = (-np.inf, np.inf)
    short_name: str = ""
    formula: str = ""
    rank: float | None = None
    sentence: str = ""
    below_zero_by_chance: bool = False
    root: bool = False

    def attributes(self, of_gradient: str) -> dict[str, Any]:
        """Attributes of the variable in a file; `of_gradient` is the unit of a gradient."""
        units = {NONE: "1", GRADIENT: of_gradient, SQUARED: f"({of_gradient})^2"}
        about: dict[str, Any] = {
            "long_name": self.long_name,
            "units": units[self.unit],
            "short_name": self.short_name or self.name.replace("_", " "),
        }
        about |= {
            name: float(end) for name, end in zip(("smallest", "largest"), self.bounds, strict=True) if np.isfinite(end)
        }
        if self.rank is not None:
            about["rank"] = float(self.rank)
        if self.sentence:
            about["sentence"] = self.sentence
        if self.below_zero_by_chance:
            about["below_zero"] = "by chance"
        return about


@dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """A metric of `gradlab.bias`: a function of inner products, because every route computes these.

    With an exact reference, its interval is `interval` if given, else a jackknife over batches of draws. With a sampled
    reference, it is `reference_interval` if given, else `interval`, else a jackknife. For moments without draws, the
    interval is the value ± twice the largest change within the numerical error of mean and standard deviation.

    Parameters
    ----------
    value : function of `Products`, element by element
    interval : function of `gradlab.statistics.inversion.Estimated` that returns lower and upper end
    reference_interval : the same for a sampled reference, if it differs
    noisy : whether the metric includes sampling noise. Its interval is then that of the metric at this number of draws;
        the larger the noise, the less often it contains the value without noise
    debiased : for a noisy metric, the name of the metric without noise that replaces it against a sampled reference;
        if empty, the noisy metric is left out there
    """

    value: Callable[[Products], Array]
    interval: Callable[[Estimated], Ends] | None = None
    reference_interval: Callable[[Estimated], Ends] | None = None
    noisy: bool = False
    debiased: str = ""

    def attributes(self, of_gradient: str) -> dict[str, Any]:
        """Attributes of the variable; those of a noisy metric say that it is noisy."""
        return super().attributes(of_gradient) | ({"sampling_noise": "included"} if self.noisy else {})


@dataclass(frozen=True, kw_only=True)
class GapMetric(Record):
    """A metric of `gradlab.gap`: a function of means over examples and draws, with a jackknife interval.

    Parameters
    ----------
    terms : function of `GapTerms` that returns a tuple of arrays; their means leave out NaN
    value : function of these means in order, element by element; by default the first mean
    """

    terms: Callable[[GapTerms], tuple[Numbers, ...]]
    value: Callable[..., Array] = lambda mean: mean


def positive(squared: Array) -> Array:
    """The numbers, NaN where they are not above 0."""
    return np.where(squared > 0, squared, np.nan)


def signed_root(squared: Array) -> Array:
    """sign(s) sqrt|s|: a squared bias that noise made negative stays visible as a negative norm."""
    return np.sign(squared) * np.sqrt(np.abs(squared))
