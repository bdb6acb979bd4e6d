"""Time, peak memory, and the rate of matrix products that this machine reaches."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import torch


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best_in_turn(times: int, *calls: Callable[[], object]) -> list[float]:
    """Least seconds of each call, all called in turn, so that other load of the machine meets them alike."""
    found = [[seconds(call) for call in calls] for _ in range(times)]
    return [min(column) for column in zip(*found, strict=True)]


def peak_memory() -> int:
    """Bytes, of this process since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def matrix_product_rate(dtype: torch.dtype, size: int = 2000) -> float:
    """Floating-point operations per second of a size^3 matrix product, best of 3."""
    a = torch.rand(size, size, dtype=dtype)
    a @ a
    return 2 * size**3 / min(seconds(lambda: a @ a) for _ in range(3))
