"""Peak memory of calls, above what the process had before, beside what docs/costs.md says that they may take.

Each call runs in a fork, which is stopped after some seconds of CPU time: what takes hours must not take memory either.

    python -m tests.peak_memory
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradlab
from gradlab import datasets, numerics

MIB = 2**20
LIBRARIES = 64 * MIB  # code that a call loads first, and what the allocator keeps
SECONDS = 12  # of CPU time


def _x(images: int) -> torch.Tensor:
    return torch.rand(images, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def _grid(count: int) -> np.ndarray:
    return np.linspace(0.3, 3.0, count)


def calls() -> dict[str, tuple[Callable[[], Any], int]]:
    """Name: the call, and the bytes of observations, results and moments that come on top of `memory`."""
    small, large = gradlab.bundled("vae-8x4-mnist"), gradlab.bundled("binary-ae-mnist")
    of_images = 4 * 4 * 784  # bytes of an image in all its copies
    moments = 2 * 8 * 32 * 32  # of an image, of the batches of one point
    return {
        "bias, one point, 100 images": (lambda: gradlab.bias(small, _x(100), tf=1.6, tb=1.3), 100 * of_images),
        "bias, 10^6 draws": (lambda: gradlab.bias(small, _x(10), tf=1.6, tb=1.3, draws=10**6), 0),
        "bias, 10^12 draws": (lambda: gradlab.bias(small, _x(10), tf=1.6, tb=1.3, draws=10**12), 0),
        "bias, 100 x 100 temperatures": (
            lambda: gradlab.bias(small, _x(10), tf=_grid(100), tb=_grid(100), draws=8),
            3 * 100 * 100 * 8 * (640 + 36 * 30 + 300),
        ),
        "bias, 10,000 images": (
            lambda: gradlab.bias(small, _x(10_000), tf=1.6, tb=1.3, draws=64),
            10_000 * (of_images + moments),
        ),
        "bias, rloo:n=1000": (lambda: gradlab.bias(small, _x(100), tf=1.6, tb=1.3, estimator="rloo:n=1000"), 0),
        "bias, rloo:n=1000000": (lambda: gradlab.bias(small, _x(2), tf=1.6, tb=1.3, estimator="rloo:n=1000000"), 0),
        "bias, sampled reference": (lambda: gradlab.bias(large, _x(16), tf=1.0, tb=[0.5, 1.0, 3.0], draws=64), 0),
        "bias, exact moments": (lambda: gradlab.bias(small, _x(10), tf=1.6, tb=1.3, moments="exact"), 0),
        "gap, 10^12 draws": (lambda: gradlab.gap(small, _x(10), tf=1.0, draws=10**12), 0),
        "gap, 100 x 100 temperatures": (
            lambda: gradlab.gap(small, _x(10), tf=_grid(100), draws=8),
            3 * 100 * 100 * 8 * 2 * 2 * 9 * 20,
        ),
        "gap, 10^5 x 10^5 temperatures": (lambda: gradlab.gap(small, _x(10), tf=_grid(10**5), draws=8), 2**24),
    }


def peak(call: Callable[[], Any]) -> tuple[int, str]:
    """Bytes above those before, and how the call ended: "done", "stopped" or its error."""
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(theirs, "{} {}".format(*_in_child(call)).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        taken, _, how = pipe.read().partition(" ")
    return int(taken), how


class _Late(BaseException):
    pass


def _in_child(call: Callable[[], Any]) -> tuple[int, str]:
    def late(*given: Any) -> None:
        raise _Late

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
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


def measured() -> dict[str, tuple[int, int, str]]:
    """Name of a call: its peak, its bound, how it ended."""
    torch.set_num_threads(1)
    model = gradlab.bundled("vae-8x4-mnist")
    x = datasets.load("mnist-sample").first(2).floats()
    gradlab.bias(model, x, draws=4)
    gradlab.gap(model, x, draws=4)
    bound = 3 * numerics.MEMORY + LIBRARIES
    return {name: (taken, bound + more, how) for name, (call, more) in calls().items() for taken, how in [peak(call)]}


if __name__ == "__main__":
    for name, (taken, bound, how) in measured().items():
        print(f"| {name} | {taken / MIB:.0f} | {bound / MIB:.0f} | {how[:160]} |", flush=True)
    sys.exit(0)
