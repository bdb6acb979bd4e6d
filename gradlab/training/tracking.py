"""Bias or gap along a training: measured every so many epochs, one labelled Dataset beside the checkpoint.

Measuring takes no random number of the training and leaves the model as it was, so the weights do not depend on it.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from .. import errors, estimators, files, results
from ..attributes import flattened, nested
from ..cautions import SamplingWarning
from ..methods import MAX_CONFIGURATIONS
from . import state
from .run import Run

DRAWS = {"bias": 1024, "gap": 64}  # by kind, unless given
# References of bias where the codes are too many to enumerate, by kind of latent; the first that is not the training's
# own estimator, the same at all epochs.
UNBIASED = {"categorical": ("rloo", "rloo:n=4"), "binary": ("arms:n=4", "disarm")}
TRAINING = "training"  # the attributes that tell which training a file is of


def track_path(out: str | Path, kind: str) -> Path:
    """Where a training that writes `out` keeps what it measured on its way, kind "bias" or "gap"."""
    out = Path(out)
    name = out.stem if out.suffix == ".safetensors" else out.name
    return out.with_name(f"{name}.{kind}.h5")


def epochs_to_track(every: int | Iterable[int]) -> int | tuple[int, ...]:
    """What `track_every` is: a number of epochs, or the epochs themselves in order. ValueError for neither."""
    if not isinstance(every, Iterable) or isinstance(every, str):
        return errors.whole_number("track_every", every, 1)
    epochs = tuple(sorted({errors.whole_number("track_every", epoch, 0) for epoch in every}))
    if not epochs:
        raise ValueError("track_every: expected a number of epochs or at least one epoch, got none")
    return epochs


class Tracks:
    """What a run measures on its way: each kind at epoch 0, every `every`-th and the last, or at the epochs `every`.

    On the first `images` validation images, or all of them where there are fewer, with `draws` draws, at the
    temperatures in force, with the training's estimator and seed. Bias is measured against the exact gradient or,
    where the code space is too large to enumerate, against an unbiased reference.
    """

    def __init__(
        self,
        run: Run,
        out: Path,
        kinds: Sequence[str],
        every: int | Iterable[int],
        images: int,
        draws: int | None,
    ):
        kinds = [errors.choice("track", kind, list(DRAWS)) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        self.run, self.out = run, out
        self.every = epochs_to_track(every)
        if isinstance(self.every, tuple) and (last := self.every[-1]) > run.settings.epochs:
            raise ValueError(f"track_every: expected epochs up to {run.settings.epochs}, the last, got {last}")
        images = errors.whole_number("track_images", images, 1)
        self.images = run.validation.first(min(images, len(run.validation)))
        if draws is not None:
            draws = errors.whole_number("track_draws", draws, 2, "an interval needs two")
        self.draws = {kind: draws or DRAWS[kind] for kind in dict.fromkeys(kinds)}
        self.reference = "exact"
        if run.model.configurations > MAX_CONFIGURATIONS:
            others = (e for e in UNBIASED[run.model.kind.name] if estimators.parse(e).label != run.estimator.label)
            self.reference = next(others)
        self.found: dict[str, xr.Dataset] = {}

    def begin(self) -> None:
        """FileExistsError where a file that no training wrote would be overwritten."""
        for kind in self.draws:
            path = files.writable(track_path(self.out, kind))
            if path.exists() and _training_of(path) is None:
                raise FileExistsError(f"{path}: not of a tracked training; move it away, or choose another out")

    def resume(self) -> None:
        """Take up what the interrupted training has measured; ValueError where it is not what would be measured."""
        for kind in DRAWS:
            path = track_path(self.out, kind)
            if kind in self.draws:
                self.found[kind] = self._taken_up(kind, path)
            elif path.exists() and (about := _training_of(path)) and not state.difference(self.run.about(), about):
                raise ValueError(f"track: {kind} was tracked into {path}; give it again, or remove that file")

    def measure(self) -> None:
        """What is due after the step last made and not measured yet."""
        epoch, into = divmod(self.run.step, self.run.steps)
        if into or not self._due(epoch):
            return
        started = time.perf_counter()
        for kind in self.draws:
            if kind not in self.found or epoch not in self.found[kind].epoch:
                self._add(kind, epoch)
        self.run.since += time.perf_counter() - started  # `seconds` are those of the training alone

    @property
    def _when(self) -> int | str:
        """`every`, as an attribute of a file."""
        return self.every if isinstance(self.every, int) else ", ".join(map(str, self.every))

    def _due(self, epoch: int) -> bool:
        if isinstance(self.every, tuple):
            return epoch in self.every
        return epoch % self.every == 0 or epoch == self.run.settings.epochs

    def _add(self, kind: str, epoch: int) -> None:
        found = self._measured(kind)
        row = _row(found, epoch)
        if kind in self.found:
            row = xr.concat([self.found[kind], row], "epoch", join="exact", combine_attrs="override")
        row.attrs = found.attrs | self._attributes(kind)
        results.save_results(row, track_path(self.out, kind))
        self.found[kind] = row

    def _measured(self, kind: str) -> xr.Dataset:
        # imported here: that takes as long as importing torch, and most trainings are not tracked
        from ..fidelity.bias_analysis import bias
        from ..fidelity.gap_analysis import gap

        x = self.images.floats().to(self.run.device)
        given: dict[str, Any] = {"draws": self.draws[kind], "seed": self.run.settings.seed}
        with _measurable(self.run.model) as model, warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplingWarning)  # of every epoch: the file says it
            if kind == "bias":
                given |= {"estimator": self.run.estimator, "reference": self.reference}
                return bias(model, x, *self.run.in_force, **given)
            return gap(model, x, *self.run.in_force, **given)

    def _attributes(self, kind: str) -> dict[str, Any]:
        return {
            "analysis": f"{kind}-along-training",
            **self.images.described(),
            "checkpoint": str(self.out),
            **flattened(TRAINING, self.run.about()),
            "track_every": self._when,
        }

    def _taken_up(self, kind: str, path: Path) -> xr.Dataset:
        """The rows of an interrupted training's file that this one would have measured so far."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: {kind} was not tracked so far; resume without, or begin anew")
        about = _training_of(path)
        if about is None:
            raise errors.BadFile(f"{path}: not of a tracked training; move it away, and begin anew or resume without")
        ds = results.open_results(path, trusted=True)
        draws = self.draws[kind]
        if kind == "bias" and self.reference != "exact":
            from ..fidelity.reference import rounded

            draws = rounded(draws)
        asked = {"track_every": self._when, "examples": len(self.images), "draws": draws}
        other = [f"{k} {ds.attrs.get(k)} (asked: {v})" for k, v in asked.items() if ds.attrs.get(k) != v]
        difference = state.difference(self.run.about(), about)
        if other and not difference:
            difference = f"was measured with {', '.join(other)}; give the same"
        if difference:
            raise ValueError(f"track: {path} {difference}")
        passed = [epoch for epoch in range(-(-self.run.step // self.run.steps)) if self._due(epoch)]
        missing = sorted({*passed} - {*ds.epoch.values.tolist()})
        if missing:
            raise ValueError(f"track: {path} lacks epoch {missing[0]}, which the training has passed; begin anew")
        return ds.sel(epoch=[epoch for epoch in ds.epoch.values.tolist() if self._due(epoch)])


def _row(found: xr.Dataset, epoch: int) -> xr.Dataset:
    """The figures of one point, with their intervals, as the row of an epoch."""
    point = found.isel(tf=0, tb=0)
    row = point[[name for name in point.data_vars if set(point[name].dims) <= {"definition"}]]
    row = row.expand_dims(epoch=[epoch])
    row.epoch.attrs = {"long_name": "epochs of training", "units": "1"}
    return row.assign_coords({name: ("epoch", [point[name].item()], point[name].attrs) for name in ("tf", "tb")})


def _training_of(path: Path) -> dict[str, Any] | None:
    """The account (`Run.about`) of the training that a file was tracked along; None for a file of something else."""
    try:
        ds = results.open_results(path, trusted=True)
        about = nested(ds.attrs, TRAINING)
        state.difference(about, about)  # raises where parts are missing
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    return about if "epoch" in ds.indexes else None


@contextlib.contextmanager
def _measurable(model: Any) -> Iterator[Any]:
    """The model in evaluation mode, each of its modules afterwards in the mode it was."""
    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode
