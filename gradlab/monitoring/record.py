"""The file of a monitor: a row for each measurement, written whole each time, so that a kill leaves the one before."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import errors, results, schema
from ..attributes import flattened, nested

ANALYSIS = "bias-along-training"
MONITOR = "monitor"  # the attributes that say how it measures
STEP = "step"


class Record:
    """The measurements so far, those of an earlier process included: columns of numbers along the dim `step`.

    Raises ValueError if there is a file with this name that is not of a monitor, or of one with other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]):
        self.path = path
        self.settings = flattened(MONITOR, settings)
        self.attrs: dict[str, Any] = {}
        self._columns: dict[str, list[float]] = {}
        self._about: dict[str, dict[str, Any]] = {}  # attributes of each
        if path is None:
            return
        if os.path.isdir(path):
            raise ValueError(f"out: expected the name of a file, got the folder {path}")
        if os.path.isfile(path):
            self._take_up(path)

    @property
    def last(self) -> int | None:
        """The step of the last row."""
        steps = self._columns.get(STEP)
        return int(steps[-1]) if steps else None

    @property
    def ds(self) -> xr.Dataset | None:
        """All rows; None without any."""
        if self.last is None:
            return None
        kinds = {STEP: np.int64}
        found = {
            name: (STEP, np.array(column, kinds.get(name, np.float64)), self._about[name])
            for name, column in self._columns.items()
        }
        coords = {name: found.pop(name) for name in (STEP, "tf", "tb")}
        return xr.Dataset(found, coords, self.attrs)

    def restart_at(self, step: int) -> None:
        """Without rows from this step on: a training that continues from an earlier checkpoint passes them again."""
        kept = sum(one < step for one in self._columns.get(STEP, []))
        self._columns = {name: column[:kept] for name, column in self._columns.items()}

    def add(self, found: xr.Dataset, step: int) -> dict[str, float]:
        """Adds the row of a measurement, and returns its numbers."""
        of_step = schema.row(found, STEP, step)
        numeric = {str(name): one for name, one in of_step.variables.items() if one.dtype.kind in "fiub"}
        row = {name: one.values.item() for name, one in numeric.items()}
        before = len(self._columns.get(STEP, []))
        for name in row.keys() - self._columns.keys():
            self._columns[name] = [math.nan] * before
            self._about[name] = dict(numeric[name].attrs)
        for name, column in self._columns.items():
            column.append(row.get(name, math.nan))
        self.attrs = found.attrs | {"analysis": ANALYSIS} | self.settings
        return {name: float(value) for name, value in row.items() if name != STEP}

    def write(self) -> None:
        """The file, whole: it has all rows, or those of the last time. Raises OSError where it cannot be written."""
        if self.path is not None and self.ds is not None:
            results.save_results(self.ds, self.path)

    def _take_up(self, path: Path) -> None:
        try:
            ds = results.open_results(path, trusted=True)
        except ValueError as error:
            raise ValueError(f"out: expected a new file or one of a monitor, got another ({error})") from None
        before = nested(ds.attrs, MONITOR)
        if STEP not in ds.indexes or not before:
            raise ValueError(f"out: expected a new file or one of a monitor, got another: {path}; choose another name")
        now = nested(self.settings, MONITOR)
        other = [f"{name} {before.get(name)} (asked: {one})" for name, one in now.items() if before.get(name) != one]
        if other:
            raise errors.BadFile(
                f"out: expected the file of a monitor with these settings, got {path}, which has {', '.join(other)};"
                " give the same, or choose another name"
            )
        self.attrs = dict(ds.attrs)
        self._columns = {str(name): one.values.tolist() for name, one in ds.variables.items()}
        self._about = {str(name): dict(one.attrs) for name, one in ds.variables.items()}
