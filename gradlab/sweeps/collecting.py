"""Collects finished cells in one Dataset with dims tf, tb, seed, epoch."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import errors, results
from ..attributes import flattened
from ..schema import coordinate
from ..training import Settings
from .cells import NAME, Temperature, text
from .folder import ANALYSIS, has_failed

AXES = {"tf": "forward temperature", "tb": "backward temperature", "seed": "seed of training"}
STATUSES = ("done", "failed", "missing")
OF_ONE_CELL = {
    "ensemble",
    "status",
    "error",
    "seconds",
    "configuration",
    "date",
    "command_line",
    "analysis",
    "gradlab",
    "torch",
}
LOSS = "validation_loss"
FINAL = {  # figures of the history whose last value becomes a variable
    LOSS: "validation loss",
    "validation_kl": "KL(softmax(l)) to uniform of the validation images",
    "validation_kl_sampled": "KL(softmax(l/tf)) to uniform of the validation images",
}
TOTALS = {
    "final_validation_loss_with_kl": "validation_kl",
    "final_validation_loss_with_kl_sampled": "validation_kl_sampled",
}
# attributes in which cells may differ
OF_THE_MACHINE = {
    "gradlab": "trained_gradlab",
    "torch": "trained_torch",
    "device": "device",
    "threads": "threads",
    "tf32": "tf32",
}

At = tuple[Temperature, Temperature, int]


def collect(folder: str | Path, base: Settings | None = None) -> xr.Dataset:
    """The finished cells of a folder, as the Dataset that `sweep` returns. Points without a cell are "missing".

    Cells of several versions of gradlab are collected together; the attribute `trained_gradlab` lists the versions. Of
    two cells of one point, that of the later version is taken.

    Parameters
    ----------
    folder : the folder of a sweep, finished or not. It is not changed, and other files in it are ignored
    base : take only the cells with these settings, apart from tf, tb and seed

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    ValueError
        There is no finished cell, or cells differ in more than tf, tb and seed. In that case pass `base`.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample").first(60)
    >>> base = gradlab.training.Settings(config={"latents": 2, "categories": 3, "hidden": [8]}, epochs=1)
    >>> ds = gradlab.sweeps.sweep(base, images, images, "cells", tf=0.5, tb=[0.5, 1.3], seeds=1)
    >>> gradlab.sweeps.collect("cells").final_validation_loss.equals(ds.final_validation_loss)
    True
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found: dict[At, xr.Dataset] = {}
    rest: set[str] = set()
    for path in sorted(folder.glob("?" * NAME + ".h5")):
        try:
            ds = results.open_results(path, trusted=True)
            at, others = _taken_apart(ds, path)
        except errors.BadFile as fault:
            errors.warn(f"{fault}; this cell is left out")
            continue
        if base is None or others["settings"] == _without_axes(dataclasses.asdict(base)):
            if at not in found or _version(found[at]) <= _version(ds):
                found[at] = ds
            rest.add(json.dumps(others, sort_keys=True))
    if not found:
        raise ValueError(
            f"folder: expected at least one finished cell{' of these settings' if base else ''}, got none in {folder}"
        )
    if len(rest) > 1:
        differing = _differing([json.loads(one) for one in rest])
        raise ValueError(
            f"folder: expected cells of the same settings, got different {differing} in {folder};"
            " pass the base settings"
        )
    tfs, tbs, seeds = (sorted(set(axis), key=_order) for axis in zip(*found, strict=True))
    return assembled(found, tfs, tbs, seeds)


def assembled(
    found: Mapping[At, xr.Dataset], tfs: Sequence[Temperature], tbs: Sequence[Temperature], seeds: Sequence[int]
) -> xr.Dataset:
    """One Dataset over these axes, from at least one cell by its (tf, tb, seed)."""
    shape = len(tfs), len(tbs), len(seeds)
    places = {at: np.unravel_index(i, shape) for i, at in enumerate((a, b, s) for a in tfs for b in tbs for s in seeds)}
    coordinates = [ds.coords.to_dataset() for ds in found.values()]
    whole = xr.merge(coordinates, join="outer", compat="no_conflicts", combine_attrs="override")
    values: dict[str, np.ndarray] = {}
    described: dict[str, Any] = {}
    for at, ds in found.items():
        for name, variable in ds.reindex_like(whole).data_vars.items():
            of = values.setdefault(str(name), np.full(shape + variable.shape, np.nan))
            of[places[at]] = variable.values
            described.setdefault(str(name), (variable.dims, variable.attrs))
    variables = {name: ((*AXES, *dims), values[name], attrs) for name, (dims, attrs) in described.items()}
    axes = {name: _axis(name, axis) for name, axis in zip(AXES, (tfs, tbs, seeds), strict=True)}
    return xr.Dataset(
        variables | _of_cells(found, places, shape), axes | dict(whole.coords), _attributes(found.values())
    )


def alone(cell: xr.Dataset) -> xr.Dataset:
    """The Dataset of a single cell's file as a sweep of one. BadFile for what is no cell."""
    at, _ = _taken_apart(cell, "cell")
    return assembled({at: cell}, *([value] for value in at))  # type: ignore[arg-type]


