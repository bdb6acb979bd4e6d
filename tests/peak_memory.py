"""Peak memory of calls, above what the process had before, beside what docs/costs.md says that they may take.

Each call runs in a fork, which is stopped after some seconds of CPU time: what takes hours must not take memory either.

    python -m tests.peak_memory [MEMORY_IN_MIB]...
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gradlab
from gradlab import datasets, numerics

MIB = 2**20
SHARE = 2  # times `memory`
LIBRARIES = 64 * MIB  # code that a call loads after the first one, and what the allocator keeps
SECONDS = 12  # of CPU time


def _x(images: int) -> torch.Tensor:
    return torch.rand(images, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def _grid(count: int) -> np.ndarray:
    return np.linspace(0.3, 3.0, count)


def _residual() -> gradlab.LatentModel:
    """Untrained, so that codes differ from draw to draw, with a decoder that is no stack of layers."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(32, 256), nn.Linear(256, 256), nn.Linear(256, 784)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.first(z.flatten(1)))
            return self.last(h + torch.tanh(self.second(h))).unflatten(1, (1, 28, 28))

    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 32))
    return gradlab.LatentModel(encoder, Decoder(), latents=4, categories=8)


def _k_hot() -> gradlab.LatentModel:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 64))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 784), nn.Unflatten(1, (1, 28, 28)))
    return gradlab.LatentModel(encoder, decoder, latents=4, categories=16, top_k=3)


