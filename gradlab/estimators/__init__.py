"""Gradient estimators: one short file per family, all behind one protocol (see base)."""

from . import (  # noqa: F401  (fills the registry)
    antithetic,
    double_control,
    exact,
    gst,
    gumbel_rao,
    local_expectation,
    minimum_variance,
    parameters,
    rao_reinmax,
    rebar,
    relaxed,
    score_function,
    second_order,
    straight_through,
)
from .base import Estimator, Relaxation
from .foreign import LayerWarning, from_layer
from .layers import decoupled_st_gumbel_softmax, gumbel_softmax, surrogate_loss
from .promises import Constant, FunctionOfCode, LatentSummed, LeaveOneOut, NoiseIntegral, PullBack, SharedPoints
from .registry import describe, find, get, is_built_in, names, parse, register
from .running_mean import RunningMean

__all__ = [
    "Constant",
    "Estimator",
    "FunctionOfCode",
    "LatentSummed",
    "LayerWarning",
    "LeaveOneOut",
    "NoiseIntegral",
    "PullBack",
    "Relaxation",
    "RunningMean",
    "SharedPoints",
    "decoupled_st_gumbel_softmax",
    "describe",
    "find",
    "from_layer",
    "get",
    "gumbel_softmax",
    "is_built_in",
    "names",
    "parameters",
    "parse",
    "register",
    "surrogate_loss",
]
