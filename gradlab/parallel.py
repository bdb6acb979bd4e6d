"""Runs independent pieces of work on torch's number of threads, each operation on one thread.

Operations on arrays that fit in the cache take about 50 microseconds. If each is split over all threads, it waits for
the slowest one: this is a fifth faster on an idle machine and ten times slower on a busy one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], pieces: Iterable[T], device: torch.device, *, threads: bool = True, small: bool = True
) -> Iterator[R]:
    """Yields work(piece) for each piece, in order. Uses the calling thread if `threads` is False or not on a CPU.

    Other threads do not inherit torch's thread-local modes, so gradients are on in `work`. If the caller stops early,
    the remaining pieces are not started. On the calling thread, operations that are not `small` use all threads.
    """
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1 or not (threads or small):
        yield from map(work, pieces)
        return
    torch.set_num_threads(1)  # for this thread and the threads that it starts
    pool = ThreadPoolExecutor(count) if threads else None
    try:
        yield from (pool.map if pool else map)(work, pieces)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)
