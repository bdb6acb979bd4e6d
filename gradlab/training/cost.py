"""The cost of trainings on this machine: seconds per step, and the number that fits in the memory of a GPU."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..datasets import Images
from ..numerics import default_dtype, plain_arithmetic
from ..settings import Settings
from .engines import Several, Stacked, engine_for, synchronize
from .run import Run
from .step import VALIDATED

TIMED = 0.3  # minimal seconds of steps to time
FEWEST = 3  # minimal number of steps to time
FREE_SHARE = 0.8  # of a GPU's free memory that a stack may fill
PROBED = 4  # runs whose memory is measured; others are assumed to use the same


def step_seconds(
    settings: Sequence[Settings], images: Images, validation: Images, device: str = "cpu", tf32: bool = False
) -> float:
    """Measured seconds of one step of all these trainings, including their share of the validation.

    On a GPU they are a stack, as in `train_together`. On a CPU one training is timed and multiplied.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample").first(60)
    >>> config = {"latents": 2, "categories": 3, "hidden": [8]}
    >>> cells = [gradlab.training.Settings(config=config, tf=tf) for tf in (0.5, 1.6)]
    >>> seconds = 160 * 600 * gradlab.training.step_seconds(cells, images, images)
    """
    with default_dtype(torch.float32), plain_arithmetic(tf32):
        engine = engine_for([Run(own, images, validation, device, tf32) for own in settings])
        run = engine.runs[0]
        if isinstance(engine, Stacked):
            validated = _timed(lambda: engine.stack.evaluate(validation), run.device, fewest=1)
            return engine.seconds() + validated / run.steps
        if isinstance(engine, Several):
            validated = _timed(run.validate, run.device, fewest=1)
            return len(settings) * (engine.engines[0].seconds() + validated / run.steps)
        batch = run.batches_left()[0]

        def one_step() -> None:
            run.one_step(batch)
            run.step = 0  # because a schedule ends at the last step

        one_step()
        step = _timed(one_step, run.device)
        some = validation.first(min(VALIDATED, len(validation)))
        run.validation = some
        validated = _timed(run.validate, run.device, fewest=1) * len(validation) / len(some)
        return len(settings) * (step + validated / run.steps)


def most_together(settings: Settings, images: Images, validation: Images, device: str) -> int:
    """The number of trainings of this shape that fit in the free memory of a GPU as one stack; 1 on a CPU.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample").first(60)
    >>> settings = gradlab.training.Settings(config={"latents": 2, "categories": 3, "hidden": [8]}, epochs=1)
    >>> gradlab.training.most_together(settings, images, images, "cpu")
    1
    """
    place = torch.device(device)
    if place.type != "cuda":
        return 1
    torch.cuda.synchronize(place)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(place)
    torch.cuda.reset_peak_memory_stats(place)
    with default_dtype(torch.float32), plain_arithmetic():
        cells = [dataclasses.replace(settings, seed=settings.seed + i) for i in range(PROBED)]
        engine = engine_for([Run(own, images, validation, device) for own in cells])
        if not isinstance(engine, Stacked):
            return 1
        engine.stack.feed.begin(0)
        engine.stack.feed.fill(0)
        engine.stack.step(engine.runs[0].examples(0))
        engine.stack.evaluate(validation.first(min(VALIDATED, len(validation))))
        kept = [tensor.clone() for tensor in engine.stack.state]  # as `capture` does
    used = torch.cuda.max_memory_allocated(place) - before
    del engine, kept
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(place)
    return max(1, int(FREE_SHARE * free / (used / PROBED)))


def _timed(call: Callable[[], Any], device: torch.device, fewest: int = FEWEST) -> float:
    """Mean seconds of a call, over at least `fewest` of them and TIMED seconds."""
    count, started = 0, time.perf_counter()
    while True:
        for _ in range(fewest):
            call()
        count += fewest
        synchronize(device)
        passed = time.perf_counter() - started
        if passed >= TIMED:
            return passed / count
