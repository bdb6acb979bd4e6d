"""Measures several models in parts, which are kept in a folder until the results are written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from torch import Tensor

from .. import cautions, errors, progress
from ..attributes import texts
from ..fidelity.reference_choice import CANDIDATES, decided, reference_choice, undecided
from ..fidelity.request import Arms
from ..methods import Compute
from ..results import command_line
from ..sweeps.processes import chosen, end_within_import, place, work_in_processes
from ..sweeps.queue import work
from ..sweeps.run import work_with_dask
from .folder import ERROR, Folder
from .job import WARNINGS, Measurements
from .joining import joined
from .models import Source
from .plan import Part, asked, by_temperature


class Campaign:
    """`bias` or `gap` of several models, in parts that several processes or machines may measure.

    A part is one model at one forward temperature; with one process and no cluster, one model. The name of its file is
    a hash of all that determines its numbers. So the same call continues from what is measured, and no part of another
    call is used.

    Parameters
    ----------
    kind : "bias" or "gap"
    analysis : gradlab.bias or gradlab.gap with all arguments besides temperatures, cross and compute
    sources : where the models come from
    models : the models that there are, by position in `sources`
    x : the observations
    tf, tb, cross : the temperatures, as `bias` takes them
    out : the results file; the folder of the parts is beside it
    compute : dtype, memory, progress
    device : "cpu", "cuda", ... or "auto", a GPU where there is one; with a scheduler each worker decides, so that
        "auto" may measure some parts on CPUs and others on GPUs. `device` of the results says which
    workers : number of processes. They share torch's threads and use one GPU each if there are several
    scheduler : address of a Dask scheduler, whose workers measure

    Raises
    ------
    ValueError
        Several workers beside a scheduler, or a scheduler without the extra `distributed`.
    """

    def __init__(
        self,
        kind: str,
        analysis: functools.partial[xr.Dataset],
        sources: Sequence[Source],
        models: dict[int, Any],
        x: Tensor,
        tf: Sequence[float],
        tb: Sequence[float],
        *,
        out: str | Path,
        compute: Compute,
        device: str = "auto",
        cross: tuple[float, float] | None = None,
        workers: int = 1,
        scheduler: str | None = None,
    ):
        end_within_import()
        if scheduler is not None and workers > 1:
            raise ValueError(f"workers: expected none with a scheduler, which has its own workers, got {workers}")
        self.kind, self.analysis, self.sources, self.models, self.x = kind, analysis, sources, models, x
        self.tf, self.tb, self.cross, self.out = tf, tb, cross, out
        # parts of a CPU and of a GPU have other names. The devices of a cluster are not known here
        self.device = device if scheduler is not None else chosen(device)
        self.compute = dataclasses.replace(compute, device=None)
        self.workers, self.scheduler = workers, scheduler
        self.divided = workers > 1 or scheduler is not None
        self.folder = Folder.beside(out)
        self.choices: dict[int, xr.Dataset] = {}  # of references, by model
        self.parts: dict[int, list[Part]] = {}  # by model
        self.failed: dict[int, Exception] = {}  # by model: its first error
        self._every: list[Part] = []  # also those in which references were chosen

    def held(self) -> contextlib.AbstractContextManager[None]:
        """In this block no other command measures into the same results file. Raises OSError if one does."""
        return self.folder.held(self.out)

    def measure(self) -> None:
        """Measures the parts that are not there yet. If a model fails, the others are measured; see `failed`.

        Raises OSError and KeyboardInterrupt as `sweeps.sweep` does. Parts that are finished stay.
        """
        self.folder.make()
        whole = {i: self._whole(i) for i in self.models}
        if self.divided and self.kind == "bias":
            self._choose_references(whole)
        for i, part in whole.items():
            if i in self.failed:
                continue
            cross = None if self.cross is None else Arms(self.cross) if self.divided else self.cross
            more = {} if cross is None else {"cross": cross}
            if self.divided:
                self.parts[i] = by_temperature(part, more | self._reference(i))
            else:
                self.parts[i] = [dataclasses.replace(part, more=tuple(more.items()))]
        self._work(self.analysis, self.parts, self.kind)

    def found(self) -> dict[int, xr.Dataset]:
        """The results of the models all of whose parts are measured, by position, with their warnings."""
        found = {}
        for i, parts in self.parts.items():
            of = [self.folder.read(part) for part in parts if i not in self.failed]
            if of and all(ds is not None and ERROR not in ds.attrs for ds in of):
                each = [ds for ds in of if ds is not None]
                for text in dict.fromkeys(text for ds in each for text in texts(ds.attrs.get(WARNINGS, []))):
                    errors.warn(text)
                ds = joined(each).assign_attrs(command_line=command_line())
                if i in self.choices:
                    ds.attrs |= {name: value for name, value in self.choices[i].attrs.items() if name in CANDIDATES}
                for text in cautions.of_sampling(ds):
                    errors.warn(text, cautions.SamplingWarning)
                found[i] = ds
        return found

    def kept(self) -> str:
        """What of this call is kept, as the beginning of a sentence; "" for nothing."""
        there = sum(self.folder.finished(part) for part in self._every)
        every = len(self._every)
        return f"{there} of {every} parts are in {self.folder.path}, and " if there else ""

    def remove(self) -> None:
        """Removes the parts of this call. Those of another call, which was interrupted, stay."""
        if others := self.folder.remove(self._every):
            errors.warn(
                f"{others} part{'s' * (others > 1)} of another command stay{'s' * (others == 1)} in"
                f" {self.folder.path}; remove the folder if that command is not to continue"
            )

    def _whole(self, i: int) -> Part:
        source = self.sources[i]
        of = asked(self.kind, self.analysis.keywords, self.compute, source, self.x, self.device)
        return Part(i, source.name, tuple(self.tf), tuple(self.tb), of)

    def _choose_references(self, whole: dict[int, Part]) -> None:
        """Chooses references where `bias` does by draws at all tf, in parts of their own."""
        keywords = self.analysis.keywords
        open_ones = {}
        for i, part in whole.items():
            try:
                if undecided(self.models[i], self.tf, self.tb, **keywords) is not None:
                    more = (("choice", True),)
                    open_ones[i] = [dataclasses.replace(part, label=f"{part.label}, reference", more=more)]
            except ValueError as error:
                self.failed[i] = error
        choose = functools.partial(reference_choice, **keywords)
        self._work(choose, open_ones, "choosing references")
        for i, (part,) in open_ones.items():
            ds = self.folder.read(part)
            if i not in self.failed and ds is not None:
                self.choices[i] = ds

    def _reference(self, i: int) -> dict[str, Any]:
        if i not in self.choices:
            return {}
        method = undecided(self.models[i], self.tf, self.tb, **self.analysis.keywords)
        assert method is not None
        return {"reference": decided(method, self.choices[i])}

    def _work(self, analysis: functools.partial[xr.Dataset], parts: dict[int, list[Part]], words: str) -> None:
        every = [part for of in parts.values() for part in of]
        self._every += every
        there = self.folder.tidy(every)
        if there and analysis is self.analysis:
            errors.warn(f"{there} of {len(every)} parts are measured already, in {self.folder.path}")
        left = [part for part in every if not self.folder.finished(part)]
        if not left:
            return
        count = min(self.workers, len(left))
        job = Measurements(
            every, self.folder, analysis, self.sources, self.x, self.compute, self.device, models=self.models
        )
        alone = self.scheduler is None and count == 1
        watch = _Watch(job, len(left), there)
        shown = self.compute.progress and not alone
        with progress.bar(words, len(every), shown, done=there, long_steps=True) as advance:

            def after() -> None:
                advance(watch.new())

            if self.scheduler is not None:
                work_with_dask(job, self.scheduler, after)
            elif not alone:
                work_in_processes(job, count, after)
            else:
                compute = dataclasses.replace(self.compute, device=place(self.device))
                before = functools.partial(watch.tell, len(every))
                with progress.within():
                    work(dataclasses.replace(job, cells=left, compute=compute, before=before), after)
        for i, of in parts.items():
            for part in of:
                if (text := self.folder.take_error(part)) is not None:
                    self.failed.setdefault(i, job.raised.get(part.name) or ValueError(text))


class _Watch:
    """How many parts are finished, and how long the others take."""

    def __init__(self, job: Measurements, left: int, there: int):
        self.job, self.left, self.there = job, left, there
        self.waiting = [part for part in job.cells if not job.folder.finished(part)]
        self.began = time.monotonic()

    def new(self) -> int:
        """The number of parts that were finished since the last call."""
        before = len(self.waiting)
        self.waiting = [part for part in self.waiting if not self.job.folder.finished(part)]
        return before - len(self.waiting)

    def tell(self, total: int) -> None:
        """Puts the number of the part, and the time left for all, before the progress of the part."""
        if total == 1:
            return
        made = self.left - len(self.waiting)
        seconds = (time.monotonic() - self.began) / made * len(self.waiting) if made else 0.0
        left = f", about {progress.duration(seconds)} left for all" if made else ""
        progress.say_before(f"part {self.there + made + 1} of {total}{left}: ")
