"""Checks of tensors. On a GPU they are read later, so that the host does not wait."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Check = Callable[[Tensor, Callable[[], None]], None]


def at_once(good: Tensor, complain: Callable[[], None]) -> None:
    """Calls `complain`, which raises an error, unless `good`, a tensor with one boolean, is true."""
    if not bool(good):
        complain()


def finite(argument: str, values: Tensor, cure: str, check: Check = at_once) -> None:
    """Raises ValueError with the first index at which `values` is not finite."""
    if not (values.is_floating_point() or values.is_complex()):
        return

    def complain() -> None:
        found = torch.nonzero(~torch.isfinite(values)).tolist()
        if not found:  # overwritten since, because the check was read late
            raise ValueError(f"{argument}: expected finite values, got others; {cure}")
        at = tuple(found[0])
        raise ValueError(
            f"{argument}: expected finite values, got {values[at].item()} at index {at} of shape {tuple(values.shape)};"
            f" {cure}"
        )

    check(all_finite(values), complain)


def all_finite(values: Tensor) -> Tensor:
    """One boolean: whether all floating-point numbers are finite, since x - x is NaN for others.

    `torch.isfinite` starts four functions on a GPU.
    """
    return (values - values == 0).all()


def one_forward_mode(function: str) -> None:
    """Raises NotImplementedError inside a second forward mode, where torch would take a `jvp` for a constant."""
    levels = torch._C._functorch.get_interpreter_stack() or []
    if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) > 1:
        raise NotImplementedError(
            f"{function}: expected one forward mode at a time, got forward mode inside forward mode; take"
            " torch.func.hessian, or jacfwd of jacrev"
        )


@contextlib.contextmanager
def deferred(device: torch.device) -> Iterator[Check]:
    """Yields the function that checks the blocks of a loop: `at_once`, or on a GPU one that reads two calls later.

    If the host read each check immediately, the GPU would be idle until the host queued the next block. The host is at
    most two blocks ahead, so that the progress shown is work done and Ctrl-C ends the loop.
    """
    with read_later(device) as later:

        def check(good: Tensor, complain: Callable[[], None]) -> None:
            later(good, lambda fine: None if fine else complain())

        yield check


@contextlib.contextmanager
def read_later(device: torch.device) -> Iterator[Callable[[Tensor, Callable[[bool], None]], None]]:
    """Yields later(flag, then), which calls then(bool(flag)): at once, or on a GPU two calls later or at the end."""
    if device.type != "cuda":
        yield lambda flag, then: then(bool(flag))
        return
    waiting: collections.deque[tuple[torch.cuda.Event, Tensor, Callable[[bool], None]]] = collections.deque()

    def read() -> None:
        copied, flag, then = waiting.popleft()
        copied.synchronize()
        try:
            then(bool(flag))
        except Exception:
            waiting.clear()  # report the first fault only
            raise

    def later(flag: Tensor, then: Callable[[bool], None]) -> None:
        here = torch.empty(flag.shape, dtype=flag.dtype, pin_memory=True).copy_(flag, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(flag.device))
        waiting.append((copied, here, then))
        if len(waiting) > 2:
            read()

    try:
        yield later
    except Exception:
        while waiting:  # the first fault is the cause
            read()
        raise
    while waiting:
        read()
