"""Measures bias or gap during training, in one Dataset per kind beside the checkpoint.

Measuring uses no random number of the training and does not change the model, so the weights do not depend on it.
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

from .. import errors, estimators, files, results, schema
from ..attributes import flattened, nested
from ..cautions import SamplingWarning
from ..methods import MAX_CONFIGURATIONS
from . import state
from .run import Run

DRAWS = {"bias": 1024, "gap": 64}  # by kind, unless given
# references of the bias for code spaces that are too large to enumerate, by kind of latents: the first one that is not
# the estimator of the training
UNBIASED = {
    "categorical": ("rloo", "rloo:n=4"),
    "binary": ("arms:n=4", "disarm"),
    "k-hot": ("rloo", "rloo:n=4"),
}
TRAINING = "training"  # the attributes that identify the training of a file


def track_path(out: str | Path, kind: str) -> Path:
    """The file of tracked results of a training that writes `out`; kind is "bias" or "gap".

    Examples
    --------
    >>> gradlab.training.track_path("vae.safetensors", "bias").name
    'vae.bias.h5'
    """
    out = Path(out)
    name = out.stem if out.suffix == ".safetensors" else out.name
    return out.with_name(f"{name}.{kind}.h5")


def epochs_to_track(every: int | Iterable[int]) -> int | tuple[int, ...]:
    """`track_every` as a number of epochs or a sorted tuple of epochs. Raises ValueError for other values."""
    if not isinstance(every, Iterable) or isinstance(every, str):
        return errors.whole_number("track_every", every, 1)
    epochs = tuple(sorted({errors.whole_number("track_every", epoch, 0) for epoch in every}))
    if not epochs:
        raise ValueError("track_every: expected a number of epochs or at least one epoch, got none")
    return epochs


class Tracks:
    """The tracked results of a run: each kind at epoch 0, each `every`-th and the last epoch, or at the epochs `every`.

    Measures on at most `images` validation images with `draws` draws, at the current temperatures, with the estimator
    and seed of the training. Bias is measured against the exact gradient or, if the code space is too large to
    enumerate, against an unbiased reference.
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
        """Raises FileExistsError if a file that no training wrote has the name of a tracked file."""
        for kind in self.draws:
            path = files.writable(track_path(self.out, kind))
            if path.exists() and _training_of(path) is None:
                raise FileExistsError(
                    f"{path}: this file is not of a tracked training; move it away, or choose another out"
                )

    def resume(self) -> None:
        """Reads the results of the interrupted training. Raises ValueError if they were measured differently."""
        for kind in DRAWS:
            path = track_path(self.out, kind)
            if kind in self.draws:
                self.found[kind] = self._taken_up(kind, path)
            elif path.exists() and (about := _training_of(path)) and not state.difference(self.run.about(), about):
                raise ValueError(
                    f"track: expected {kind}, which {path} tracks, got another choice; track it again, or"
                    " remove that file"
                )

    def measure(self) -> None:
        """Measures what is due after the last step and not measured yet."""
        epoch, into = divmod(self.run.step, self.run.steps)
        if into or not self._due(epoch):
            return
        started = time.perf_counter()
        for kind in self.draws:
            if kind not in self.found or epoch not in self.found[kind].epoch:
                self._add(kind, epoch)
        self.run.since += time.perf_counter() - started  # `seconds` do not include tracking

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
        row = schema.row(found, "epoch", epoch)
        if kind in self.found:
            row = xr.concat([self.found[kind], row], "epoch", join="exact", combine_attrs="override")
        row.attrs = found.attrs | self._attributes(kind)
        results.save_results(row, track_path(self.out, kind))
        self.found[kind] = row

    def _measured(self, kind: str) -> xr.Dataset:
        # imported here, because it is slow and most trainings are not tracked
        from ..fidelity.bias_analysis import bias
        from ..fidelity.gap_analysis import gap

        x = self.images.floats().to(self.run.device)
        given: dict[str, Any] = {"draws": self.draws[kind], "seed": self.run.settings.seed}
        with _measurable(self.run.model) as model, warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplingWarning)  # would be repeated at every epoch; the file contains it
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
        """The rows in the file of an interrupted training that this training has measured so far."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: {kind} was not tracked so far; resume without tracking, or start again")
        about = _training_of(path)
        if about is None:
            raise errors.BadFile(
                f"{path}: expected the file of a tracked training, got another; move it away, and start again"
                " or resume without tracking"
            )
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
            raise ValueError(f"track: expected the results of this training, got {path}, which {difference}")
        passed = [epoch for epoch in range(-(-self.run.step // self.run.steps)) if self._due(epoch)]
        missing = sorted({*passed} - {*ds.epoch.values.tolist()})
        if missing:
            expected = f"track: expected epoch {missing[0]}, which the training has passed, in {path}"
            raise ValueError(f"{expected}, got a file without it; start again")
        return ds.sel(epoch=[epoch for epoch in ds.epoch.values.tolist() if self._due(epoch)])


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
