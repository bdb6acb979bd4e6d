"""What a metric is: a record with its name, unit and formula, on the inner products that every route knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..fidelity.inversion import Ends, Estimated
from ..fidelity.jackknife import Array, Numbers

GRADIENT, SQUARED, NONE = "gradient", "gradient^2", "1"  # units; that of a gradient follows from the loss


class Norms(NamedTuple):
    """Of the exact gradient g and the mean m, each (...): squared norms, and an inner product."""

    exact: Array  # |g|^2
    mean: Array  # |m|^2
    along: Array  # <m, g>
    bias: Array  # |m - g|^2
    across: Array  # |m - <m, g> g / |g|^2|^2: what m has orthogonal to g


@dataclass(frozen=True)
class Products:
    """What a metric of bias sees: norms of a mean of `draws` draws, and the variance of one, summed over coordinates.

    `draws` is infinite where the mean has no sampling noise. Arrays of any shape; formulas work element by element.
    """

    norms: Norms
    variance: Array
    draws: Array | float

    @property
    def noise(self) -> Array:
        """What sampling adds to a squared norm of the mean."""
        return self.variance / self.draws

    @property
    def exact_norm(self) -> Array:
        """|g|, NaN where it is 0: nothing is relative to that."""
        return np.sqrt(positive(self.norms.exact))

    @property
    def squared_mean(self) -> Array:
        """|m|^2 without noise, NaN where nothing is left of it."""
        return positive(self.norms.mean - self.noise)


class GapTerms(NamedTuple):
    """What a metric of the gap sees, of each example and draw: arrays or tensors of one shape.

    r is the relaxed gradient, d the discrete one.
    """

    gap: Numbers  # |r - d|
    discrete: Numbers  # |d|
    divisor: Numbers  # |d|, NaN where it is 0: nothing is relative to that
    relaxed: Numbers  # |r|
    along: Numbers  # <r, d>


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a metric whatever it is computed from; a file says all of it.

    Parameters
    ----------
    name : of the variable
    long_name : what it is, in one line
    unit : `metrics.GRADIENT`, `metrics.SQUARED` or `metrics.NONE`
    bounds : its smallest and largest value; the ends of its interval stay within
    short_name : a few words for headlines and axes, by default the name
    formula : for the documentation
    rank : place in short tables, headlines and figures, which show the three lowest ranks of a file; None: in full
        tables only
    sentence : for the headline; {value} stands for value and interval, {reference} for what estimates are held against
    below_zero_by_chance : whether it is the root of a square that is never negative, estimated without sampling noise
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

    def attributes(self, of_gradient: str) -> dict[str, Any]:
        """What a file says of it, `of_gradient` being the unit of a gradient."""
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
    """A metric of `gradlab.bias`: a function of inner products, since those are what every route knows.

    Against an exact gradient its interval is that of `interval`, without one by jackknife over batches of draws;
    against a sampled reference that of `reference_interval`, else of `interval`, else by jackknife. Of moments without
    draws the ends are twice the largest change within the numerical error of mean and standard deviation.

    Parameters
    ----------
    value : of `Products`, element by element
    interval : of `gradlab.fidelity.inversion.Estimated`, lower and upper end
    reference_interval : where the reference is sampled, if another one
    noisy : whether it includes what sampling adds. Then so does its interval, which is that of the metric at this
        number of draws, and holds the estimator's own value the less the larger the noise
    debiased : of a noisy metric, the name of the one without noise that stands for it against a sampled reference,
        where nothing includes noise; without one a noisy metric is left out there
    """

    value: Callable[[Products], Array]
    interval: Callable[[Estimated], Ends] | None = None
    reference_interval: Callable[[Estimated], Ends] | None = None
    noisy: bool = False
    debiased: str = ""

    def attributes(self, of_gradient: str) -> dict[str, Any]:
        """As of every record; a noisy metric says so."""
        return super().attributes(of_gradient) | ({"sampling_noise": "included"} if self.noisy else {})


@dataclass(frozen=True, kw_only=True)
class GapMetric(Record):
    """A metric of `gradlab.gap`: a function of means over examples and draws. Its interval is by jackknife.

    Parameters
    ----------
    terms : of `GapTerms`: what the means are taken of, where it is not NaN
    value : of these means, in their order, element by element; by default the first
    """

    terms: Callable[[GapTerms], tuple[Numbers, ...]]
    value: Callable[..., Array] = lambda mean: mean


def positive(squared: Array) -> Array:
    """The numbers, NaN where they are not above 0."""
    return np.where(squared > 0, squared, np.nan)


def signed_root(squared: Array) -> Array:
    """sign(s) sqrt|s|: a squared bias that noise made negative stays visible as a negative norm."""
    return np.sign(squared) * np.sqrt(np.abs(squared))
