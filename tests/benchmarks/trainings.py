"""Rows of trainings: a step of one, and of many at once, against a bare loop with torch's RAdam."""

from __future__ import annotations

import dataclasses
import functools
import statistics

import torch

from gradlab import LatentModel, datasets, networks, training
from gradlab.numerics import plain_arithmetic
from gradlab.training import engines

from . import measure, straightforward
from .table import Row

TF, TB = 1.6, 1.3
STEPS = 100
# of the 8x4 VAE on batches of 100: operations, and bytes of weights, gradients and their means read and written
FLOOR_GFLOP, FLOOR_MB = 0.57, 47
SETTINGS = training.Settings(tf=TF, tb=TB, epochs=1000)  # so many that the update is compiled on a GPU


def run(settings: training.Settings, tf32: bool = False) -> training.Run:
    images = datasets.load("mnist-sample")
    return training.Run(settings, images, images.first(100), str(measure.device), tf32)


def bare(foreach: bool | None) -> tuple[LatentModel, torch.optim.Optimizer]:
    model = networks.build(SETTINGS.architecture, SETTINGS.config, SETTINGS.seed)
    model.to(measure.device)
    return model, torch.optim.RAdam(model.parameters(), lr=SETTINGS.lr, foreach=foreach)


def bare_seconds(foreach: bool | None) -> float:
    """Median seconds of a step, the batch's way to the device included."""
    images = datasets.load("mnist-sample")
    batches = list(torch.arange(len(images)).split(SETTINGS.batch_size))
    model, optimizer = bare(foreach)
    call = functools.partial(straightforward.training_step, model, optimizer, tf=TF, tb=TB)
    times = []
    for i in range(STEPS + 10):
        batch = batches[i % len(batches)]
        times.append(measure.seconds(lambda b=batch: call(x=images.floats(b).to(measure.device))))
    return statistics.median(times[10:])


def own_seconds(cells: list[training.Settings], tf32: bool = False) -> float:
    """Seconds of a step of all of them, batches and noise included: on a GPU of their stack, else of each in turn."""
    with plain_arithmetic(tf32):
        engine = engines.engine_for([run(own, tf32) for own in cells])
        if isinstance(engine, engines.Stacked):
            return engine.seconds(STEPS)
        one = engine.runs[0]
        batch = one.batches_left()[0]
        return len(cells) * statistics.median(measure.seconds(lambda: one.one_step(batch)) for _ in range(STEPS))


def difference() -> float:
    """Of the encoder's gradients in the first step, at equal noise: the decoder's are 200 times larger."""
    own, (model, optimizer) = run(SETTINGS), bare(True)
    batch = own.batches_left()[0]
    x = own.images.floats(batch).to(measure.device)
    straightforward.training_step(model, optimizer, x, TF, TB, own.noise(own.estimator, x)[0])
    own.one_step(batch)
    found, wanted = (torch.cat([p.grad.flatten() for p in m.encoder.parameters()]) for m in (own.model, model))
    return float((found - wanted).norm() / wanted.norm())


def step() -> list[Row]:
    """One training."""
    names = {"RAdam foreach=True": True, "torch's default RAdam": None}
    slow = {name: bare_seconds(foreach) for name, foreach in names.items()}
    fast = own_seconds([SETTINGS])
    return [
        Row(
            name=f"training step, against {name}",
            gradlab=fast,
            straightforward=slow[name],
            difference=difference() if foreach else None,
            remarks=f"target {'0.9' if measure.device.type == 'cpu' else '4'}; median of {STEPS} steps",
        )
        for name, foreach in names.items()
    ]


def ensemble() -> list[Row]:
    """Many trainings at once, a step of all of them."""
    counts = (8,) if measure.device.type == "cpu" else (147,)
    alone = bare_seconds(True)
    found = []
    for count in counts:
        cells = [dataclasses.replace(SETTINGS, seed=i % 3, tf=0.3 + 0.02 * i) for i in range(count)]
        for tf32 in (False,) if measure.device.type == "cpu" else (False, True):
            seconds = own_seconds(cells, tf32)
            found.append(
                Row(
                    name=f"step of {count} trainings at once{', TensorFloat-32' if tf32 else ''}",
                    gradlab=seconds,
                    straightforward=alone * count,
                    remarks=f"{seconds / count * 1e6:.1f} us a training and step; straightforward: one after another;"
                    f" floor {FLOOR_GFLOP} GFLOP and {FLOOR_MB} MB each",
                )
            )
    return found
