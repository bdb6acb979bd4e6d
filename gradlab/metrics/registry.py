"""Metrics by name: those of gradlab, and those that you register."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from .. import errors
from . import of_bias, of_gap
from .record import GRADIENT, NONE, SQUARED, GapMetric, GapTerms, Metric, Norms, Products

ENDS = ("_low", "_high")
# names of a Dataset's other variables, which no metric may have
TAKEN = (
    "exact_gradient",
    "exact_gradient_error",
    "mean_gradient",
    "std_gradient",
    "exact_norm",
    "mean_numerical_error",
    "std_numerical_error",
    "relative_bias_per_example",
    "relative_bias_per_example_quantiles",
    "relative_bias_elementwise_quantiles",
    "gap_per_example",
    "undefined",
    "replicates",
    "example_replicates",
    "effective_examples",
    "resolved",
    "draws",
    "expected_count",
    "unseen",
    "rare_examples",
    "certain_examples",
    "enumerated",
    "estimator",
    "target",
    "definition",
    "checkpoint",
    "epoch",
    "parameter",
    "entries",
    "tf",
    "tb",
    "example",
    "latent",
    "category",
    "group",
    "quantile",
    "metric",
    "example_metric",
    "batch",
)

_BIAS: dict[str, Metric] = {metric.name: metric for metric in of_bias.METRICS}
_GAP: dict[str, GapMetric] = {metric.name: metric for metric in of_gap.METRICS}
_TRIED = (2, 3)  # shape of the numbers on which a formula is tried
M = TypeVar("M", Metric, GapMetric)


def register(metric: M) -> M:
    """Register a metric and return it: from then on `gradlab.bias` (or `gradlab.gap`, for a GapMetric) computes it too.

    Processes of a sweep know the metric only if they import the module that registers it.

    Raises ValueError for an object that is no metric, a name that is taken or cannot name a variable, an unknown unit,
    bounds out of order, or a formula that does not return one number per element.

    Examples
    --------
    >>> from gradlab.metrics import NONE, Metric
    >>> value = lambda p: p.norms.mean / p.norms.exact
    >>> ratio = Metric(name="energy_ratio", long_name="|m|^2 over |g|^2", unit=NONE, value=value)
    >>> metric = gradlab.metrics.register(ratio)
    >>> "energy_ratio" in gradlab.metrics.names()
    True
    """
    if not isinstance(metric, Metric | GapMetric):
        raise ValueError(f"metric: expected a gradlab.metrics.Metric or GapMetric, got {type(metric).__name__}")
    known: dict[str, Any] = _BIAS if isinstance(metric, Metric) else _GAP
    _check_name(metric.name, known)
    _check_record(metric)
    known[metric.name] = metric
    return metric


def names(analysis: str = "bias") -> list[str]:
    """Names of all metrics of an analysis, "bias" or "gap", in the order of result files.

    Raises ValueError for another analysis.

    Examples
    --------
    >>> "cosine_debiased" in gradlab.metrics.names(), "relative_gap" in gradlab.metrics.names("gap")
    (True, True)
    """
    return list(of_analysis(analysis))


def get(name: str, analysis: str = "bias") -> Metric | GapMetric:
    """The record of a metric, by its name and analysis, "bias" or "gap". Raises ValueError for unknown names.

    Examples
    --------
    >>> gradlab.metrics.get("cosine").bounds
    (-1, 1)
    """
    known = of_analysis(analysis)
    if name not in known:
        raise errors.unknown_name("name", name, known)
    return known[name]


def describe(analysis: str = "bias") -> list[dict[str, Any]]:
    """One dict of plain values per metric of an analysis. Raises ValueError for an unknown analysis.

    Examples
    --------
    >>> [row["name"] for row in gradlab.metrics.describe() if row["rank"] == 1]
    ['relative_bias_debiased']
    """
    return [
        {
            "name": metric.name,
            "long_name": metric.long_name,
            "formula": metric.formula,
            "unit": metric.unit,
            "bounds": tuple(map(float, metric.bounds)),
            "rank": metric.rank,
            "noisy": getattr(metric, "noisy", False),
        }
        for metric in of_analysis(analysis).values()
    ]


def of_analysis(analysis: str) -> dict[str, Any]:
    """All registered metrics of "bias" or "gap", by name. Raises ValueError for an unknown analysis."""
    return dict(_BIAS if errors.choice("analysis", analysis, ("bias", "gap")) == "bias" else _GAP)


def _check_name(name: Any, known: Mapping[str, Any]) -> None:
    if not (isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name)):
        raise ValueError(f"name: expected small letters, digits and underscores, got {name!r}")
    if name.endswith(ENDS):
        raise ValueError(f"name: expected none that ends in {' or '.join(ENDS)}, as ends of intervals do, got {name!r}")
    taken = {*TAKEN, *known}
    if name in taken:
        raise ValueError(f"name: expected a new one, got {name!r}, which is taken; choose another")


def _check_record(metric: Metric | GapMetric) -> None:
    """Raise ValueError if the metric cannot be stored or computed."""
    errors.choice("unit", metric.unit, (GRADIENT, SQUARED, NONE))
    low, high = metric.bounds
    if not low < high:
        raise ValueError(f"bounds: expected the smaller first, got {metric.bounds}")
    if not metric.long_name:
        raise ValueError(f"long_name: expected what {metric.name} is, in one line, got none")
    if isinstance(metric, Metric) and metric.debiased and metric.debiased not in _BIAS:
        raise errors.unknown_name("debiased", metric.debiased, _BIAS)
    shape = np.shape(_on_bias(metric) if isinstance(metric, Metric) else _on_gap(metric))
    if shape != _TRIED:
        raise ValueError(f"value: expected {metric.name} to keep the shape {_TRIED} of its arrays, got {shape}")


def _on_bias(metric: Metric) -> Any:
    """The metric's value for example numbers."""
    mean, g = np.linspace(0.5, 2.0, 6).reshape(_TRIED), np.ones(_TRIED)
    norms = Norms(g, mean**2 + 0.25, mean, (mean - 1) ** 2 + 0.25, 0.25 * g)
    return metric.value(Products(norms, 4 * g, 64.0))


def _on_gap(metric: GapMetric) -> Any:
    ones = np.ones(_TRIED)
    terms = metric.terms(GapTerms(ones, 2 * ones, 2 * ones, 2 * ones, 3.5 * ones))
    if not isinstance(terms, tuple):
        raise ValueError(f"terms: expected a tuple of arrays, got {type(terms).__name__}")
    return metric.value(*terms)
