"""The points of a result: coordinates, and metrics with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..kinds import kind, point_dims
from ..schema import ENDS, POPULATION, along, variable

NO_MEASURE = ("exact_norm", "resolved", "draws")  # do not say that a point was measured


class Estimate(NamedTuple):
    """A metric at one point, its interval over draws, and that over examples; NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan
    population_low: float = np.nan
    population_high: float = np.nan


def places(ds: xr.Dataset, names: Sequence[str]) -> np.ndarray:
    """(point, dim): positions along `point_dims` of the points at which something was measured."""
    dims = point_dims(ds)
    some = [n for n in names if n not in NO_MEASURE] or list(names)
    measured = np.any([np.isfinite(_values(ds, n)) for n in some], axis=0)
    return np.argwhere(measured) if dims else np.zeros((int(measured), 0), int)


def estimates_at(ds: xr.Dataset, name: str, at: np.ndarray) -> list[Estimate]:
    """A metric at each of `places`."""
    dims = point_dims(ds)
    where = tuple(at.T) if dims else (np.zeros(len(at), int),)
    columns = []
    for end in (*ENDS, *POPULATION):
        there = name + end in ds and variable(ds, name + end).dims == variable(ds, name).dims
        columns.append(np.atleast_1d(_values(ds, name + end))[where] if there else np.full(len(at), np.nan))
    return [Estimate(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]


def of_all_points(ds: xr.Dataset, name: str) -> xr.DataArray:
    """A variable along `point_dims`; the same along dims on which it does not depend."""
    dims, own = point_dims(ds), variable(ds, name).dims
    absent = {dim: ds.sizes[dim] for dim in dims if dim not in own}
    return ds[name].expand_dims(absent).transpose(*dims) if absent else ds[name]


def _values(ds: xr.Dataset, name: str) -> np.ndarray:
    found = variable(ds, name)
    along_points = found.set_dims({dim: ds.sizes[dim] for dim in (*point_dims(ds), *found.dims)})
    return along_points.transpose(*point_dims(ds)).to_numpy().astype(float)


def coordinates_at(ds: xr.Dataset, at: np.ndarray) -> list[dict[str, Any]]:
    """Coordinates of each of `places`; along a training the temperatures go with the epoch or step.

    Those of a dim that was selected, as by ds.sel(tf=1.6), belong to all points.
    """
    found = []
    order = kind(ds).point_dims
    selected = {dim: ds[dim].item() for dim in order if dim in ds.coords and not ds[dim].ndim}
    values = {dim: ds[dim].values.tolist() for dim in point_dims(ds)}
    dim = along(ds)
    in_force = {t: ds[t].values.tolist() for t in ("tf", "tb") if dim and t in ds.coords and ds[t].dims == (dim,)}
    for place in at.tolist():
        of_dims = {dim: values[dim][k] for dim, k in zip(values, place, strict=True)}
        where = {dim: (selected | of_dims)[dim] for dim in order if dim in selected or dim in of_dims}
        if in_force:
            k = place[list(values).index(dim)]
            where |= {t: in_force[t][k] for t in in_force}
        found.append(where)
    return found


def centre(ds: xr.Dataset) -> xr.Dataset:
    """At the pair of temperatures that was asked for, where the others are there for context."""
    wanted = {t: float(ds.attrs[f"{t}_fixed"]) for t in ("tf", "tb") if f"{t}_fixed" in ds.attrs and t in ds.dims}
    if not wanted or any(value not in ds[t].values for t, value in wanted.items()):
        return ds
    return ds.sel({t: [value] for t, value in wanted.items()})


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0 .. count - 1, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)}) if most > 1 else [0]
