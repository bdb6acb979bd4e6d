"""What files of results hold: dims, units, attributes, and what each variable says of itself.

Everything that shows a result reads it here, from the attributes of the file alone: a metric that was registered
in another process is shown like those of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from . import attributes
from .metrics.record import Record
from .metrics.registry import of_analysis

FORMAT = 2  # of files, in their attribute `format`; files without one are brought up to it by `upgraded`
COORDINATES = ("example", "latent", "category")
DIMS = {
    "tf": "forward temperature",
    "tb": "backward temperature",
    "estimator": "estimator",
    "target": "target law",
    "definition": "definition of the relaxed gradient",
    "checkpoint": "checkpoint",
    "epoch": "epochs of training",
    "step": "steps of training",
    "parameter": "parameter tensor",
    "example": "example",
    "latent": "latent",
    "category": "category",
    "quantile": "quantile",
    "metric": "metric",
    "example_metric": "metric without one example",
    "batch": "batch of draws",
    "seed": "seed of training",
    "kl": "KL term of the training loss",
    "model": "model",
    "tracked_epoch": "epoch of training at which fidelity was measured",
    "averaged": "estimates averaged",
    "candidate": "estimator and temperature compared",
}
# along which the points of a result stand; the others are within a point
POINT_DIMS = ("checkpoint", "model", "epoch", "step", "estimator", "target", "definition", "parameter", "tf", "tb")
ALONG = ("epoch", "step")  # a training
ENDS = {"": "", "_low": "lower end of the 95 % interval of ", "_high": "upper end of the 95 % interval of "}
# over examples, for the data distribution that they are a sample of
POPULATION = {
    "_population_low": "lower end of the 95 % interval over examples, of the data distribution, of ",
    "_population_high": "upper end of the 95 % interval over examples, of the data distribution, of ",
}
# variables that say where a metric can be trusted, and are no metrics themselves
ABOUT_SAMPLING = (
    "expected_count",
    "unseen",
    "rare_examples",
    "certain_examples",
    "enumerated",
    "effective_examples",
)


# --- writing ---


def coordinate(name: str, values: Any, long_name: str = "") -> tuple[str, Any, dict[str, str]]:
    """An index along the dim of its own name."""
    return name, values, {"long_name": long_name or DIMS.get(name, name), "units": "1"}


def temperatures(tfs: list[float], tbs: list[float]) -> dict[str, Any]:
    """The coordinates tf and tb."""
    return {"tf": coordinate("tf", tfs), "tb": coordinate("tb", tbs)}


def with_interval(name: str, dims: Sequence[str], values: np.ndarray, said: Mapping[str, Any]) -> dict[str, Any]:
    """Variables NAME, NAME_low, NAME_high from an array whose last axis holds the three."""
    of_ends = {key: said[key] for key in ("long_name", "units", "aggregation") if key in said}
    found = {}
    for k, (suffix, words) in enumerate(ENDS.items()):
        about = of_ends | {"long_name": words + said["long_name"]} if suffix else dict(said)
        found[name + suffix] = (dims, values[..., k].copy(), about)
    return found


def metric_variables(
    values: Mapping[str, np.ndarray],
    dims: Sequence[str],
    of_gradient: str,
    aggregation: str,
    records: Mapping[str, Record],
) -> dict[str, Any]:
    """Variables with their intervals of the metrics in `records`, `of_gradient` being the unit of a gradient."""
    variables: dict[str, Any] = {}
    for name, three in values.items():
        about = records[name].attributes(of_gradient) | {"aggregation": aggregation}
        variables |= with_interval(name, dims, three, about)
    return variables


def population_ends(
    ends: Mapping[str, np.ndarray], dims: Sequence[str], of_gradient: str, records: Mapping[str, Record]
) -> dict[str, Any]:
    """Variables NAME_population_low and NAME_population_high, from arrays whose last axis holds the two."""
    found: dict[str, Any] = {}
    for name, two in ends.items():
        about = records[name].attributes(of_gradient)
        for k, (suffix, words) in enumerate(POPULATION.items()):
            said = {"long_name": words + about["long_name"], "units": about["units"]}
            found[name + suffix] = (dims, two[..., k].copy(), said)
    return found


def example_replicates(values: np.ndarray, dims: Sequence[str]) -> tuple[Sequence[str], np.ndarray, dict[str, str]]:
    """The variable of metrics without each example in turn, (example_metric, *dims, example)."""
    words = "each metric without each example in turn"
    return ("example_metric", *dims, "example"), values, {"long_name": words, "units": "as the metric"}


def effective_examples(values: np.ndarray, dims: Sequence[str], of: str) -> dict[str, Any]:
    """The variable of the number of examples that carry a norm."""
    words = f"number of examples that carry the {of}: (sum of squared norms)^2 / sum of their squares"
    return {"effective_examples": (dims, values, {"long_name": words, "units": "1"})}


def replicates(values: np.ndarray, dims: Sequence[str]) -> tuple[Sequence[str], np.ndarray, dict[str, str]]:
    """The variable of metrics without each batch in turn, (metric, batch, *dims)."""
    words = "each metric without each batch of draws in turn"
    return ("metric", "batch", *dims), values, {"long_name": words, "units": "as the metric"}


def dataset(
    variables: Mapping[str, Any], coords: Mapping[str, Any], attrs: Mapping[str, Any], without: Sequence[str]
) -> xr.Dataset:
    """The Dataset of variables and coordinates (dims, values, attributes), `without` some dims of length one."""

    def left(dims: str | Sequence[str], values: Any, said: dict[str, Any]) -> tuple[list[str], Any, Any]:
        dims = [dims] if isinstance(dims, str) else list(dims)
        at = tuple(0 if dim in without else slice(None) for dim in dims)
        return [dim for dim in dims if dim not in without], np.asarray(values)[at], said

    kept = {name: left(*of) for name, of in coords.items() if name not in without}
    return xr.Dataset({name: left(*of) for name, of in variables.items()}, kept, attrs)


def row(found: xr.Dataset, dim: str, value: int) -> xr.Dataset:
    """The metrics of one point, with their intervals, as the row of an epoch or a step; of tensors that of all."""
    point = found.isel({name: 0 for name in ("tf", "tb", "parameter") if name in found.dims})
    one = point[[name for name in point.data_vars if set(point[name].dims) <= {"definition"}]]
    one = one.drop_vars([name for name in one.coords if name not in one.dims]).expand_dims({dim: [value]})
    one[dim].attrs = {"long_name": DIMS[dim], "units": "1"}
    return one.assign_coords({name: (dim, [point[name].item()], point[name].attrs) for name in ("tf", "tb")})


# --- reading ---


def variable(ds: xr.Dataset, name: str) -> xr.Variable:
    """A variable without its coordinates, which `ds[name]` takes longer to gather than to read the values."""
    return ds.variables[name] if name in ds.variables else ds[name].variable


def along(ds: xr.Dataset) -> str:
    """The dim of a Dataset along which a training goes; "" where there is none."""
    return next((dim for dim in ALONG if dim in ds.dims), "")


def ends_of(ds: xr.Dataset, name: str) -> list[str]:
    """The variables that hold the ends of a metric's intervals."""
    return [name + end for end in (*ENDS, *POPULATION) if end and name + end in ds]


