"""Time, peak memory, and the rates of matrix products and copies that this machine reaches."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import torch

device = torch.device("cpu")  # what is measured; set by the command line


def seconds(call: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_in_turn(times: int, *calls: Callable[[], object]) -> list[float]:
    """Least seconds of each call, all called in turn, so that other load of the machine meets them alike."""
    found = [[seconds(call) for call in calls] for _ in range(times)]
    return [min(column) for column in zip(*found, strict=True)]


def peak_memory() -> int:
    """Bytes, of this process since it began; on a GPU, there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def matrix_product_rate(dtype: torch.dtype, size: int | None = None) -> float:
    """Floating-point operations per second of a size^3 matrix product, best of 3."""
    size = size or (2000 if device.type == "cpu" else 8192)
    a = torch.rand(size, size, dtype=dtype, device=device)
    a @ a
    return 2 * size**3 / min(seconds(lambda: a @ a) for _ in range(3))


def copy_rate(size: int = 2**28) -> float:
    """Bytes per second, read and written, of copying so many."""
    a = torch.ones(size, dtype=torch.uint8, device=device)
    b = a.clone()
    return 2 * size / min(seconds(lambda: b.copy_(a)) for _ in range(5))
