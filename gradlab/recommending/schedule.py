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


def steps_of(tables: Sequence[xr.Dataset]) -> list[str]:
    """What the tables of several checkpoints are called: by their epochs, or else their files."""
    steps = [ds.attrs.get("trained_epochs", ds.attrs["checkpoint"]) for ds in tables]
    return [f"epoch {step}" if isinstance(step, int) else str(step) for step in steps]


def joined(tables: Sequence[xr.Dataset], steps: Sequence[str] | None = None) -> xr.Dataset:
    """Tables of several checkpoints along a dim `checkpoint`, NaN where a candidate was not measured."""
    if len(tables) == 1:
        return tables[0]
    told = schedule(steps or steps_of(tables), tables)
    every = list(dict.fromkeys(str(label) for ds in tables for label in ds.candidate.values))
    of_all = {str(row.candidate.item()): row for ds in tables for row in _rows(ds)}
    # what a candidate is does not depend on the checkpoint, but for a tf that is that of the training
    same = {name: [of_all[label][name].item() for label in every] for name in ("estimator", "tf", "tb")}
    aligned = []
    for ds in tables:
        wide = ds.drop_vars([*same]).reindex(candidate=every)
        aligned.append(wide.assign_coords({name: ("candidate", values) for name, values in same.items()}))
    ds = join_checkpoints(aligned)
    if all(len(set(one.tf.values.tolist())) == 1 for one in tables):
        ds = ds.assign_coords(tf=("checkpoint", [float(one.tf.values[0]) for one in tables]))
    of_each: dict[str, Any] = {name: ("checkpoint", [_kept(one.attrs[name]) for one in tables]) for name in OF_EACH}
    ds = ds.assign_coords(of_each)
    for name in (*same, *OF_EACH):
        ds[name].attrs |= {"long_name": name, "units": "1"}
    for name in ("chosen", "present", "margin"):
        ds.attrs.pop(name, None)  # of each
    any_of = {name: int(any(one.attrs[name] for one in tables)) for name in ("resolved", "interrupted")}
    return ds.assign_attrs({"schedule": stored(told), "answer": stored(told), **any_of})


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
        found.append(one.assign_coords(tf=("candidate", np.broadcast_to(one.tf.values, len(order)))))
    return found


def schedule(steps: Sequence[Any], tables: Sequence[xr.Dataset]) -> list[str]:
    """Sentences about the tables of `recommend` at several steps of a training: one choice for all, or one for each.

    One choice serves where it is within noise of the best at every step; of several such the one whose largest error is
    the smallest. A step at which the measurement cannot tell is left out.
    """
    told = [(step, ds) for step, ds in zip(steps, tables, strict=True) if ds.attrs["resolved"]]
    if not told:
        return ["Schedule: the measurement cannot tell at any step."]
    lines = [_at(step, ds) for step, ds in zip(steps, tables, strict=True)]
    if one := everywhere(tables):
        worst = max(float(ds.error.sel(candidate=one)) for _, ds in told)
        at = "every step" if len(told) == len(tables) else "every step that is resolved"
        first = f"Schedule: none is needed. {one} is as good as the best within noise at {at},"
        first += f" with an error of at most {plain(worst, 2)}."
    else:
        first = "Schedule: no single choice is as good as the best at every step."
    return [first, *lines]


def _at(step: Any, ds: xr.Dataset) -> str:
    chosen = str(ds.attrs["chosen"])
    if not ds.attrs["resolved"]:
        return f"At {step}, the measurement cannot tell."
    return f"At {step}, use {chosen} (error {plain(float(ds.error.sel(candidate=chosen)), 2)})."


def everywhere(tables: Sequence[xr.Dataset]) -> str:
    """The candidate within noise of the best at every step that is resolved, "" if there is none."""
    tables = [ds for ds in tables if ds.attrs["resolved"]]
    if not tables:
        return ""
    each = [set(map(str, ds.candidate.values[ds.equivalent.values == 1])) for ds in tables]
    common = sorted(set.intersection(*each))

    def largest(name: str) -> float:
        return max(float(ds.error.sel(candidate=name)) for ds in tables)

    common = [name for name in common if math.isfinite(largest(name))]
    return min(common, key=largest) if common else ""
