"""Gradient estimators: one short file per family, all behind one protocol (see base)."""

from . import (  # noqa: F401  (fills the registry)
    antithetic,
    exact,
    gst,
    gumbel_rao,
    rebar,
    relaxed,
    score_function,
    second_order,
    straight_through,
)
from .base import Estimator, Relaxation, RunningMean
from .layers import decoupled_st_gumbel_softmax
from .registry import describe, find, get, names, parse, register

__all__ = [
    "Estimator",
    "Relaxation",
    "RunningMean",
    "decoupled_st_gumbel_softmax",
    "describe",
    "find",
    "get",
    "names",
    "parse",
    "register",
]
