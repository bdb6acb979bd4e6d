"""The figures of bias and variance from inner products, where the gradient itself is known by an unbiased reference.

With e and r the means of estimate and reference over the draws, all without the noise of sampling them (u_statistics):

    |bias|^2 = <e, e> - 2 <e, r> + <r, r>,  unbiased at any number of draws (E[(e1 - r1).(e2 - r2)] of two draws)
    |g|^2 = <r, r>,   cosine = <e, r> / (|e| |r|),   matched bias = sqrt(1 - cosine^2),  at the scale <e, r> / |e|^2

A ratio has Fieller's interval, which has no ends where the reference does not tell |g| from 0.
"""

from __future__ import annotations

import numpy as np

from .metrics import Array, signed_root
from .u_statistics import Interval, UStatistics, combined, ratio, smooth

# the statistics, in this order
STATISTICS = ("estimate.estimate", "estimate.reference", "reference.reference", "variance")
_EE, _ER, _RR, _VAR = np.eye(4)
_BIAS = _EE - 2 * _ER + _RR

# name -> (what it is, smallest and largest value it can take)
FIGURES: dict[str, tuple[str, float, float]] = {
    "exact_norm": ("norm of the exact gradient, by an unbiased reference", -np.inf, np.inf),
    "mean_norm": ("norm of the mean estimate, sampling noise subtracted", -np.inf, np.inf),
    "std_norm": ("root of the summed variances of the estimate", 0, np.inf),
    "squared_bias_debiased": ("squared norm of the bias, sampling noise subtracted", -np.inf, np.inf),
    "bias_norm_debiased": ("norm of the bias, sampling noise subtracted", -np.inf, np.inf),
    "relative_bias_debiased": ("bias over exact gradient (norms), sampling noise subtracted", -np.inf, np.inf),
    "relative_std": ("root of the summed variances over norm of the exact gradient", 0, np.inf),
    "cosine": ("cosine between mean estimate and exact gradient, sampling noise subtracted", -1, 1),
    "matched_bias": (
        "smallest |a * mean estimate - exact gradient| over |exact gradient|, sampling noise subtracted",
        -1,
        1,
    ),
    "matched_scale": ("the scale a at which matched_bias is reached", -np.inf, np.inf),
}


def intervals(of: UStatistics) -> dict[str, Interval]:
    """All of FIGURES, each with its 95 % interval; signed roots where the square may come out negative."""
    found = {
        "exact_norm": _root(combined(of, _RR)),
        "mean_norm": _root(combined(of, _EE)),
        "std_norm": _root(combined(of, _VAR)),
        "squared_bias_debiased": combined(of, _BIAS),
        "bias_norm_debiased": _root(combined(of, _BIAS)),
        "relative_bias_debiased": _root(ratio(of, _BIAS, _RR)),
        "relative_std": _root(ratio(of, _VAR, _RR)),
        "cosine": _cosine(of),
        "matched_bias": _root(_squared_sine(of)),
        "matched_scale": ratio(of, _ER, _EE),
    }
    return {name: _within(FIGURES[name], found[name]) for name in FIGURES}


def values(statistics: Array) -> dict[str, Array]:
    """The figures alone, from statistics (..., statistic)."""
    ee, er, rr, variance = np.moveaxis(statistics, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared_bias = ee - 2 * er + rr
        positive_rr, positive_ee = (np.where(square > 0, square, np.nan) for square in (rr, ee))
        squared_cosine = er * np.abs(er) / (positive_ee * positive_rr)
        found = {
            "exact_norm": signed_root(rr),
            "mean_norm": signed_root(ee),
            "std_norm": signed_root(variance),
            "squared_bias_debiased": squared_bias,
            "bias_norm_debiased": signed_root(squared_bias),
            "relative_bias_debiased": signed_root(squared_bias / positive_rr),
            "relative_std": signed_root(variance / positive_rr),
            "cosine": np.clip(signed_root(squared_cosine), -1, 1),
            "matched_bias": signed_root(np.clip(1 - np.abs(squared_cosine), -1, 1)),
            "matched_scale": er / positive_ee,
        }
    return {name: found[name] for name in FIGURES}


def _root(interval: Interval) -> Interval:
    """Of the square's interval, which is what is nearly normal."""
    value, low, high = (float(signed_root(np.asarray(end))) for end in interval)
    return value, low, high


def _cosine(of: UStatistics) -> Interval:
    ee, er, rr, _ = of.value
    if ee <= 0 or rr <= 0:
        return np.nan, -np.inf, np.inf
    scale = np.sqrt(ee * rr)
    cosine = er / scale
    return smooth(of, float(cosine), -cosine / (2 * ee) * _EE + _ER / scale - cosine / (2 * rr) * _RR)


def _squared_sine(of: UStatistics) -> Interval:
    ee, er, rr, _ = of.value
    if ee <= 0 or rr <= 0:
        return np.nan, -np.inf, np.inf
    squared = er * er / (ee * rr)
    return smooth(of, float(1 - squared), squared / ee * _EE - 2 * er / (ee * rr) * _ER + squared / rr * _RR)


def _within(figure: tuple[str, float, float], interval: Interval) -> Interval:
    _, least, most = figure
    value, low, high = (min(max(end, least), most) for end in interval)  # NaN stays: it compares as False
    return value, low, high