def is_end(ds: xr.Dataset, name: str) -> bool:
    """Whether a variable is the end of another one's interval."""
    return any(end and name.endswith(end) and name.removesuffix(end) in ds for end in (*ENDS, *POPULATION))


def said(ds: xr.Dataset, name: str) -> dict[str, Any]:
    """What a variable says of itself; of a metric that says nothing, in an earlier file say, what its record does."""
    about = dict(variable(ds, name).attrs)
    if "short_name" in about or (record := _known(ds).get(name)) is None:
        return about
    of_record = record.attributes("")
    if "sampling noise included" not in about.get("long_name", of_record["long_name"]):  # against a sampled reference
        of_record.pop("sampling_noise", None)
    return of_record | about


def is_metric(ds: xr.Dataset, name: str) -> bool:
    """Whether a variable is a metric: it has a short name, and is no end of an interval."""
    return "short_name" in said(ds, name)


def ranked(ds: xr.Dataset, names: Sequence[str]) -> list[str]:
    """Those of `names` that have a rank, the lowest first."""
    ranks = {name: float(about["rank"]) for name in names if "rank" in (about := said(ds, name))}
    return sorted(ranks, key=lambda name: ranks[name])


def short_name(ds: xr.Dataset, name: str) -> str:
    """What a metric is called, and whether it includes sampling noise."""
    noise = ", noise included" if includes_noise(ds, name) else ""
    return str(said(ds, name).get("short_name", name.replace("_", " "))) + noise


def includes_noise(ds: xr.Dataset, name: str) -> bool:
    """Whether a metric includes what sampling adds."""
    return said(ds, name).get("sampling_noise") == "included"


def negative_by_chance(ds: xr.Dataset, name: str) -> bool:
    """Whether values below 0 are sampling noise: a root of a square that is estimated without it."""
    return said(ds, name).get("below_zero") == "by chance"


def upgraded(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset as this version writes it: the same one, or a copy if an earlier version wrote it.

    Earlier files have a dim `figure` in place of `metric`, metrics that do not say what they are called and where they
    are shown, and attributes that are texts of JSON.
    """
    if ds.attrs.get("format") == FORMAT:
        return ds
    if "figure" in ds.dims:
        ds = ds.rename({"figure": "metric"})
    ds = ds.copy()
    for name in _known(ds):
        if name in ds.data_vars:
            ds[name].attrs = said(ds, name)
    ds.attrs = attributes.upgraded(ds.attrs) | {"format": FORMAT}
    return ds


def _known(ds: xr.Dataset) -> dict[str, Record]:
    """The records of the metrics that a Dataset may have; of names in both analyses that of the one it is of."""
    bias, gap = of_analysis("bias"), of_analysis("gap")
    return bias | gap if "gap" in ds else gap | bias
