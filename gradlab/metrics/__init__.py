"""Metrics of fidelity: one record each, with its formula, interval, unit and place in tables and figures.

`gradlab.bias` and `gradlab.gap` compute every registered metric, including your own, with its interval.
"""

from __future__ import annotations

from .record import GRADIENT, NONE, SQUARED, GapMetric, GapTerms, Metric, Norms, Products
from .registry import describe, get, names, register

__all__ = [
    "GRADIENT",
    "NONE",
    "SQUARED",
    "GapMetric",
    "GapTerms",
    "Metric",
    "Norms",
    "Products",
    "describe",
    "get",
    "names",
    "register",
]
