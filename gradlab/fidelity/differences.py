"""How a figure changes from one point to another, with an interval that uses their common noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from .. import errors
from ..sampling import batch_bounds
from .jackknife import LEVEL, standard_error, students_t
from .metrics import METRICS


class Change(NamedTuple):
    """value = figure at the end minus figure at the start, with its interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0, else 0: not resolved."""
        return int(self.low > 0) - int(self.high < 0)


def change(
    ds: xr.Dataset, figure: str, start: Mapping[str, object], end: Mapping[str, object], level: float = LEVEL
) -> Change:
    """Change of `figure` of a `gradlab.bias` Dataset between the points `start` and `end`, as for `ds.sel`.

    Both points saw the same noise, so the jackknife of the difference is sharper than that of either end.
    Raises ValueError for an unknown figure or points that leave a dim open.
    """
    if "replicates" not in ds:
        return _of_exact(ds, figure, start, end)
    errors.choice("figure", figure, [str(name) for name in ds.figure.values])
    replicates = ds.replicates.sel(figure=figure)
    differences = []
    for values in (ds[figure], replicates):
        ends = [values.sel(point).squeeze(drop=True) for point in (start, end)]
        differences.append(np.atleast_1d(ends[1].values - ends[0].values))
    if differences[0].size != 1:
        raise ValueError(
            f"start, end: {dict(start)} to {dict(end)} leaves {differences[0].size} points open; fix each dim"
        )
    bounds = np.asarray(batch_bounds(int(ds.attrs["draws"])))
    draws = np.concatenate([bounds[-1:], bounds[-1] - np.diff(bounds)]).astype(float)
    error = float(standard_error(np.concatenate(differences), draws))
    width = error * students_t(level, len(bounds) - 2)
    value = float(differences[0][0])
    return Change(value, value - width, value + width)


def _of_exact(ds: xr.Dataset, figure: str, start: Mapping[str, object], end: Mapping[str, object]) -> Change:
    """Of moments without draws: the numerical errors of both ends, added."""
    errors.choice("figure", figure, [name for name in METRICS if name in ds])
    ends = [ds[[figure, f"{figure}_low", f"{figure}_high"]].sel(point).squeeze(drop=True) for point in (start, end)]
    if any(one[figure].size != 1 for one in ends):
        raise ValueError(f"start, end: {dict(start)} to {dict(end)} leaves points open; fix each dim")
    values = [[float(one[figure + suffix]) for suffix in ("", "_low", "_high")] for one in ends]
    (value, low, high), (to, to_low, to_high) = values
    return Change(to - value, to_low - high, to_high - low)
