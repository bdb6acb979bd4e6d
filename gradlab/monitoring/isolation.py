"""The state of a process that a measurement must leave as it finds it, and must not depend on."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as modules
from torch.utils import checkpoint

from ..numerics import plain_arithmetic

_HOOKS_OF_ALL = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Within the block nothing of the training is in force, and after it all is as it was before.

    Random states (torch on CPU and GPUs, numpy, Python), deterministic algorithms, threads, hooks of all modules,
    hooks of saved tensors, anomaly detection, autocast inside of modules, compilation, checkpointing.
    """
    with contextlib.ExitStack() as stack:
        for kept in (_random_states, _flags, _without_hooks_of_all, _without_autocast, _without_checkpointing):
            stack.enter_context(kept())
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and loading it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t))
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.enter_context(plain_arithmetic())
        stack.enter_context(torch.enable_grad())
        yield


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002  (the user's global state)
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002


@contextlib.contextmanager
def _flags() -> Iterator[None]:
    """Without deterministic algorithms, which some operations lack; noise has its own seeds."""
    on, only_warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(on, warn_only=only_warns)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _without_hooks_of_all() -> Iterator[None]:
    """Without hooks of all modules (`torch.nn.modules.module.register_module_forward_hook`)."""
    tables: list[dict[Any, Any]] = [getattr(modules, f"_global_{name}", {}) for name in _HOOKS_OF_ALL]
    kept = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, kept, strict=True):
            table.update(hooks)


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    """Without the autocast that modules enter themselves: metrics are computed in full precision."""
    enter = torch.autocast.__enter__

    def enter_disabled(self: Any) -> Any:
        asked, self._enabled = self._enabled, False
        try:
            return enter(self)
        finally:
            self._enabled = asked

    torch.autocast.__enter__ = enter_disabled  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]


class _Called:
    """In place of the function of a reentrant checkpoint, which torch.autograd.grad refuses."""

    @staticmethod
    def apply(function: Any, preserve: Any, *arguments: Any) -> Any:
        return function(*arguments)


@contextlib.contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Reentrant checkpoints call what they wrap: the values are the same, and few examples need little memory."""
    function = checkpoint.CheckpointFunction
    checkpoint.CheckpointFunction = _Called  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        checkpoint.CheckpointFunction = function  # type: ignore[misc]
