"""A sweep as its pairs of temperatures: which were trained, which has the lowest loss, what they are called."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from ..attributes import nested
from .selection import checked, chosen, units

FINAL = "final_validation_loss"
MEAN = f"{FINAL}_mean"
MEDIAN = f"{FINAL}_median"


def trained(ds: xr.Dataset, *needed: str) -> xr.Dataset:
    """A sweep with dims tf, tb and seed, its losses in a unit in which they have plain numbers.

    Raises ValueError for another Dataset, for one without the variables `needed` (means over seeds) or with those of
    other seeds, and for a sweep of which no training is done.
    """
    ds = checked(ds)
    for name in (FINAL, "status"):
        if name not in ds or "seed" not in ds[name].dims:
            raise ValueError(f"ds: expected a Dataset of gradlab.sweeps.sweep, got a Dataset without {name} along seed")
    for name in (MEAN, *needed):
        if name not in ds:
            raise ValueError(
                f"ds: expected a sweep with {name}, got a sweep without {name}; gradlab.sweeps.with_means adds it"
            )
    if not np.allclose(*xr.broadcast(ds[FINAL].mean("seed"), ds[MEAN]), rtol=1e-6, atol=0, equal_nan=True):
        raise ValueError(f"ds: expected {MEAN} of all seeds, got one of other seeds; use gradlab.sweeps.with_means")
    if not bool(ds[MEAN].notnull().any()):
        raise ValueError("ds: expected at least one finished training, got a sweep without one")
    return _in_plain_numbers(chosen(ds))


def has_schedules(ds: xr.Dataset) -> bool:
    """Whether tf or tb are texts, as they all are where one is a schedule."""
    return any(name in ds.coords and ds[name].dtype.kind not in "fiu" for name in ("tf", "tb"))


def _in_plain_numbers(ds: xr.Dataset) -> xr.Dataset:
    """Losses of which the lowest is below 0.01, or at least 10,000, in a power of ten of their unit."""
    power = math.floor(math.log10(float(abs(ds[MEAN]).min()) or 1))
    if -2 <= power < 4:
        return ds
    losses = [name for name in ds.data_vars if "validation_loss" in str(name)]
    unit = f"1e{power} {ds[FINAL].attrs.get('units', '')}".strip()
    scaled = {name: (ds[name] / 10.0**power).assign_attrs(ds[name].attrs, units=unit) for name in losses}
    known = {name: ds.attrs[name] / 10.0**power for name in ("loss_without_code",) if name in ds.attrs}
    return ds.assign(scaled).assign_attrs(known)


def pairs(ds: xr.Dataset) -> xr.Dataset:
    """The pairs (tf, tb) that were trained, if only to fail, along one dim `pair`; tf and tb are coordinates of it."""
    there = (ds["status"] != "missing").any("seed").transpose("tf", "tb")
    tf, tb = np.nonzero(there.to_numpy())
    return ds.isel(tf=("pair", tf), tb=("pair", tb))


def done(of_pairs: xr.Dataset) -> np.ndarray:
    """(pair,): how many seeds are done."""
    return of_pairs[FINAL].notnull().sum("seed").to_numpy()


def single(of_pairs: xr.Dataset) -> np.ndarray:
    """(pair,): whether tf = tb."""
    tf, tb = of_pairs["tf"].to_numpy(), of_pairs["tb"].to_numpy()
    return np.isclose(tf, tb) if tf.dtype.kind == tb.dtype.kind == "f" else tf == tb


def comparable(of_pairs: xr.Dataset) -> np.ndarray:
    """True (pair,) for pairs with the largest number of finished seeds: failures may remove the worst seeds."""
    count = done(of_pairs)
    return (count > 0) & (count == count.max(initial=0))


def partly_done(of_pairs: xr.Dataset) -> np.ndarray:
    """(pair,): whether some seeds are done, but fewer than of other pairs."""
    return (done(of_pairs) > 0) & ~comparable(of_pairs)


def lowest(of_pairs: xr.Dataset, among: np.ndarray) -> list[int]:
    """The pair with the lowest mean of those `among` (pair,) that are comparable; none where there is none."""
    at = np.flatnonzero(among)
    some = of_pairs.isel(pair=at)
    mean = np.where(comparable(some), some[MEAN], np.inf)
    return [int(at[mean.argmin()])] if np.isfinite(mean).any() else []


def label(pair: xr.Dataset) -> str:
    return ", ".join(f"{name} {temperature(pair[name].item())}" for name in ("tf", "tb"))


def loss_label(values: xr.DataArray) -> str:
    """For an axis; a long unit has a line of its own."""
    unit = units(values)
    return f"validation loss{unit if len(unit) < 20 else chr(10) + unit.strip()}"


def temperature(value: float | str) -> str:
    """1.6; of the schedule 1:0.3:cosine, 1 → 0.3 (cosine)."""
    if not isinstance(value, str):
        return f"{value:.4g}"
    ends, shape = value.split(":")[:2], value.split(":")[2:]
    return " → ".join(ends) + (f" ({shape[0]})" if shape else "")


def facts(ds: xr.Dataset, of_pairs: xr.Dataset) -> list[str]:
    """For the caption: what was trained, how long, and from how many seeds."""
    settings = nested(ds.attrs, "settings")
    config, epochs, count = settings.get("config", {}), settings.get("epochs", 1), done(of_pairs)
    most = int(count.max())
    size = " {categories}x{latents}".format(**config) if {"categories", "latents"} <= set(config) else ""
    failed = int((ds["status"] == "failed").sum())
    return [
        f"validated on {ds.attrs['validation_data']}" if "validation_data" in ds.attrs else "",
        settings.get("architecture", "") + size,
        f"{epochs} epoch{'s' * (epochs > 1)}" if "epochs" in settings else "",
        f"{most} seed{'s' * (most > 1)}" + (", of some pairs fewer" if count.min() < most else ""),
        f"{failed} training{'s' * (failed > 1)} failed" if failed else "",
        "interval: 95 % over seeds, Student's t" if most > 1 else "no interval from one seed",
    ]
