"""Engines that make the steps of runs: one run after another, or all as a stack (captured and replayed on a GPU)."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from .. import progress
from .capture import capture
from .run import Run
from .stack import Stack, reason_against
from .streams import BLOCK

COMPILED_FROM = 3000  # remaining steps that are worth ten seconds for compiling the optimizer's update
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
AHEAD = 4  # blocks of steps that the host may be ahead of the device


class Engine(Protocol):
    runs: list[Run]

    def epoch(self, stop: threading.Event, advance: progress.Advance) -> None:
        """Makes the steps of all runs up to the end of the epoch, or until `stop` is set."""

    def finite(self, run: Run) -> bool:
        """True if the sums and weights of the run are finite."""

    def figures(self, run: Run) -> Sequence[float]:
        """The values MEASURED of the epoch that ends."""


def engine_for(runs: Sequence[Run]) -> Engine:
    """The engine for runs of one shape, at the same step and on one device: on a GPU a stack, if they can be stacked.

    On a CPU, one run already uses all cores, and a stack does not fit in the caches. A stack of convolutions becomes a
    grouped convolution, which can be slower on a GPU than separate ones, so both are timed.
    """
    if not stacks_pay(runs[0].device) or reason_against(runs):
        return InTurn(runs)
    convolves = any(isinstance(module, CONVOLUTIONS) for module in runs[0].model.modules())
    if len(runs) == 1 or not convolves or runs[0].device.type != "cuda":
        return Stacked(runs)
    alone = Stacked(runs[:1]).seconds()
    together = Stacked(runs)
    return together if together.seconds() < alone * len(runs) else Several([Stacked([run]) for run in runs])


def stacks_pay(device: torch.device) -> bool:
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class InTurn:
    """Trains runs one after another, epoch by epoch, each with its optimizer."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = list(runs)

    def epoch(self, stop: threading.Event, advance: progress.Advance) -> None:
        for run in self.runs:
            for batch in run.batches_left():
                run.one_step(batch)
                advance()
                if stop.is_set():
                    return

    def finite(self, run: Run) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in (run.sums, *run.model.parameters()))

    def figures(self, run: Run) -> Sequence[float]:
        loss, kl, examples = run.sums.tolist()
        run.sums.zero_()
        return [loss / examples, kl / examples, *run.validate()]


class Several:
    """Runs several engines one after another, epoch by epoch."""

    def __init__(self, engines: Sequence[Stacked]):
        self.engines = list(engines)
        self.runs = [run for engine in engines for run in engine.runs]

    def epoch(self, stop: threading.Event, advance: progress.Advance) -> None:
        for engine in self.engines:
            if not stop.is_set():
                engine.epoch(stop, advance)

    def finite(self, run: Run) -> bool:
        return self._of(run).finite(run)

    def figures(self, run: Run) -> Sequence[float]:
        return self._of(run).figures(run)

    def _of(self, run: Run) -> Stacked:
        return next(engine for engine in self.engines if any(own is run for own in engine.runs))


class Stacked:
    """Makes each step of all runs together. On a GPU a step is captured once and replayed."""

    def __init__(self, runs: Sequence[Run]):
        self.stack = Stack(runs)
        self.runs = self.stack.runs
        self.steps: dict[int, Callable[[], Any]] = {}  # by number of examples
        self.whole: list[bool] = []
        self.of_epoch: list[list[float]] = []

    def epoch(self, stop: threading.Event, advance: progress.Advance) -> None:
        first = self.runs[0]
        at = shown = first.step
        end = (at // first.steps + 1) * first.steps
        for examples in {first.examples(at), first.examples(end - 1)}:
            self.prepare(examples)  # before the counters are set, because this changes them
        self.stack.feed.begin(at)
        behind: collections.deque[torch.cuda.Event] = collections.deque()
        while at < end and not stop.is_set():
            if at % BLOCK == 0 or at == first.step:
                self.stack.feed.fill(at)
                self._keep_pace(behind)
            self.steps[first.examples(at)]()
            at += 1
            if at % BLOCK == 0 or at == end:
                advance((at - shown) * len(self.runs))
                shown = at
        self.stack.made(at)
        self.whole = self.stack.finite().tolist()
        if at == end:
            self._measure()

    def seconds(self, steps: int = 8) -> float:
        """Seconds of one step with a full batch, measured over `steps` that are undone."""
        examples, kept = self.runs[0].examples(0), [tensor.clone() for tensor in self.stack.state]
        self.prepare(examples)
        self.stack.feed.begin(0)
        self.stack.feed.fill(0)
        passed = []
        for _ in range(2):  # the first to warm up
            synchronize(self.stack.device)
            started = time.perf_counter()
            for _ in range(steps):
                self.steps[examples]()
                self.stack.feed.slot.zero_()
                self.stack.feed.at.zero_()
            synchronize(self.stack.device)
            passed.append(time.perf_counter() - started)
        for tensor, before in zip(self.stack.state, kept, strict=True):
            tensor.copy_(before)
        return passed[-1] / steps

    def finite(self, run: Run) -> bool:
        return self.whole[self.runs.index(run)]

    def figures(self, run: Run) -> Sequence[float]:
        return self.of_epoch[self.runs.index(run)]

    def _measure(self) -> None:
        """Computes the values MEASURED of the epoch that ends, for all runs."""
        of_training = self.stack.sums[:, :2] / self.stack.sums[:, 2:]
        found = torch.cat([of_training, self.stack.evaluate(self.runs[0].validation)], 1)
        self.of_epoch = found.tolist()
        self.stack.sums.zero_()

    def prepare(self, examples: int) -> None:
        """Creates the function for a step with this number of examples. On a GPU it is captured."""
        if examples in self.steps:
            return
        step: Callable[[], Any] | None = None
        if self.stack.device.type == "cuda":
            left = self.runs[0].total - self.runs[0].step
            step = capture(self.stack, examples, compiled=left >= COMPILED_FROM)
        self.steps[examples] = step or (lambda: self.stack.step(examples))

    def _keep_pace(self, behind: collections.deque[torch.cuda.Event]) -> None:
        """Waits for the device if it is too far behind, so that Ctrl-C takes effect soon."""
        if self.stack.device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.stack.device))
        behind.append(event)
        if len(behind) > AHEAD:
            behind.popleft().synchronize()
