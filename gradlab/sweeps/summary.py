"""Means over seeds, and the pair of temperatures that is best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special
import xarray as xr

from .cells import text

FINAL = "final_validation_loss"


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval (Student's t), NaN below two seeds."""

    value: float
    low: float
    high: float
    seeds: int


class Best(NamedTuple):
    """The pair of temperatures with the lowest mean."""

    tf: float | str
    tb: float | str
    mean: Mean


def over_seeds(ds: xr.Dataset, name: str = FINAL) -> xr.Dataset:
    """Mean, low, high and number of seeds of a variable, along its other dims; NaN are left out.

    mean -/+ t(0.975, n - 1) s / sqrt(n), s the standard deviation over the n seeds that are not NaN; no interval below
    two. Raises KeyError if there is no such variable.
    """
    values = ds[name]
    count = values.notnull().sum("seed")
    error = values.std("seed", ddof=1) / np.sqrt(count.where(count > 1))
    half = error * scipy.special.stdtrit(np.maximum(count - 1, 1), 0.975)
    mean = values.mean("seed")
    found = xr.Dataset({"mean": mean, "low": mean - half, "high": mean + half})
    words = {"mean": "mean over seeds of ", "low": "lower end of its 95 % interval: ", "high": "upper end: "}
    for part, begun in words.items():
        found[part].attrs = {"long_name": begun + str(values.attrs["long_name"]), "units": values.attrs["units"]}
    found["seeds"] = count.assign_attrs(long_name="seeds that are done", units="1")
    return found


def with_means(ds: xr.Dataset) -> xr.Dataset:
    """A sweep and the means over seeds that its figures show: NAME_mean, NAME_mean_low and NAME_mean_high."""
    parts = {"mean": "mean", "low": "mean_low", "high": "mean_high"}
    for name in (FINAL, "validation_loss"):
        means = over_seeds(ds, name)
        ds = ds.assign({f"{name}_{ending}": means[part] for part, ending in parts.items()})
    return ds


def best(ds: xr.Dataset, diagonal: bool = False, name: str = FINAL) -> Best | None:
    """The pair with the lowest mean over seeds, among those with the most seeds done; None if there is none.

    `diagonal`: among the pairs with tf = tb. The interval is the pair's own: that it was chosen for being the lowest,
    which makes it look better than it is, is not in it.
    """
    found = over_seeds(ds, name)
    candidates = found["mean"].where(found.seeds == found.seeds.max())
    if diagonal:
        tf, tb = (np.array([text(value) for value in ds[axis].values.tolist()]) for axis in ("tf", "tb"))
        candidates = candidates.where(xr.DataArray(tf[:, None] == tb, dims=("tf", "tb")))
    if not bool(candidates.notnull().any()):
        return None
    at = {dim: int(i) for dim, i in candidates.argmin(["tf", "tb"]).items()}
    one = found.isel(at)
    mean = Mean(float(one["mean"]), float(one["low"]), float(one["high"]), int(one["seeds"]))
    return Best(one.tf.item(), one.tb.item(), mean)
