"""The points of a result: coordinates, figures with their intervals, and which figures to show first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..cautions import ABOUT_SAMPLING

POINT_DIMS = ("checkpoint", "epoch", "estimator", "target", "definition", "parameter", "tf", "tb")
# what is read first, by analysis; the first that a result has leads
OF_BIAS = (
    "relative_bias_debiased",
    "relative_std",
    "cosine_debiased",
    "matched_bias_debiased",
    "bias_norm_debiased",
    "std_norm",
)
OF_GAP = ("relative_gap_pooled", "gap", "cosine")
LOSS = "final_validation_loss"
OF_SWEEP = (f"{LOSS}_mean",)
KNOWN = {"bias": OF_BIAS, "gap": OF_GAP, "sweep": OF_SWEEP}
NO_FIGURES = ("exact_norm", "resolved", *ABOUT_SAMPLING)  # do not say that a point was measured


class Figure(NamedTuple):
    """A figure at one point; NaN where there is no interval."""

    value: float
    low: float = np.nan
    high: float = np.nan


def analysis_of(ds: xr.Dataset) -> str:
    """The analysis: "bias", "gap" or "sweep"; ValueError for a Dataset of something else."""
    named = str(ds.attrs.get("analysis", ""))
    found = named.removesuffix("-along-training")
    if found not in KNOWN:
        raise ValueError(
            f"results: analysis {named[:80]!r} is not known; a file that `gradlab bias`, `gradlab gap` or"
            " `gradlab sweep` wrote would do"
        )
    return found


def first_figures(ds: xr.Dataset) -> list[str]:
    """Names of the figures to show first: three, or the loss of a sweep; ValueError if there are none."""
    analysis = analysis_of(ds)
    dims = set(point_dims(ds))
    there = [name for name in KNOWN[analysis] if name in ds and set(ds[name].dims) == dims]
    if not there:
        raise ValueError(f"results: none of {', '.join(KNOWN[analysis])} is in it, one over {', '.join(sorted(dims))}")
    return there[:3]


def point_dims(ds: xr.Dataset) -> list[str]:
    """Dims along which points stand; epochs of a sweep are those of its curves."""
    known = POINT_DIMS if analysis_of(ds) != "sweep" else ("tf", "tb")
    return [dim for dim in known if dim in ds.dims]


def figure_names(ds: xr.Dataset) -> list[str]:
    """Names of all figures that every point has one of, without those of their intervals."""
    dims = set(point_dims(ds))
    ends = ("_low", "_high")
    return [
        str(n)
        for n in ds.data_vars
        if set(ds[n].dims) == dims
        and not str(n).endswith(ends)
        and n not in ABOUT_SAMPLING
        and ds[n].dtype.kind in "fiub"
    ]


def places(ds: xr.Dataset, names: Sequence[str]) -> np.ndarray:
    """(point, dim): positions along `point_dims` of the points at which something was measured."""
    dims = point_dims(ds)
    some = [n for n in names if n not in NO_FIGURES] or list(names)
    measured = np.any([np.isfinite(ds[n].transpose(*dims).to_numpy().astype(float)) for n in some], axis=0)
    return np.argwhere(measured) if dims else np.zeros((int(measured), 0), int)


def figures_at(ds: xr.Dataset, name: str, at: np.ndarray) -> list[Figure]:
    """A figure at each of `places`."""
    dims = point_dims(ds)
    where = tuple(at.T) if dims else (np.zeros(len(at), int),)
    columns = []
    for end in ("", "_low", "_high"):
        there = name + end in ds and set(ds[name + end].dims) == set(dims)
        values = ds[name + end].transpose(*dims).to_numpy().astype(float) if there else None
        columns.append(np.full(len(at), np.nan) if values is None else np.atleast_1d(values)[where])
    return [Figure(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]


def coordinates_at(ds: xr.Dataset, at: np.ndarray) -> list[dict[str, Any]]:
    """Coordinates of each of `places`; along a training the temperatures go with the epoch."""
    found = []
    values = {dim: ds[dim].values.tolist() for dim in point_dims(ds)}
    of_epoch = {t: ds[t].values.tolist() for t in ("tf", "tb") if t in ds.coords and ds[t].dims == ("epoch",)}
    for place in at.tolist():
        where = {dim: values[dim][k] for dim, k in zip(values, place, strict=True)}
        if of_epoch:
            k = place[list(values).index("epoch")]
            where |= {t: of_epoch[t][k] for t in of_epoch}
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
