"""Gradient estimators: one short file per family, all behind one protocol (see base)."""

from . import relaxed, straight_through  # noqa: F401  (fills the registry)
from .base import Estimator, Relaxation
from .layers import decoupled_st_gumbel_softmax
from .registry import describe, find, get, names, parse, register

__all__ = [
    "Estimator",
    "Relaxation",
    "decoupled_st_gumbel_softmax",
    "describe",
    "find",
    "get",
    "names",
    "parse",
    "register",
]
