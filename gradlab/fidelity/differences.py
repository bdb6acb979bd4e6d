"""The change of a metric between two points, with an interval that uses their shared noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from .. import errors
from ..sampling import batch_bounds
from ..schema import is_metric, upgraded
from .jackknife import LEVEL, standard_error, students_t


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
    ds: xr.Dataset, metric: str, start: Mapping[str, object], end: Mapping[str, object], level: float = LEVEL
) -> Change:
    """The change of a metric of a `gradlab.bias` or `gradlab.gap` Dataset from the point `start` to the point `end`.

    `start` and `end` are arguments of `ds.sel`. Both points use the same noise, so the interval of the difference is
    narrower than those of the two values. Raises ValueError for an unknown metric or points that do not fix all dims.
    """
    ds = upgraded(ds)
    if "replicates" not in ds:
        return _of_exact(ds, metric, start, end)
    errors.choice("metric", metric, [str(name) for name in ds.metric.values])
    replicates = ds.replicates.sel(metric=metric)
    differences = []
    for values in (ds[metric], replicates):
        ends = [values.sel(point).squeeze(drop=True) for point in (start, end)]
        differences.append(np.atleast_1d(ends[1].values - ends[0].values))
    if differences[0].size != 1:
        raise ValueError(
            f"start, end: expected one point each, got {dict(start)} to {dict(end)}, which leaves"
            f" {differences[0].size} points; fix each dim"
        )
    bounds = np.asarray(batch_bounds(int(ds.attrs["draws"])))
    draws = np.concatenate([bounds[-1:], bounds[-1] - np.diff(bounds)]).astype(float)
    error = float(standard_error(np.concatenate(differences), draws))
    width = error * students_t(level, len(bounds) - 2)
    value = float(differences[0][0])
    return Change(value, value - width, value + width)


def _of_exact(ds: xr.Dataset, metric: str, start: Mapping[str, object], end: Mapping[str, object]) -> Change:
    """The Change for moments without draws; its half width is the sum of both numerical errors."""
    errors.choice("metric", metric, [str(name) for name in ds.data_vars if is_metric(ds, str(name))])
    ends = [ds[[metric, f"{metric}_low", f"{metric}_high"]].sel(point).squeeze(drop=True) for point in (start, end)]
    if any(one[metric].size != 1 for one in ends):
        raise ValueError(f"start, end: expected one point each, got {dict(start)} to {dict(end)}; fix each dim")
    values = [[float(one[metric + suffix]) for suffix in ("", "_low", "_high")] for one in ends]
    (value, low, high), (to, to_low, to_high) = values
    return Change(to - value, to_low - high, to_high - low)