def _program() -> gradlab.Program:
    parts = nn.ModuleList([nn.Linear(784, 32), nn.Linear(32, 32), nn.Linear(32, 784)])
    first, second, last = parts

    def loss(x: torch.Tensor, sample: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        z = sample(first(x.flatten(1)).unflatten(1, (4, 8))).flatten(1)
        again = sample(second(z).unflatten(1, (4, 8))).flatten(1)
        return (last(z + again) - x.flatten(1)).square().sum(1)

    return gradlab.Program(loss, wrt=parts)


def _monitored(model: gradlab.LatentModel, x: torch.Tensor) -> None:
    monitor = gradlab.Monitor(model, tf=1.6, tb=1.3, every=1, budget=1.0, examples=len(x), draws=4096)
    for _ in range(20):
        monitor.step(x)


def calls(memory: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Name: the call, and the bytes of observations, results and moments that come on top of `memory`."""
    small, large = gradlab.bundled("vae-8x4-mnist"), gradlab.bundled("binary-ae-mnist")
    of_images = 4 * 4 * 784  # bytes of an image in all its copies
    moments = 2 * 8 * 32 * 32  # of an image, of the batches of one point
    compute = gradlab.Compute(memory=memory)
    bias, gap = (functools.partial(analysis, compute=compute) for analysis in (gradlab.bias, gradlab.gap))
    point = {"tf": 1.6, "tb": 1.3}
    sampled = {"estimator": ["rloo", "st-gs"], "reference": "rloo"}
    relaxed = ["gumbel-softmax", "rebar", "reinmax", "gumbel-rao"]
    return {
        "bias, one point, 100 images": (lambda: bias(small, _x(100), **point), 100 * of_images),
        "bias, 10^6 draws": (lambda: bias(small, _x(10), **point, draws=10**6), 0),
        "bias, 10^12 draws": (lambda: bias(small, _x(10), **point, draws=10**12), 0),
        "bias, 10^12 draws, untrained": (lambda: bias(_residual(), _x(10), **point, draws=10**12), 0),
        "bias, 10^12 draws, relaxed": (lambda: bias(small, _x(10), **point, draws=10**12, estimator=relaxed), 0),
        "bias, 300 x 300 temperatures": (
            lambda: bias(small, _x(10), tf=_grid(300), tb=_grid(300), draws=8),
            3 * 300 * 300 * 8 * (640 + 36 * 30 + 300),
        ),
        "bias, 100,000 images": (lambda: bias(small, _x(100_000), **point, draws=64), 100_000 * (of_images + moments)),
        "bias, rloo:n=1000": (lambda: bias(small, _x(100), **point, estimator="rloo:n=1000"), 0),
        "bias, rloo:n=1000000": (lambda: bias(small, _x(2), **point, estimator="rloo:n=1000000"), 0),
        "bias, sampled reference": (lambda: bias(large, _x(16), tf=1.0, tb=[0.5, 1.0, 3.0], draws=64), 0),
        "bias, exact moments": (lambda: bias(small, _x(10), **point, moments="exact"), 0),
        "bias, encoder": (lambda: bias(small, _x(10), **point, wrt="encoder", draws=10**12), 0),
        "bias, k-hot": (lambda: bias(_k_hot(), _x(100), **point, **sampled, draws=4096), 100 * of_images),
        "bias, program": (lambda: bias(_program(), _x(10), tf=1.0, tb=1.0, reference="rloo", draws=1024), 0),
        "exact gradient, 300 tf": (
            lambda: bias(small, _x(1000), tf=_grid(300), tb=1.0, draws=2),
            3 * 300 * 8 * (3 * 32_000 + 2 * 36_000) + 1000 * (of_images + moments),
        ),
        "gap, 10^12 draws": (lambda: gap(small, _x(10), tf=1.0, draws=10**12), 0),
        "gap, 300 x 300 temperatures": (
            lambda: gap(small, _x(10), tf=_grid(300), draws=8),
            3 * 300 * 300 * 8 * 2 * 2 * 9 * 20,
        ),
        "gap, 10^5 x 10^5 temperatures": (lambda: gap(small, _x(10), tf=_grid(10**5), draws=8), 2**24),
        # at the default memory
        "monitor": (lambda: _monitored(small, _x(64)), 64 * of_images + max(0, SHARE * (numerics.MEMORY - memory))),
    }


@functools.cache
def _encoder(width: int) -> gradlab.LatentModel:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 32))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 784), nn.Unflatten(1, (1, 28, 28)))
    return gradlab.LatentModel(encoder, decoder, latents=4, categories=8)


def of_results() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name: a call whose result, moments or law of all codes take most, and one that takes little of them."""
    small, hot = gradlab.bundled("vae-8x4-mnist"), _k_hot()
    compute = gradlab.Compute(memory=16 * MIB)

    def bias(model: Any, images: int, tf: Any, tb: Any, **options: Any) -> Callable[[], Any]:
        x = _x(images)
        return lambda: gradlab.bias(model, x, tf, tb, compute=compute, **{"draws": 32} | options)

    def gap(images: int, temperatures: int, draws: int) -> Callable[[], Any]:
        x, grid = _x(images), _grid(temperatures)
        return lambda: gradlab.gap(small, x, grid, grid, draws=draws, compute=compute)

    crossed = {"cross": (_grid(120)[3], _grid(120)[5])}
    sampled = {"estimator": ["rloo", "st-gs"], "reference": "rloo", "draws": 64}
    five = {"estimator": ["ste", "st-gs", "reinmax", "rloo", "decoupled-st-gs"]}
    few = _grid(2)
    return {
        "bias, a cross": (bias(small, 10, _grid(120), _grid(120), **crossed), bias(small, 10, few, few)),
        "bias, many images": (bias(small, 2000, 1.0, few), bias(small, 3, 1.0, few)),
        "gap": (gap(10, 80, 8), gap(10, 2, 8)),
        "bias, k-hot": (bias(hot, 1000, 1.0, 1.0, kl=True, **sampled), bias(hot, 2, 1.0, 1.0, kl=True, **sampled)),
        "bias, a grid": (bias(small, 10, _grid(100), _grid(100)), bias(small, 10, few, few)),
        "bias, a grid of many images": (bias(small, 300, _grid(20), _grid(20)), bias(small, 3, few, few)),
        "bias, five estimators": (bias(small, 30, _grid(25), _grid(25), **five), bias(small, 30, few, few, **five)),
        "bias, both targets": (
            bias(small, 50, _grid(40), _grid(40), target="both"),
            bias(small, 50, few, few, target="both"),
        ),
        "bias, 300 tf": (bias(small, 1000, _grid(300), 1.0, draws=2), bias(small, 10, few, 1.0, draws=2)),
        "bias, sampled": (bias(small, 3000, 1.0, few, **sampled), bias(small, 3, 1.0, few, **sampled)),
        "gap, many draws": (gap(2, 100, 32), gap(2, 2, 32)),
        "gap, many images": (gap(300, 10, 64), gap(3, 2, 64)),
        "gap, many images at a point": (gap(20_000, 1, 2), gap(3, 1, 2)),
        "gap, one image": (gap(1, 150, 2), gap(1, 2, 2)),
        "bias, a large encoder": (
            bias(_encoder(4096), 3, 1.0, few, wrt="encoder"),
            bias(_encoder(64), 3, 1.0, few, wrt="encoder"),
        ),
    }


def peak(call: Callable[[], Any], seconds: float = SECONDS) -> tuple[int, str]:
    """Bytes above those before, and how the call ended: "done", "stopped" or its error."""
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(theirs, "{} {}".format(*_in_child(call, seconds)).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        taken, _, how = pipe.read().partition(" ")
    return int(taken), how


class _Late(BaseException):
    pass


def _in_child(call: Callable[[], Any], seconds: float) -> tuple[int, str]:
    def late(*given: Any) -> None:
        raise _Late

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed before; it counts as taken anew
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _high_water()
    how = "done"
    try:
        with warnings.catch_warnings(action="ignore"):
            call()
    except _Late:
        how = "stopped"
    except Exception as error:
        how = f"{type(error).__name__}: {error}"
    return _high_water() - before, how


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measured(memory: int, names: Collection[str] = ()) -> dict[str, tuple[int, int, str]]:
    """Name of a call: its peak, its bound, how it ended. Of all calls, or of those that are named."""
    torch.set_num_threads(1)
    model = gradlab.bundled("vae-8x4-mnist")
    x = datasets.load("mnist-sample").first(2).floats()
    gradlab.bias(model, x, draws=4)
    gradlab.gap(model, x, draws=4)
    found = {}
    for name, (call, more) in calls(memory).items():
        if not names or name in names:
            taken, how = peak(call)
            found[name] = taken, SHARE * memory + LIBRARIES + more, how
    return found


if __name__ == "__main__":
    for size in map(int, sys.argv[1:] or ("64", "256", "1024")):
        for name, (taken, bound, how) in measured(size * MIB).items():
            print(f"| {name} | {size} | {taken / MIB:.0f} | {bound / MIB:.0f} | {how[:160]} |", flush=True)
