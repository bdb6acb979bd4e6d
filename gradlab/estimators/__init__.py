"""Gradient estimators: one short file per family, all behind one protocol (see base)."""

from . import (  # noqa: F401  (fills the registry)
    antithetic,
    exact,
    gst,
    gumbel_rao,
    parameters,
    rebar,
    relaxed,
    score_function,
    second_order,
    straight_through,
)
from .base import Estimator, Relaxation, RunningMean, centre_step, estimate_of, points_of
from .layers import decoupled_st_gumbel_softmax, gumbel_softmax, surrogate_loss
from .registry import describe, find, get, is_built_in, names, parse, register

__all__ = [
    "Estimator",
    "Relaxation",
    "RunningMean",
    "centre_step",
    "decoupled_st_gumbel_softmax",
    "describe",
    "estimate_of",
    "find",
    "get",
    "gumbel_softmax",
    "is_built_in",
    "names",
    "parameters",
    "parse",
    "points_of",
    "register",
    "surrogate_loss",
]
