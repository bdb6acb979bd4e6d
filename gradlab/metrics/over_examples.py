"""Intervals over examples: the examples are a sample of the data distribution, and so are their draws.

A metric that is a ratio is a function of sums over the examples, S = sum_b s_b. With q the metric, or its square with
its sign if the metric is a root, the influence of example b of B is (delta method)

    u_b = B sum_k dq/dS_k s_kb,    Var q = var(u) / B,    Student's t with B - 1 degrees.

For R^2 = sum d / sum e that is u_b = (d_b - R^2 e_b) / mean(e). Examples have noise of their own, so var(u) contains
the noise of the draws. One example has no spread: its ends are NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from ..statistics import inversion
from ..statistics.jackknife import LEVEL, Array, students_t
from . import routes
from .record import NONE, GapMetric, Metric, Norms, Products, Record, signed_root

_STEP = 1e-5  # of a sum of magnitudes: the error of a central difference is about its square


M = TypeVar("M", bound=Record)


class OverExamples(NamedTuple):
    """A metric's 95 % interval over examples, and its values without each example in turn."""

    low: Array  # (...)
    high: Array
    without: Array  # (..., example)


def has_interval(record: Record) -> bool:
    """Whether a metric estimates that of the data distribution: a ratio of sums over examples, or a mean over them."""
    return record.unit == NONE or isinstance(record, GapMetric)


def has_replicates(record: Record) -> bool:
    """Whether a metric's values without each example are kept."""
    return not getattr(record, "noisy", False)


def of_products(
    metrics: Mapping[str, Metric], norms: Norms, variance: Array, draws: float
) -> Iterator[tuple[str, OverExamples]]:
    """Of each metric, from norms and summed variances of each example (..., example).

    `norms.across` is the squared norm of m_b - a g_b with the a of all examples together. As this a minimizes the sum
    over examples, a change of the weights changes the minimum as if a stayed.
    """
    terms = np.stack(np.broadcast_arrays(*norms, variance))
    sums = terms.sum(-1, keepdims=True)
    rest = sums - terms
    exact, mean, along, bias, across, spread = rest
    # <m - a g, g> is 0 over all examples; of the others together it is what this one lacks
    off = along - inversion.over(sums[2], sums[0]) * exact
    across = np.maximum(across - inversion.over(off * off, exact), 0)
    without = Products(Norms(exact, mean, along, bias, across), spread, draws)
    around = _Around.of(terms)
    for name, metric in metrics.items():

        def value(s: Array, metric: Metric = metric) -> Array:
            return metric.value(Products(Norms(*s[:5]), s[5], draws))

        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            yield name, OverExamples(*ends(metric, value, around), metric.value(without))


def of_sums(
    metrics: Mapping[str, M], value: Callable[[M, Array], Array], terms: Array
) -> Iterator[tuple[str, OverExamples]]:
    """Of each metric, a function `value` of sums (term, ...) of the terms (term, ..., example)."""
    rest, around = terms.sum(-1, keepdims=True) - terms, _Around.of(terms)
    for name, metric in metrics.items():
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = ends(metric, functools.partial(value, metric), around)
            yield name, OverExamples(*found, value(metric, rest))


class _Around(NamedTuple):
    """Sums of terms, and what they are with more and with less of each term, for all metrics alike."""

    terms: Array  # (term, ..., example)
    step: Array  # (term, ...)
    points: Array  # (term, 1 + 2 terms, ...): each sum larger by its step, each smaller, and the sums

    @classmethod
    def of(cls, terms: Array) -> _Around:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            sums, step = terms.sum(-1), _STEP * np.abs(terms).sum(-1)
            moves = np.eye(len(terms)).reshape(len(terms), len(terms), *[1] * (sums.ndim - 1)) * step[:, None]
            return cls(terms, step, np.concatenate([sums[:, None] + moves, sums[:, None] - moves, sums[:, None]], 1))


def ends(record: Record, value: Callable[[Array], Array], around: _Around) -> tuple[Array, Array]:
    """The interval (...) of a metric that is a function of sums (term, ...) of the terms (term, ..., example)."""
    terms, step = around.terms, around.step
    examples = terms.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = np.asarray(value(around.points), float)
        moved = np.sign(found) * np.square(found) if record.root else found
        (up, down), centre = np.split(moved[:-1], 2), moved[-1]
        slope = np.where(step > 0, up - down, 0.0) / np.where(step > 0, 2 * step, 1.0)
        influence = examples * np.einsum("k...,k...b->...b", slope, terms)
        off = influence - influence.mean(-1, keepdims=True)
        error = np.sqrt(np.square(off).sum(-1) / (examples - 1) / examples) if examples > 1 else np.nan * centre
        half = students_t(LEVEL, examples - 1) * error
        low, high = (signed_root(end) if record.root else end for end in (centre - half, centre + half))
        return routes.bounded(record, found[-1], low, high)


def effective(squares: Array) -> Array:
    """The number of examples that carry a sum of squares (..., example): (sum e)^2 / sum e^2; NaN where it is 0."""
    largest = np.abs(squares).max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = squares / largest
        return np.square(shares.sum(-1)) / np.square(shares).sum(-1)
