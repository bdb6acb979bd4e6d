"""The job of a measurement in parts: in this process, in worker processes, or as tasks of a cluster."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from .. import errors
from ..attributes import stored
from ..cautions import SamplingWarning
from ..methods import Compute
from ..sweeps.processes import place
from ..sweeps.queue import Job
from .folder import ERROR, Folder
from .models import Source
from .plan import Part

WARNINGS = "part_warnings"  # an attribute of a part


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Measurements(Job):
    """Parts, and how they are measured: `analysis(model, x, tf, tb, compute=compute)`."""

    analysis: functools.partial[xr.Dataset]
    sources: Sequence[Source]
    x: Any
    compute: Compute
    device: str
    models: dict[int, Any] = field(default_factory=dict)  # those that this process has loaded
    raised: dict[str, Exception] = field(default_factory=dict)  # errors in this process, by name of the part
    before: Callable[[], Any] = nothing  # called before each part in this process

    called, of = "measurement", "parts"

    def run(self, parts: Sequence[Part]) -> None:
        (part,) = parts
        self.before()
        self.folder.write(part, self._measured(part))

    def _measured(self, part: Part) -> xr.Dataset:
        def model() -> Any:
            if part.model not in self.models:
                self.models.clear()  # one at a time
                self.models[part.model] = self.sources[part.model].loaded()[0]
            return self.models[part.model]

        try:
            return measured(self.analysis, model, self.x, part, self.compute)
        except Exception as error:
            self.raised[part.name] = error
            return failed(error)

    def in_worker(self, index: int) -> Measurements:
        own = Folder(self.folder.path)
        compute = dataclasses.replace(self.compute, device=place(self.device, index), progress=False)
        return dataclasses.replace(self, folder=own, compute=compute, models={}, raised={}, before=nothing)

    def shared(self) -> Any:
        return self.x

    def task(self, part: Part) -> tuple[Callable[..., None], tuple[Any, ...]]:
        model = self.sources[part.model].sent(self.models.get(part.model))
        return measure, (part, self.analysis, model, self.compute, self.device)


def measure(path: str, x: Any, part: Part, analysis: Any, model: Callable[[], Any], compute: Any, device: str) -> None:
    """Measures a part in the folder `path`."""
    try:
        here = dataclasses.replace(compute, device=place(device), progress=False)
        ds = measured(analysis, model, x, part, here)
    except Exception as error:
        ds = failed(error)
    Folder(path).write(part, ds)


def measured(
    analysis: functools.partial[xr.Dataset], model: Callable[[], Any], x: Any, part: Part, compute: Compute
) -> xr.Dataset:
    """The results of a part, with its warnings as an attribute, but those that `cautions` has of the whole."""
    with errors.collected() as warned:
        ds = analysis(model(), x, list(part.tf), list(part.tb), compute=compute, **dict(part.more))
    said = [text for text, category in warned if not issubclass(category, SamplingWarning)]
    return ds.assign_attrs({WARNINGS: stored(said)}) if said else ds


def failed(error: Exception) -> xr.Dataset:
    """The file of a part that failed. The next call measures the part again."""
    text = " ".join(str(error).replace("\0", " ").split()) or type(error).__name__
    foreseen = isinstance(error, ValueError | OSError | FloatingPointError | MemoryError)
    return xr.Dataset(attrs={ERROR: text if foreseen else f"{type(error).__name__}: {text}"})