def _of_cells(found: Mapping[At, xr.Dataset], places: Mapping[At, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Variables with one value per cell: status, error, last validation loss and KL, time."""
    final = {name: np.full(shape, np.nan) for name in FINAL}
    seconds = np.full(shape, np.nan)
    status, error = np.full(shape, "missing", object), np.full(shape, "", object)
    for at, ds in found.items():
        place = places[at]
        for name, values in final.items():
            if name in ds and not has_failed(ds):
                values[place] = ds[name][-1]
        seconds[place] = ds.attrs["seconds"]
        status[place], error[place] = ds.attrs["status"], ds.attrs["error"]
    return _final(final, next(iter(found.values())).attrs["unit"]) | {
        "seconds": ([*AXES], seconds, {"long_name": "time of training", "units": "s"}),
        "status": ([*AXES], status, {"long_name": "how the cell ended: done, failed or missing", "units": "1"}),
        "error": ([*AXES], error, {"long_name": "why the cell failed", "units": "1"}),
    }


def _final(last: Mapping[str, np.ndarray], unit: str) -> dict[str, Any]:
    """Variables of the last losses without KL, of both KL terms and, for losses in nats, of their sums."""
    values = {f"final_{name}": last[name] for name in FINAL}
    words = {f"final_{name}": f"{begun} after the last epoch" for name, begun in FINAL.items()}
    loss = f"{words['final_validation_loss']}, one code per image"
    words["final_validation_loss"] = f"{loss}, without KL"
    if unit == "nats":
        for name, term in TOTALS.items():
            values[name] = last[LOSS] + last[term]
            words[name] = f"{loss}, with {FINAL[term].split(' to ')[0]}"
    return {
        name: ([*AXES], of, {"long_name": words[name], "units": unit if "loss" in name else "nats"})
        for name, of in values.items()
    }


def _axis(name: str, values: Sequence[Temperature]) -> Any:
    """The coordinate of an axis: numbers, or strings if one value is a schedule."""
    if any(isinstance(value, str) for value in values):
        return coordinate(name, np.array([text(value) for value in values], object), AXES[name])
    return coordinate(name, list(values), AXES[name])


def _attributes(cells: Iterable[xr.Dataset]) -> dict[str, Any]:
    """Attributes: the base settings, what all cells have in common, and all values of what may differ by machine."""
    cells = list(cells)
    configuration = json.loads(cells[0].attrs["configuration"])
    settings = _without_axes(configuration["settings"])
    common = {name: value for name, value in cells[0].attrs.items() if name not in OF_ONE_CELL}
    of_machines = {
        new: ", ".join(sorted({str(ds.attrs.get(name, "")) for ds in cells})) for name, new in OF_THE_MACHINE.items()
    }
    about = {
        "analysis": "sweep",
        "estimator": settings["estimator"],
        **flattened("settings", settings),
        **flattened("tracking", configuration["tracking"] or {}),
        "images": configuration["data"]["images"],
        "validation_images": configuration["validation"]["images"],
        "seed": "see coordinate",
    }
    return results.stamp(**about, **common | of_machines)


def _taken_apart(ds: xr.Dataset, path: str | Path) -> tuple[At, dict[str, Any]]:
    """The (tf, tb, seed) of a cell and the rest of its configuration. Raises BadFile if it is not a cell."""
    try:
        configuration = json.loads(ds.attrs["configuration"])
        settings = Settings(**configuration["settings"])
        if ds.attrs["analysis"] != ANALYSIS or ds.attrs["status"] not in STATUSES:
            raise ValueError(f"expected analysis {ANALYSIS!r}, got {ds.attrs['analysis']!r}")
        ds.attrs["seconds"], ds.attrs["error"], ds.attrs["unit"], ds.validation_loss[-1]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise errors.BadFile(f"{path}: expected a cell of a sweep, got another file ({error!r:.100})") from None
    configuration["settings"] = _without_axes(configuration["settings"])
    configuration.pop("gradlab", None)
    return (settings.tf, settings.tb, settings.seed), configuration


def _version(ds: xr.Dataset) -> list[tuple[int, str]]:
    """A sort key: numbers by size."""
    parts = re.split(r"(\d+)", str(ds.attrs.get("gradlab", "")))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _without_axes(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(settings))  # lists instead of tuples, as in a file
    return {name: value for name, value in plain.items() if name not in AXES}


def _differing(configurations: Sequence[dict[str, Any]]) -> str:
    """The names of settings that differ."""
    flat = [{**c["settings"], **{k: v for k, v in c.items() if k != "settings"}} for c in configurations]
    names = {name for one in flat for name in one}
    return ", ".join(sorted(n for n in names if len({json.dumps(one.get(n), sort_keys=True) for one in flat}) > 1))


def _order(value: Temperature) -> tuple[bool, Temperature]:
    """A sort key: numbers by size, then strings."""
    return isinstance(value, str), value
