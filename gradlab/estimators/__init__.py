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
from .base import Estimator, Relaxation
from .evaluation import LossAt, baselines_of, estimate_of, evaluate, points_of, weighted
from .joined import Joined, Part
from .layers import decoupled_st_gumbel_softmax, gumbel_softmax, surrogate_loss
from .promises import Constant, FunctionOfCode, LeaveOneOut, NoiseIntegral, PullBack, SharedPoints
from .registry import describe, find, get, is_built_in, names, parse, register
from .running_mean import RunningMean, RunningMeans

__all__ = [
    "Constant",
    "Estimator",
    "FunctionOfCode",
    "Joined",
    "LeaveOneOut",
    "LossAt",
    "NoiseIntegral",
    "Part",
    "PullBack",
    "Relaxation",
    "RunningMean",
    "RunningMeans",
    "SharedPoints",
    "baselines_of",
    "decoupled_st_gumbel_softmax",
    "describe",
    "estimate_of",
    "evaluate",
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
    "weighted",
]
