"""Monitor: fidelity of the gradients of a model in training, measured now and then on a copy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from .. import errors, outputs
from ..cautions import SamplingWarning
from ..estimators import Estimator
from ..fidelity.bias_analysis import bias
from ..fidelity.request import estimator_of, requested
from ..hdf5 import first_line
from ..model import LatentModel, check_is_model
from ..programs.program import Program
from . import alarms, rows
from .budget import Budget
from .copies import Copies, unwrapped
from .isolation import isolated
from .loading import load
from .record import Record

Temperature = float | Callable[[int], float]


class MonitorWarning(UserWarning):
    """A sentence of a monitor: something is wrong with the gradients, or with measuring them."""


class Monitor:
    """Measures the fidelity of gradients during a training, with one line in your loop: `figures = monitor.step(x)`.

    Each measurement copies the model, puts the copy in evaluation mode and measures it as `gradlab.bias` does. The
    training is not touched: weights, buffers, `.grad`, modes, hooks, random states and settings of torch are as without
    a monitor, and a run with and without it ends in the same bits.

    Forward hooks of the modules do not run in a measurement (those of `torch.nn.utils` do), autocast and
    checkpoints inside of modules are off, and weights in half precision are measured in float32. In distributed
    training rank 0 measures, and the others return {}.

    Parameters
    ----------
    model : LatentModel or Program on the modules that are trained, which may be wrapped in DistributedDataParallel,
        DataParallel or torch.compile
    estimator : a name or an Estimator: the one that the training uses
    tf, tb : its temperatures, numbers or functions of the step; tb is tf unless given
    every : steps between measurements. It grows if measurements would take more than `budget`
    budget : share of the wall time that measurements may take. The first is made at once, and each later one waits
        until the total stays below this share; 1: no limit, 0: nothing is measured. Time counts from the first call of
        `step`. Creating a Monitor, which takes about a second once in a process, does not count
    examples : number of rows of x to measure, taken from its start; a batch with fewer rows than the first waits for
        the next
    draws : estimates per measurement
    out : results file, HDF5 with the dim `step`, written whole after each measurement; a file of the same settings is
        continued
    seed : of the noise; all measurements share it, so that differences along the training are sharper

    Raises
    ------
    ValueError
        Arguments that do not fit, a model that cannot be copied, a file of something else or of other settings. The
        first measurement raises what `gradlab.bias` raises; after one that succeeded a failure is a warning.

    Warns
    -----
    MonitorWarning
        Once each: the estimate is orthogonal to the gradient (the whole interval of the cosine is below 0.1), the
        encoder's gradient is exactly 0, codes have collapsed, a schedule does not move, weights or x are not finite,
        a measurement failed, or the file cannot be written. The training continues.

    Examples
    --------
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(16).floats()
    >>> monitor = gradlab.Monitor(model, tf=1.6, tb=lambda step: 1.3, every=500)
    >>> for step in range(3):
    ...     figures = monitor.step(x)  # after optimizer.step()
    ...     if figures:
    ...         print(step, sorted(figures)[:3], figures["tb"])
    0 ['bias_norm', 'bias_norm_debiased', 'bias_norm_debiased_high'] 1.3
    """

    def __init__(
        self,
        model: Any,
        *,
        estimator: str | Estimator = "decoupled-st-gs",
        tf: Temperature = 1.0,
        tb: Temperature | None = None,
        every: int = 500,
        budget: float = 0.02,
        examples: int = 16,
        draws: int = 64,
        out: str | Path | None = None,
        seed: int = 0,
    ):
        self._model = model
        self._given = {"tf": tf, "tb": tf if tb is None else tb}
        for name, one in self._given.items():
            if not callable(one):
                self._given[name] = errors.temperature(name, one)
        self._examples = errors.whole_number("examples", examples, 1)
        self._draws = errors.whole_number("draws", draws, 2, "an interval needs two")
        self._seed = errors.whole_number("seed", seed, 0)
        self._budget = Budget(_share(budget), errors.whole_number("every", every, 1))
        self._estimator = self._checked(estimator)
        self._record = Record(_path(out), self._settings())
        self._reference: Any = self._record.attrs.get("reference", "auto")
        self._next = 0 if self._record.last is None else self._record.last + 1
        if self._record.last is not None:
            self._budget.due += self._record.last + self._budget.base
        self._rows: int | None = None  # of x, that a measurement takes
        self._succeeded = self._record.last is not None
        self._said: set[str] = set()
        self._schedules = alarms.Schedules(self._given)
        if self._budget.share and not _another_measures():
            load()

    @property
    def overhead(self) -> float:
        """Measured share of the wall time: of that from the first `step` on, what all of them took.

        It is above the budget until the first measurement is paid back, 1 / budget times its length.
        """
        return self._budget.overhead

    @property
    def every(self) -> int:
        """Steps between measurements, as lengthened to keep below the budget."""
        return self._budget.every

    @property
    def results(self) -> xr.Dataset | None:
        """All measurements so far, along `step`, as the file has them; None before the first."""
        return self._record.ds

    def step(self, x: Any, step: int | None = None) -> dict[str, float]:
        """The metrics of a measurement if one is due, else {}. Call it once per step, after the optimizer's step.

        Parameters
        ----------
        x : a batch of the training, or always the same examples; of a Program what its loss takes
        step : number of the step; by default calls are counted, from the last row of the file on. A training that
            continues from a checkpoint gives it, and rows of the file that it will pass again are replaced
        """
        began = self._budget.clock()
        now = self._next if step is None or step == self._next else self._number(step)
        self._next = now + 1
        self._budget.begin(now, began)
        figures = self._due(x, now, began) if now >= self._budget.due else {}
        self._budget.end(began)
        return figures

    def _number(self, step: int) -> int:
        """The number of the step as the training counts; it does not go back, unless it starts from a checkpoint."""
        step = errors.whole_number("step", step, 0)
        if step >= self._next - 1 and self._budget.begun:  # the same one again while gradients are accumulated
            return step
        if self._budget.begun:
            self._say(
                "step", f"step: expected numbers that rise, got {step:,} after {self._next - 1:,}; calls are counted"
            )
            return self._next
        self._record.restart_at(step)
        last = self._record.last
        self._budget.due = min(self._budget.due, step if last is None else last + self._budget.base)
        return step

    def _due(self, x: Any, step: int, began: float) -> dict[str, float]:
        """The figures of a measurement that is due, unless it has to wait."""
        if _another_measures():
            self._budget.due = step + self._budget.base
            return {}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            self._budget.waited(self._budget.clock() - began)
        if not self._budget.allows(step, self._budget.clock()):
            return {}
        some = self._first_rows(x)
        if some is None:
            self._budget.due = step + 1
            return {}
        began = self._budget.clock()
        figures = self._measured_or_said(some, step)
        self._budget.measured(step, began)
        return figures

    def _first_rows(self, x: Any) -> Any:
        """The first examples of x, as many as the first time; None if x has fewer."""
        there = rows.count(x)
        if there is None:
            return x  # refused where it is read
        if self._rows is None:
            self._rows = min(self._examples, there)
        return rows.first(x, self._rows) if there >= self._rows else None

    def _measured_or_said(self, x: Any, step: int) -> dict[str, float]:
        try:
            figures = self._measured(x, step)
        except Exception as error:
            reason = str(error)
            # a training may come to have such values
            of_values = "finite" in reason and not reason.startswith(("tf:", "tb:"))
            if not (self._succeeded or of_values):
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            self._say(reason, f"step {step:,}: a measurement failed, and the training continues ({reason})")
            return {}
        self._succeeded |= bool(figures)
        return figures

    def _measured(self, x: Any, step: int) -> dict[str, float]:
        now = {name: errors.temperature(name, one(step) if callable(one) else one) for name, one in self._given.items()}
        with isolated(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            copies, model, estimator = self._copied()
            where = alarms.not_finite(copies.roots, x)
            found = None
            sentences: list[tuple[str, str]] = []
            if not where:
                given: dict[str, Any] = {"draws": self._draws, "seed": self._seed, "reference": self._reference}
                found = bias(model, x, now["tf"], now["tb"], estimator=estimator, **given)
                if isinstance(model, LatentModel):
                    sentences += alarms.of_codes(model, x, now["tf"], step)
        if copies.hooked:
            self._say(
                "hooks",
                f"forward hooks of {', '.join(sorted(copies.hooked))} modules do not run in measurements. If they"
                " change outputs, the metrics are of the model without them.",
            )
        for one in caught:
            key = "sampling" if issubclass(one.category, SamplingWarning) else str(one.message)
            self._say(key, f"step {step:,}: {one.message}", one.category)
        if found is None:
            self._say("finite", f"step {step:,}: {where} is not finite, so nothing is measured")
            return {}
        self._reference = found.attrs["reference"]
        figures = self._recorded(found, step)
        sentences += [*alarms.of_figures(figures, step), *self._schedules.of_temperatures(step, now)]
        for which, sentence in sentences:
            self._say(which, sentence)
        return figures

    def _copied(self) -> tuple[Copies, Any, Any]:
        """Copies of model and estimator, in evaluation mode."""
        copies = Copies()
        model, estimator = copies.of(unwrapped(self._model)), copies.of(self._estimator)
        for root in copies.roots:
            root.eval()
            if any(p.dtype in (torch.float16, torch.bfloat16) for p in root.parameters()):
                root.float()
        return copies, model, estimator

    def _recorded(self, found: xr.Dataset, step: int) -> dict[str, float]:
        """The row of a measurement as plain numbers, written to the file if it can be."""
        figures = self._record.add(found, step)
        try:
            self._record.write()
        except OSError as error:
            self._say("file", f"step {step:,}: the file cannot be written, and the training continues ({error})")
        return figures

    def _say(self, which: str, sentence: str, category: type[Warning] = MonitorWarning) -> None:
        """Warns once."""
        if which not in self._said:
            self._said.add(which)
            errors.warn(f"Monitor: {sentence}", category)

    def _checked(self, estimator: Any) -> Estimator:
        """The estimator. Raises ValueError for arguments that `bias` refuses, and a model that cannot be copied."""
        model = unwrapped(self._model)
        if isinstance(estimator, list | tuple):
            raise ValueError(f"estimator: expected one, got {estimator!r}")
        self._estimator = estimator_of(estimator)
        if isinstance(model, Program):
            lazy = False  # refused by Program
        else:
            check_is_model(model)
            given = {"target": "sampled", "wrt": "logits", "moments": "monte-carlo", "reference": "auto"}
            requested(model, 1.0, 1.0, estimator=estimator, draws=self._draws, cross=None, kl=False, **given)
            lazy = any(torch.nn.parameter.is_lazy(p) for p in model.parameters())
        if not lazy:
            try:
                with isolated():
                    self._copied()
            except Exception as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise ValueError(f"model: expected one that can be copied, got an error ({reason})") from error
        return self._estimator

    def _settings(self) -> dict[str, Any]:
        """What measurements in one file have in common."""
        model = unwrapped(self._model)
        now = {name: "a function of the step" if callable(one) else one for name, one in self._given.items()}
        of_model = {"program": model.name} if isinstance(model, Program) else _sizes(model)
        given = {
            "estimator": self._estimator.label,
            "examples": self._examples,
            "draws": self._draws,
            "seed": self._seed,
        }
        return now | of_model | given


def _another_measures() -> bool:
    """Whether this is a process of a distributed training other than that of rank 0."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return known and torch.distributed.get_rank() > 0


def _sizes(model: LatentModel) -> dict[str, Any]:
    of_sets = {} if model.top_k is None else {"top_k": model.top_k}
    return {"latents": model.latents, "categories": model.categories, "latent_kind": model.kind.name} | of_sets


def _share(budget: object) -> float:
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 <= budget <= 1:
        raise ValueError(f"budget: expected a share of the time from 0 to 1, got {budget!r}")
    return float(budget)


def _path(out: object) -> Path | None:
    if out is None or isinstance(out, str | Path):
        if out is not None and (Path(out).is_file() or not Path(out).exists()):
            outputs.check_name(out, outputs.RESULTS, "out")
        return None if out is None else Path(out)
    raise ValueError(f"out: expected the name of a file, got {out!r}")
