"""Recommendations along a training as a schedule of estimator and tb by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..attributes import stored, texts
from ..results import join_checkpoints
from ..rounding import plain

OF_EACH = ("answer", "chosen", "present", "margin", "resolved", "interrupted")  # attributes of one table


def joined(tables: Sequence[xr.Dataset]) -> xr.Dataset:
    """Tables of several checkpoints along a dim `checkpoint`, NaN where a candidate was not measured."""
    if len(tables) == 1:
        return tables[0]
    steps = [ds.attrs.get("trained_epochs", ds.attrs.get("checkpoint", k)) for k, ds in enumerate(tables)]
    told = schedule([f"epoch {step}" if isinstance(step, int) else str(step) for step in steps], tables)
    every = list(dict.fromkeys(str(label) for ds in tables for label in ds.candidate.values))
    of_all = {str(row.candidate.item()): row for ds in tables for row in _rows(ds)}
    # what a candidate is does not depend on the checkpoint, but for the tf of the training
    estimators = ("candidate", [str(of_all[label].estimator.item()) for label in every])
    tbs = ("candidate", [float(of_all[label].tb) for label in every])
    aligned = []
    for ds in tables:
        wide = ds.drop_vars(["estimator", "tf", "tb"]).reindex(candidate=every)
        aligned.append(wide.assign_coords(estimator=estimators, tb=tbs))
    ds = join_checkpoints(aligned)
    tfs = [float(one.tf.values[0]) for one in tables]
    of_each: dict[str, Any] = {name: ("checkpoint", [_kept(one.attrs[name]) for one in tables]) for name in OF_EACH}
    ds = ds.assign_coords({"tf": ("checkpoint", tfs)} | of_each)
    for name in ("estimator", "tf", "tb", *OF_EACH):
        ds[name].attrs |= {"long_name": name, "units": "1"}
    return ds.assign_attrs({"schedule": stored(told), "answer": stored(told), "resolved": 1, "interrupted": 0})


def _kept(value: Any) -> Any:
    return "\n".join(texts(value)) if isinstance(value, list | str) else value


def _rows(ds: xr.Dataset) -> list[xr.Dataset]:
    return [ds.isel(candidate=k) for k in range(ds.sizes["candidate"])]


def parts(ds: xr.Dataset) -> list[xr.Dataset]:
    """The table of each checkpoint, the choice first, then by error."""
    if "checkpoint" not in ds.dims:
        return [ds]
    found = []
    for k in range(ds.sizes["checkpoint"]):
        one = ds.isel(checkpoint=k)
        about = {name: one[name].item() for name in OF_EACH}
        about["answer"] = str(about["answer"]).split("\n")
        measured = np.flatnonzero(np.isfinite(one.draws.values))
        errors = np.nan_to_num(one.error.values, nan=np.inf)
        errors[one.candidate.values == about["chosen"]] = -np.inf
        order = measured[np.argsort(errors[measured], kind="stable")]
        one = one.isel(candidate=order).assign_attrs(about)
        found.append(one.assign_coords(tf=("candidate", np.full(len(order), float(one.tf)))))
    return found


def schedule(steps: Sequence[Any], tables: Sequence[xr.Dataset]) -> list[str]:
    """Sentences about the tables of `recommend` at several steps of a training: one choice for all, or one for each.

    One choice serves where it is within noise of the best at every step; of several such the one whose largest error is
    the smallest. A step at which the measurement cannot tell is left out.
    """
    told = [(step, ds) for step, ds in zip(steps, tables, strict=True) if ds.attrs["resolved"]]
    if not told:
        return ["Schedule: the measurement cannot tell at any step."]
    lines = [f"At {step}: {ds.attrs['chosen']}, error {_error(ds, ds.attrs['chosen'])}." for step, ds in told]
    if one := _serves_all([ds for _, ds in told]):
        worst = max(float(ds.error.sel(candidate=one)) for _, ds in told)
        first = f"Schedule: none is needed. {one} is within noise of the best at every step,"
        first += f" with an error of at most {plain(worst, 2)}."
    else:
        first = "Schedule: no single choice is within noise of the best at every step."
    return [first, *lines]


def _error(ds: xr.Dataset, candidate: str) -> str:
    return plain(float(ds.error.sel(candidate=candidate)), 2)


def _serves_all(tables: Sequence[xr.Dataset]) -> str:
    """The candidate within noise of the best everywhere, "" if there is none."""
    each = [set(map(str, ds.candidate.values[ds.equivalent.values == 1])) for ds in tables]
    common = sorted(set.intersection(*each))

    def largest(name: str) -> float:
        return max(float(ds.error.sel(candidate=name)) for ds in tables)

    common = [name for name in common if math.isfinite(largest(name))]
    return min(common, key=largest) if common else ""
