"""Independent pieces of work on as many threads as torch has, each operation on one of them.

Operations on arrays that fit the cache are over in some 50 microseconds. Split over all threads, each would wait for
the slowest thread: a fifth faster on an idle machine, ten times slower on one that has other work.
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
    """work(piece) of each piece, in their order; on the calling thread with `threads` False or a device that is no CPU.

    On threads of their own, `work` is called without torch's thread-local modes, so gradients are on in it. Where the
    caller stops early, pieces not begun are left. On the calling thread, operations are split over all threads if they
    are not `small`.
    """
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1 or not (threads or small):
        yield from map(work, pieces)
        return
    torch.set_num_threads(1)  # of this thread and of those begun from here
    pool = ThreadPoolExecutor(count) if threads else None
    try:
        yield from (pool.map if pool else map)(work, pieces)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)
