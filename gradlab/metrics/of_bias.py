"""The metrics of bias and variance, one record each, on plain float64 arrays.

With m the mean estimate over N draws, var its per-coordinate variance (N - 1), g the exact gradient; norms run over all
coordinates (example, latent, category):

    squared bias, debiased = |m - g|^2 - sum(var)/N     since E|m - g|^2 = |bias|^2 + sum(var)/N
    squared norm of the mean, debiased = |m|^2 - sum(var)/N
    matched bias = min over a of |a m - g| / |g| = sqrt(1 - cosine^2),  at the scale a = <m, g> / |m|^2

"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..statistics import inversion
from ..statistics.inversion import ALONG, BIAS, EXACT, MEAN, VARIANCE, Ends, Estimated
from ..statistics.jackknife import Array
from .record import GRADIENT, NONE, SQUARED, Metric, Products, positive, signed_root


def rooted(interval: Callable[[Estimated], Ends]) -> Callable[[Estimated], Ends]:
    """An interval function for a signed root, made from that of its square."""

    def found(of: Estimated) -> Ends:
        low, high = interval(of)
        return signed_root(low), signed_root(high)

    return found


SAMPLED = "sampling noise included: of this number of draws"
_FREE = "sampling noise subtracted"
_BIAS = "norm of mean estimate minus exact gradient"
_COSINE = "cosine between mean estimate and exact gradient"
_MATCHED = "smallest |a * mean estimate - exact gradient| over |exact gradient|"
_POSITIVE = (0, np.inf)


def _matched_bias(p: Products) -> Array:
    sine = np.sqrt(np.minimum(inversion.over(p.norms.across, p.norms.mean), 1.0))
    return np.where(p.norms.exact > 0, np.where(p.norms.mean > 0, sine, 1.0), np.nan)


def _matched_bias_debiased(p: Products) -> Array:
    return np.where(p.norms.exact > 0, signed_root(p.without_noise(p.norms.across) / p.squared_mean), np.nan)


_SQUARED_MEAN = partial(inversion.squared_norm, k=MEAN)
_SQUARED_BIAS = partial(inversion.squared_norm, k=BIAS)
_BIAS_RATIO = partial(inversion.ratio, above=BIAS, below=EXACT)
_SPREAD_RATIO = partial(inversion.ratio, above=VARIANCE, below=EXACT)
_SCALE = partial(inversion.ratio, above=ALONG, below=MEAN)

METRICS = (
    Metric(
        name="mean_norm",
        long_name=f"norm of the mean estimate, {SAMPLED}",
        unit=GRADIENT,
        bounds=_POSITIVE,
        value=lambda p: np.sqrt(p.norms.mean),
        noisy=True,
        debiased="mean_norm_debiased",
        formula="‖m‖",
    ),
    Metric(
        name="mean_norm_debiased",
        long_name=f"norm of the mean estimate, {_FREE}",
        unit=GRADIENT,
        value=lambda p: signed_root(p.without_noise(p.norms.mean)),
        interval=rooted(_SQUARED_MEAN),
        formula="√M, M = ‖m‖² − V / N, with the sign of M",
        short_name="norm of the mean estimate",
        below_zero_by_chance=True,
    ),
    Metric(
        name="std_norm",
        long_name="root of the summed variances of the estimate",
        unit=GRADIENT,
        bounds=_POSITIVE,
        value=lambda p: np.sqrt(p.variance),
        reference_interval=rooted(inversion.summed_variance),
        formula="√V, V = Σ var",
        short_name="standard deviation",
        rank=6,
    ),
    Metric(
        name="bias_norm",
        long_name=f"{_BIAS}, {SAMPLED}",
        unit=GRADIENT,
        bounds=_POSITIVE,
        value=lambda p: np.sqrt(p.norms.bias),
        noisy=True,
        formula="‖m − g‖",
    ),
    Metric(
        name="squared_bias_debiased",
        long_name=f"squared norm of the bias, {_FREE}",
        unit=SQUARED,
        value=lambda p: p.without_noise(p.norms.bias),
        interval=_SQUARED_BIAS,
        formula="‖m − g‖² − V / N",
    ),
    Metric(
        name="bias_norm_debiased",
        long_name=f"norm of the bias, {_FREE}",
        unit=GRADIENT,
        value=lambda p: signed_root(p.without_noise(p.norms.bias)),
        interval=rooted(_SQUARED_BIAS),
        formula="root of `squared_bias_debiased`, with its sign",
        short_name="bias",
        rank=5,
    ),
    Metric(
        name="relative_bias",
        long_name=f"bias over exact gradient (norms), {SAMPLED}",
        unit=NONE,
        root=True,
        bounds=_POSITIVE,
        value=lambda p: np.sqrt(p.norms.bias) / p.exact_norm,
        noisy=True,
        formula="‖m − g‖ / ‖g‖ (the paper's, as a batch norm)",
    ),
    Metric(
        name="relative_bias_debiased",
        long_name=f"bias over exact gradient (norms), {_FREE}",
        unit=NONE,
        root=True,
        value=lambda p: signed_root(p.without_noise(p.norms.bias)) / p.exact_norm,
        interval=rooted(_BIAS_RATIO),
        formula="`bias_norm_debiased` / ‖g‖",
        short_name="relative bias",
        rank=1,
        sentence="on average the estimate is off {reference} by {value} of its length",
        below_zero_by_chance=True,
    ),
    Metric(
        name="relative_std",
        long_name="root of the summed variances over norm of the exact gradient",
        unit=NONE,
        root=True,
        bounds=_POSITIVE,
        value=lambda p: np.sqrt(p.variance) / p.exact_norm,
        reference_interval=rooted(_SPREAD_RATIO),
        formula='√V / ‖g‖ (the paper\'s "variance" is the standard deviation)',
        short_name="relative standard deviation",
        rank=2,
        sentence="a single one scatters by {value} times that length",
    ),
    Metric(
        name="cosine",
        long_name=f"{_COSINE}, {SAMPLED}",
        unit=NONE,
        bounds=(-1, 1),
        value=lambda p: np.clip(p.norms.along / (np.sqrt(positive(p.norms.mean)) * p.exact_norm), -1, 1),
        noisy=True,
        debiased="cosine_debiased",
        formula="⟨m, g⟩ / (‖m‖ ‖g‖)",
    ),
    Metric(
        name="cosine_debiased",
        long_name=f"{_COSINE}, {_FREE}, by chance beyond 1",
        unit=NONE,
        bounds=(-1, 1),
        value=lambda p: p.norms.along / (np.sqrt(p.squared_mean) * p.exact_norm),
        interval=inversion.cosine,
        formula="⟨m, g⟩ / (√M ‖g‖); by chance beyond 1",
        short_name="cosine",
        rank=3,
        sentence="the cosine between mean estimate and gradient is {value}",
    ),
    Metric(
        name="matched_bias",
        long_name=f"{_MATCHED}, {SAMPLED}",
        unit=NONE,
        root=True,
        bounds=(0, 1),
        value=_matched_bias,
        noisy=True,
        debiased="matched_bias_debiased",
        formula="min over a of ‖a m − g‖ / ‖g‖: the bias a learning rate cannot absorb",
    ),
    Metric(
        name="matched_bias_debiased",
        long_name=f"{_MATCHED}, {_FREE}",
        unit=NONE,
        root=True,
        bounds=(-np.inf, 1),
        value=_matched_bias_debiased,
        interval=rooted(inversion.squared_sine),
        formula="√(1 − `cosine_debiased`²), negative where the square is",
        short_name="matched bias",
        rank=4,
        below_zero_by_chance=True,
    ),
    Metric(
        name="matched_scale",
        long_name=f"the scale a at which matched_bias is reached, {SAMPLED}",
        unit=NONE,
        value=lambda p: inversion.over(p.norms.along, p.norms.mean),
        noisy=True,
        debiased="matched_scale_debiased",
        formula="⟨m, g⟩ / ‖m‖², the a of `matched_bias`",
    ),
    Metric(
        name="matched_scale_debiased",
        long_name=f"the scale a at which matched_bias_debiased is reached, {_FREE}",
        unit=NONE,
        value=lambda p: p.norms.along / p.squared_mean,
        interval=_SCALE,
        formula="⟨m, g⟩ / M, the a of `matched_bias_debiased`",
        short_name="matched scale",
    ),
)
