"""Checks of tensors, at once, or on a GPU later, so that it is not waited for."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Check = Callable[[Tensor, Callable[[], None]], None]


def at_once(good: Tensor, complain: Callable[[], None]) -> None:
    """Call `complain`, which raises where it finds a fault, unless `good`, one truth value."""
    if not bool(good):
        complain()


def finite(argument: str, values: Tensor, cure: str, check: Check = at_once) -> None:
    """ValueError with the first index at which `values` is not finite."""
    good = torch.isfinite(values)

    def complain() -> None:
        at = tuple(torch.nonzero(~good)[0].tolist())
        raise ValueError(f"{argument}: {values[at].item()} at index {at} of shape {tuple(values.shape)}; {cure}")

    check(good.all(), complain)


@contextlib.contextmanager
def deferred(device: torch.device) -> Iterator[Check]:
    """Yields what checks the blocks of a loop: `at_once`; on a GPU each check is read when two more have been made.

    Read at once, the GPU would stand idle until the host had queued the next block. The host is never further ahead
    than that, so that progress shown is work done, and Ctrl-C ends it.
    """
    if device.type != "cuda":
        yield at_once
        return
    waiting: collections.deque[tuple[torch.cuda.Event, Tensor, Callable[[], None]]] = collections.deque()

    def read() -> None:
        copied, good, complain = waiting.popleft()
        copied.synchronize()
        try:
            at_once(good, complain)
        except Exception:
            waiting.clear()  # what is found first is said
            raise

    def late(good: Tensor, complain: Callable[[], None]) -> None:
        here = torch.empty(good.shape, dtype=good.dtype, pin_memory=True).copy_(good, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(good.device))
        waiting.append((copied, here, complain))
        if len(waiting) > 2:
            read()

    try:
        yield late
    except Exception:
        while waiting:  # what went wrong first is the cause
            read()
        raise
    while waiting:
        read()
