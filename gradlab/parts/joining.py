"""The parts of one model, by forward temperature, joined to the Dataset that one call returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..attributes import joined_enumerated
from .folder import CONFIGURATION
from .job import WARNINGS

OF_ALL: dict[str, Callable[..., Any]] = {  # attributes in which parts differ, of one call over all tf
    "draws": min,
    "draws_per_batch": min,
    "exact_gradient_relative_error": max,
    "moments_enumerated": lambda *values: joined_enumerated(values),
    "device": lambda *values: ", ".join(dict.fromkeys(values)),
    "date": max,
}


def joined(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """The Dataset of all tf."""
    options: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "equals", "join": "exact"}
    ds = xr.concat(found, "tf", combine_attrs="override", **options) if len(found) > 1 else found[0].copy()
    ds.attrs = _attributes(found)
    return ds


def _attributes(found: Sequence[xr.Dataset]) -> dict[str, Any]:
    names = dict.fromkeys(name for ds in found for name in ds.attrs if name not in (CONFIGURATION, WARNINGS))
    about = {}
    for name in names:
        values = [ds.attrs[name] for ds in found if name in ds.attrs]
        alike = all(np.array_equal(value, values[0]) for value in values)
        about[name] = values[0] if alike or name not in OF_ALL else OF_ALL[name](*values)
    return about
