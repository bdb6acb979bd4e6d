"""Trains or resumes cells and writes their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import checkpoints, errors, likelihoods, networks, results, training
from ..datasets import Images
from .cells import Cell
from .folder import Folder
from .summary import WITHOUT_CODE, loss_without_code

LONG_NAMES = {
    "train_loss": "training loss of the epoch, without KL",
    "train_kl": "KL to uniform over the epoch's training images",
    "validation_loss": "validation loss after the epoch, one code per image, without KL",
    "validation_kl": "KL(softmax(l)) to uniform of the validation images after the epoch",
    "validation_kl_sampled": "KL(softmax(l/tf)) to uniform of the validation images after the epoch",
}
# attributes of tracked results that are copied
OF_TRACKING = ("draws", "target", "reference", "intervals", "examples", "data", "data_sha256")
TRACKED = {"tf": "tracked_tf", "tb": "tracked_tb", "epoch": "tracked_epoch"}


def run(
    cells: Sequence[Cell],
    folder: Folder,
    images: Images,
    validation: Images,
    device: str = "cpu",
    keep_model: bool = False,
    tf32: bool = False,
) -> None:
    """Trains or resumes cells, several as one ensemble, and writes their files.

    The caller holds the claims. If a training fails, its error is recorded. Raises errors of the machine, which are not
    recorded, so that the next call trains the cell, and KeyboardInterrupt after the states of the trainings are
    written.
    """
    for cell in cells:
        folder.clear_parts(cell)
    train = _alone if len(cells) == 1 else _together
    without_code = loss_without_code(_likelihood(cells[0]), images, validation)
    for cell, outcome in zip(cells, train(cells, folder, images, validation, device, tf32), strict=True):
        error = ""
        if isinstance(outcome, Exception):
            state = training.resume_path(folder.model(cell))
            error = _one_line(outcome, state)
            outcome = checkpoints.read(state)[2] if state.is_file() else {}
        ds = _dataset(cell, outcome, _tracked(cell, folder))
        made: dict[str, Any] = {"status": "failed" if error else "done", "error": error, "device": device}
        made |= {"threads": torch.get_num_threads(), "ensemble": outcome.get("ensemble", 1), "tf32": int(tf32)}
        made[WITHOUT_CODE] = without_code
        about = images.described() | {f"validation_{k}": v for k, v in validation.described().items()}
        folder.write(cell, ds.assign_attrs(results.stamp(**made, **about)))
        folder.clear(cell, keep_model)


Outcome = dict[str, Any] | Exception  # provenance of a finished training, or why it failed


def _alone(
    cells: Sequence[Cell], folder: Folder, images: Images, validation: Images, device: str, tf32: bool
) -> list[Outcome]:
    (cell,) = cells
    try:
        return [_trained(cell, folder, images, validation, device, tf32)]
    except Exception as failure:  # any error; the other cells continue
        if isinstance(failure, OSError) or errors.out_of_memory(failure):
            raise
        return [failure]


def _together(
    cells: Sequence[Cell], folder: Folder, images: Images, validation: Images, device: str, tf32: bool
) -> list[Outcome]:
    """Trains cells that differ only in temperatures and seed as one ensemble."""
    found = {cell.name: _ready(cell, folder)[0] for cell in cells}
    left = [cell for cell in cells if found[cell.name] is None]
    given = [cell.settings for cell in left], images, validation, [folder.model(cell) for cell in left]
    options = {"device": device, "tf32": tf32, **_tracking(cells[0])}
    ended = training.train_together(*given, resume=True, **options) if left else []
    outcomes: dict[str, Outcome] = {name: there for name, there in found.items() if there is not None}
    for cell, one in zip(left, ended, strict=True):
        outcomes[cell.name] = one if isinstance(one, Exception) else one.provenance
    return [outcomes[cell.name] for cell in cells]


def _trained(cell: Cell, folder: Folder, images: Images, validation: Images, device: str, tf32: bool) -> dict[str, Any]:
    """The provenance of the finished training."""
    there, resume = _ready(cell, folder)
    if there is not None:
        return there
    given = (cell.settings, images, validation, folder.model(cell))
    options = {"device": device, "tf32": tf32, **_tracking(cell)}
    try:
        return training.train(*given, resume=resume, **options).provenance
    except errors.BadFile as fault:
        if not resume:
            raise
        folder.set_aside(training.resume_path(folder.model(cell)), fault)
        return training.train(*given, **options).provenance


def _ready(cell: Cell, folder: Folder) -> tuple[dict[str, Any] | None, bool]:
    """The provenance of a training that ended before its cell was written, and whether there is a state to resume."""
    out = folder.model(cell)
    state = training.resume_path(out)
    whole = _tracks_are_there(cell, folder)
    if whole and not state.is_file() and _belongs(cell, folder, out):
        return checkpoints.read(out)[2], False
    resume = _belongs(cell, folder, state)
    if resume and not whole:
        folder.set_aside(state, f"{state}: the file of its tracked metrics is missing")
        resume = False
    return None, resume


def _tracking(cell: Cell) -> dict[str, Any]:
    if (of := cell.tracking) is None:
        return {}
    return {"track": of.kinds, "track_every": of.every, "track_images": of.images, "track_draws": of.draws}


def _belongs(cell: Cell, folder: Folder, path: Path) -> bool:
    """True if a checkpoint exists and belongs to this cell. Damaged or foreign files are renamed."""
    if not path.is_file():
        return False
    try:
        provenance = checkpoints.read(path)[2]
    except errors.BadFile as fault:
        folder.set_aside(path, fault)
        return False
    asked = json.loads(cell.configuration)
    of_cell = provenance.get("settings") == asked["settings"] and all(
        provenance.get(split, {}).get(key) == asked[split][key]
        for split in ("data", "validation")
        for key in ("sha256", "images")
    )
    if not of_cell:
        folder.set_aside(path, f"{path}: this file belongs to another training")
    return of_cell


def _tracks_are_there(cell: Cell, folder: Folder) -> bool:
    for path in folder.tracks(cell).values():
        try:
            results.open_results(path, trusted=True)
        except FileNotFoundError:
            return False
        except errors.BadFile as fault:
            folder.set_aside(path, fault)
            return False
    return True


def _dataset(cell: Cell, provenance: dict[str, Any], tracked: xr.Dataset) -> xr.Dataset:
    """The results of a training: its history by epoch (NaN for epochs that it did not reach) and tracked metrics."""
    loss, unit = loss_of(cell)
    epochs = cell.settings.epochs
    variables = {}
    for name, long_name in LONG_NAMES.items():
        values = np.full(epochs, np.nan)
        there = provenance.get("history", {}).get(name, [])
        values[: len(there)] = there
        variables[name] = ("epoch", values, {"long_name": long_name, "units": "nats" if "kl" in name else unit})
    coordinates = {"epoch": ("epoch", np.arange(1, epochs + 1), {"long_name": "epoch", "units": "1"})}
    about = {"seconds": float(provenance.get("seconds", np.nan)), "loss": loss, "unit": unit, "dtype": "float32"}
    ds = xr.Dataset(variables, coordinates, about)
    return xr.merge([ds, tracked], compat="no_conflicts", combine_attrs="no_conflicts")


def loss_of(cell: Cell) -> tuple[str, str]:
    """Name and unit of the loss. Raises ValueError for an invalid configuration."""
    likelihood = _likelihood(cell)
    return likelihoods.name_of(likelihood), likelihoods.unit_of(likelihood)


def _likelihood(cell: Cell) -> likelihoods.Likelihood:
    with torch.device("meta"):
        return networks.build(cell.settings.architecture, cell.settings.config).likelihood


def _tracked(cell: Cell, folder: Folder) -> xr.Dataset:
    """The tracked metrics by `tracked_epoch`. Those of the gap get the prefix "gap", because bias also has a cosine."""
    found = []
    for kind, path in folder.tracks(cell).items():
        if not path.is_file():
            continue  # failed before the first was measured
        ds = results.open_results(path, trusted=True).reset_coords()
        renamed = {name: new for name, new in TRACKED.items() if name in ds.variables}
        if kind == "gap":
            renamed |= {n: f"gap_{n}" for n in map(str, ds.data_vars) if "gap" not in n and n not in renamed}
        ds.attrs = {f"{kind}_{name}": ds.attrs[name] for name in OF_TRACKING if name in ds.attrs}
        found.append(ds.rename(renamed))
    return xr.merge(found, compat="no_conflicts", combine_attrs="no_conflicts")


def _one_line(failure: Exception, state: Path) -> str:
    """The error in one line, without the path of the state, which is removed with the cell."""
    text = str(failure).replace(f"; the last finite state is in {state}", "")
    foreseen = text and isinstance(failure, ValueError | FloatingPointError)
    named = text if foreseen else f"{type(failure).__name__}: {text}"
    return " ".join(named.replace("\0", " ").split())
