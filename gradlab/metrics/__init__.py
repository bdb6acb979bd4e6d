"""Metrics of fidelity: a record each, which says what it is, how it is found, and how it is shown.

`gradlab.bias` and `gradlab.gap` compute every registered metric, yours included, with its interval.
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
