"""The step of a stack as a CUDA graph, which is captured once and replayed for each step."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .. import errors
from . import updates
from .stack import Stack

WARM_UP = 3  # steps before the capture, as torch requires


def capture(stack: Stack, examples: int, compiled: bool) -> Callable[[], Any] | None:
    """A function that makes a step with this number of examples, or None, with a warning, if a step cannot be captured.

    `compiled`: fuse the update of the optimizer into one kernel per tensor, if torch can. The state of the stack is not
    changed.
    """
    before = [tensor.clone() for tensor in stack.state]

    def restore() -> None:
        for tensor, kept in zip(stack.state, before, strict=True):
            tensor.copy_(kept)

    side = torch.cuda.Stream(stack.device)
    side.wait_stream(torch.cuda.current_stream(stack.device))
    try:
        with torch.cuda.stream(side):
            if compiled:
                _compile(stack, examples, restore)
            for _ in range(WARM_UP):
                stack.step(examples)
                restore()
            with _waiting_is_an_error():
                stack.step(examples)
            restore()
        torch.cuda.current_stream(stack.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            stack.step(examples)
    except RuntimeError as error:
        errors.pass_on_memory(error)
        torch.cuda.synchronize(stack.device)
        restore()
        reason = str(error).splitlines()[0][:200]
        errors.warn(f"the steps of this training are launched one by one, because they cannot be captured ({reason})")
        return None
    return graph.replay


def _compile(stack: Stack, examples: int, restore: Callable[[], None]) -> None:
    stack.update = _compiled()
    try:
        stack.step(examples)
    except Exception as error:  # a machine without a compiler raises many kinds of errors
        errors.pass_on_memory(error)
        stack.update = updates.update
    restore()


@functools.cache
def _compiled() -> Callable[..., None]:
    return torch.compile(updates.update, dynamic=False)


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
