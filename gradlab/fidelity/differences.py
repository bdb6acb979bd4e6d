"""The change of a metric between two points, with an interval that uses their shared noise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from .. import errors
from ..sampling import batch_bounds
from ..schema import is_metric, upgraded
from ..statistics.jackknife import LEVEL, deviations, standard_error, students_t

OVER = ("draws", "examples")
_DRAWN = 4000  # of the largest |t|


class Change(NamedTuple):
    """The metric at the end minus the metric at the start, with its interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0, else 0 (not resolved)."""
        return int(self.low > 0) - int(self.high < 0)


def change(
    ds: xr.Dataset,
    metric: str,
    start: Mapping[str, object],
    end: Mapping[str, object],
    level: float = LEVEL,
    over: str = "draws",
) -> Change:
    """The change of a metric of a `gradlab.bias` or `gradlab.gap` Dataset from the point `start` to the point `end`.

    `start` and `end` are arguments of `ds.sel`. Both points use the same noise and the same examples, so the interval
    of the difference is narrower than those of the two values. It is over "draws", which takes the examples as given,
    or over "examples", for the data distribution. Raises ValueError for an unknown metric or points that do not fix all
    dims.
    """
    ds = upgraded(ds)
    if errors.choice("over", over, OVER) == "draws" and "replicates" not in ds:
        return _of_exact(ds, metric, start, end)
    replicates = _replicates(ds, metric, over)
    differences = []
    for values in (ds[metric], replicates):
        ends = [values.sel(point).squeeze(drop=True) for point in (start, end)]
        differences.append(np.atleast_1d(ends[1].values - ends[0].values))
    if differences[0].size != 1:
        raise ValueError(
            f"start, end: expected one point each, got {dict(start)} to {dict(end)}, which leaves"
            f" {differences[0].size} points; fix each dim"
        )
    left = _left(ds, over)
    error = float(standard_error(np.concatenate(differences), left))
    width = error * students_t(level, len(left) - 2)
    value = float(differences[0][0])
    return Change(value, value - width, value + width)


def all_changes(
    ds: xr.Dataset, metric: str, points: Sequence[Mapping[str, object]], over: str = "draws"
) -> dict[tuple[int, int], Change]:
    """The changes between all pairs of `points`, in their order, with intervals that hold together in 95 %.

    The intervals are the standard error times the quantile of the largest |t| of all pairs, from draws of the normal
    distribution with the jackknife covariance. Raises ValueError as `change`.
    """
    ds = upgraded(ds)
    pairs = list(itertools.combinations(range(len(points)), 2))
    if errors.choice("over", over, OVER) == "draws" and "replicates" not in ds:
        return {(i, j): _of_exact(ds, metric, points[i], points[j]) for i, j in pairs}
    replicates = _replicates(ds, metric, over)
    columns = [
        np.concatenate([np.atleast_1d(of.sel(point).squeeze(drop=True).values) for of in (ds[metric], replicates)])
        for point in points
    ]
    left = _left(ds, over)
    if any(column.shape != left.shape for column in columns):
        raise ValueError(
            f"points: expected one point each, got {dict(points[0])}, ..., which leave several; fix each dim"
        )
    off = deviations(np.stack(columns), left)
    between = np.stack([off[j] - off[i] for i, j in pairs])  # (pair, batch)
    error = np.sqrt(np.square(between).sum(1))
    half = _largest_t(between, error) * error
    values = [float(columns[j][0] - columns[i][0]) for i, j in pairs]
    return {
        pair: Change(value, value - width, value + width)
        for pair, value, width in zip(pairs, values, half.tolist(), strict=True)
    }


def _largest_t(between: np.ndarray, error: np.ndarray) -> float:
    """The 95 % quantile of the largest |t| of several differences, from their deviations (difference, batch)."""
    count = between.shape[1]
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((_DRAWN, count))
    spread = np.sqrt(generator.chisquare(count - 1, _DRAWN) / (count - 1))
    scaled = between / np.where(error > 0, error, 1.0)[:, None]
    return float(np.quantile(np.abs(normal @ scaled.T).max(1) / spread, LEVEL))


def _replicates(ds: xr.Dataset, metric: str, over: str) -> xr.DataArray:
    """A metric's values without each batch, or without each example."""
    name, dim = ("replicates", "metric") if over == "draws" else ("example_replicates", "example_metric")
    if name not in ds:
        raise ValueError(f"over: expected results with {name} for {over!r}, got others; measure them again")
    errors.choice("metric", metric, [str(known) for known in ds[dim].values])
    return ds[name].sel({dim: metric})


def _left(ds: xr.Dataset, over: str) -> np.ndarray:
    """The number of draws, or examples, of all and without each batch, or example, in turn."""
    bounds = np.asarray(batch_bounds(int(ds.attrs["draws"])) if over == "draws" else range(ds.sizes["example"] + 1))
    return np.concatenate([bounds[-1:], bounds[-1] - np.diff(bounds)]).astype(float)


def _of_exact(ds: xr.Dataset, metric: str, start: Mapping[str, object], end: Mapping[str, object]) -> Change:
    """The Change for moments without draws; its half width is the sum of both numerical errors."""
    errors.choice("metric", metric, [str(name) for name in ds.data_vars if is_metric(ds, str(name))])
    ends = [ds[[metric, f"{metric}_low", f"{metric}_high"]].sel(point).squeeze(drop=True) for point in (start, end)]
    if any(one[metric].size != 1 for one in ends):
        raise ValueError(f"start, end: expected one point each, got {dict(start)} to {dict(end)}; fix each dim")
    values = [[float(one[metric + suffix]) for suffix in ("", "_low", "_high")] for one in ends]
    (value, low, high), (to, to_low, to_high) = values
    return Change(to - value, to_low - high, to_high - low)
