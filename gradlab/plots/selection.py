"""What a figure reads from a Dataset: the part to draw, values with their intervals, names."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from .. import errors
from ..attributes import texts
from ..schema import POPULATION, negative_by_chance, short_name, upgraded


def checked(ds: object) -> xr.Dataset:
    """A Dataset as this version writes it; ValueError for what is none."""
    if not isinstance(ds, xr.Dataset):
        raise ValueError(f"ds: expected an xarray.Dataset of gradlab.bias or gradlab.gap, got {type(ds).__name__}")
    return upgraded(ds)


def chosen(ds: xr.Dataset, whole: bool = True, **names: str | None) -> xr.Dataset:
    """`ds` with sorted dims tf and tb, of other dims what `names` asks for, and no other dim of length 1.

    `whole`: of the dim parameter, all tensors together, which stand first.

    Raises ValueError for what is no Dataset over temperatures and for an unknown name.
    """
    ds = checked(ds)
    if absent := [d for d in ("tf", "tb") if d not in ds.coords]:
        raise ValueError(
            f"ds: expected a Dataset of gradlab.bias or gradlab.gap, got a Dataset without {' and '.join(absent)}"
        )
    for dim, name in names.items():
        if name is not None:
            known = [str(v) for v in ds[dim].values] if dim in ds.dims else [known_name(ds, dim) or "none"]
            name = errors.choice(dim, name, known)
            ds = ds.sel({dim: name}) if dim in ds.dims else ds
    ds = ds.expand_dims([d for d in ("tf", "tb") if d not in ds.dims])
    if whole and "parameter" in ds.dims:
        ds = ds.isel(parameter=0)
    alone = [d for d in ("checkpoint", "estimator", "target", "definition") if ds.sizes.get(d) == 1]
    ds = ds.isel(dict.fromkeys(alone, 0))
    # sorting copies every array, gradients included: only where it must
    return ds.sortby([d for d in ("tf", "tb") if not ds.indexes[d].is_monotonic_increasing])


def check_bias(ds: xr.Dataset) -> None:
    """ValueError unless `ds` holds a bias analysis."""
    _check_variables(ds, ("relative_bias_debiased", "relative_std"), "gradlab.bias")


def check_gap(ds: xr.Dataset) -> None:
    """ValueError unless `ds` holds a gap analysis."""
    _check_variables(ds, ("gap", "relative_gap_pooled"), "gradlab.gap")


def _check_variables(ds: xr.Dataset, names: Sequence[str], source: str) -> None:
    for name in names:
        if name not in ds or not {"tf", "tb"} <= set(ds[name].dims):
            raise ValueError(f"ds: expected a Dataset of {source}, got a Dataset without {name} over tf and tb")


def picks(data: Any, dims: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Label and selection for every combination of the coordinates of those of `dims` that `data` has."""
    dims = [d for d in dims if d in data.dims]
    for index in itertools.product(*(range(data.sizes[d]) for d in dims)):
        pick = dict(zip(dims, index, strict=True))
        yield ", ".join(names(data, d)[i] for d, i in pick.items()), data.isel(pick)


def names(data: Any, dim: str) -> list[str]:
    """What the coordinates of `dim` are called in a figure: checkpoints without folder, where that tells them apart."""
    full = [str(value) for value in data[dim].values]
    stems = [PurePath(name).stem for name in full]
    if dim == "checkpoint" and len(set(stems)) == len(stems):
        return stems
    return [f"target {name}" for name in full] if dim == "target" else full


def known_name(ds: xr.Dataset, name: str) -> str | None:
    """The estimator, the target law: of the selection, or of the whole Dataset, where it is known."""
    if name in ds.coords and ds[name].ndim == 0:
        return str(ds[name].item())
    return ", ".join(texts(ds.attrs.get(name, ""))) or None


def least_drawn(ds: xr.Dataset, name: str) -> float:
    """Where a metric is clipped: at 0, where what lies below is sampling noise."""
    return 0.0 if negative_by_chance(ds, name) else -np.inf


def described(ds: xr.Dataset, name: str) -> str:
    """A metric's long name, and whether it is clipped."""
    clipped = ", clipped at 0" if negative_by_chance(ds, name) else ""
    return str(ds[name].attrs.get("long_name", name)) + clipped


def units(values: xr.DataArray) -> str:
    """Behind what is on an axis: " (nats)"; nothing for a number without a unit."""
    unit = values.attrs.get("units", "1")
    return "" if unit == "1" else f" ({unit})"


def panel_label(ds: xr.Dataset, name: str, width: int = 20) -> str:
    """A metric's short name on few lines, and its unit."""
    return "\n".join(textwrap.wrap(short_name(ds, name), width)) + units(ds[name])


def over_examples(data: xr.Dataset, name: str, least: float = 0.0) -> np.ndarray | None:
    """Low and high end over examples in rows, clipped at `least`; None where there are none."""
    ends = [name + end for end in POPULATION]
    if not all(end in data for end in ends):
        return None
    return np.maximum(np.stack([np.atleast_1d(data[end]) for end in ends]), least)


def with_interval(data: xr.Dataset, name: str, least: float = 0.0) -> np.ndarray:
    """Value, low and high end in rows, clipped at `least`; without an interval the ends are the value."""
    ends = [name + end if name + end in data else name for end in ("", "_low", "_high")]
    return np.maximum(np.stack([np.atleast_1d(data[end]) for end in ends]), least)
