"""Precision settings and memory limits."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import errors

MEMORY = 2**28  # bytes of working memory, on a CPU
SHARE = 4  # a quarter of the free memory of a GPU is used

# operations in which torch may use fewer bits than float32; convolutions on a GPU do so by default
_BACKENDS: Any = torch.backends
_ON_GPU = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn)
_ON_CPU = (_BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn)
_PLACES = (*_ON_GPU, *_ON_CPU)

# The settings are the process's, so threads share them: those asked for by blocks not yet left, and the caller's own,
# which come back when the last is left.
_lock = threading.Lock()
_asked: list[list[str]] = []
_callers: list[str] = []
_defaults: list[torch.dtype] = []  # the caller's default dtype, once per block of `default_dtype`


def working_memory(memory: int | None, device: torch.device) -> int:
    """The working memory in bytes: the given number, or MEMORY on a CPU and a quarter of the free memory on a GPU."""
    if device.type == "cpu":
        keep_freed_pages()
    if memory is not None:
        return errors.whole_number("memory", memory, 1)
    if device.type != "cuda":
        return MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, free // SHARE)


def free_memory() -> int:
    """Bytes that this process can still take, by the limits of the machine, its container and the process.

    Without limit where the system does not say.
    """
    free = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(2**10 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free.append(limit - used)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
            free.append(limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return max(0, min(free))


def keep_freed_pages() -> None:
    """Let the C library keep the memory of arrays up to 32 MiB that are freed, for the next.

    Memory given back to the system is zeroed again when it is reused, which took a quarter of the time of an
    enumeration. glibc keeps what it frees of arrays up to the size of the largest it has seen freed, 32 MiB at most,
    and of the heap's top twice that. So it is shown one array, whose pages are not touched. Elsewhere this has no
    effect.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@contextlib.contextmanager
def plain_arithmetic(tf32: bool = False) -> Iterator[None]:
    """Full precision, whatever the caller has set.

    Off are autocast (its bfloat16 moves every figure), inference mode (it knows no derivative), the default device meta
    (it has no numbers) and, unless `tf32`, the 19 bits of TensorFloat-32, which move the bias. Of threads that ask for
    one and the other the last decides.
    """
    off = [torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda")]
    own = ["tf32" if tf32 and place in _ON_GPU else "ieee" for place in _PLACES]
    with _lock:
        if not _asked:
            _callers[:] = [place.fp32_precision for place in _PLACES]
        _asked.append(own)
        _set(own)
    try:
        place = torch.device("cpu") if torch.get_default_device().type == "meta" else contextlib.nullcontext()
        with torch.inference_mode(False), off[0], off[1], place:
            yield
    finally:
        with _lock:
            # by identity, because another thread may have equal settings
            del _asked[next(i for i, asked in enumerate(_asked) if asked is own)]
            _set(_asked[-1] if _asked else _callers)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have this dtype, whatever default the caller has set. Threads share it: it is the process's."""
    with _lock:
        _defaults.append(_defaults[0] if _defaults else torch.get_default_dtype())
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        with _lock:
            own = _defaults.pop()
            if not _defaults:
                torch.set_default_dtype(own)


def _set(precisions: list[str]) -> None:
    for place, precision in zip(_PLACES, precisions, strict=True):
        place.fp32_precision = precision


def precision_and_place(dtype: object, device: object) -> None:
    """Raises ValueError unless dtype is None or floating-point, and device is None or usable."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype: expected a floating-point dtype, torch.float32 or torch.float64, got {dtype!r}")
    if device is not None:
        try:
            torch.zeros(1, device=device).item()  # type: ignore[call-overload]
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"device: expected a usable device, got {device!r} ({reason}); 'cpu' always works"
            ) from None


def power_of_two(a: Tensor, dim: tuple[int, ...] = ()) -> Tensor:
    """A power of two of the size of the largest magnitude, 1 if that is 0. To divide by before squaring, without error.

    In float32, squares of numbers below 1e-19 lose digits or are 0, and those above 1e19 are infinite. In float64 the
    square of the result is finite and not 0. With `dim`, one for each slice along the other dims, which keeps `dim`
    with size 1. Does not wait for the device.

    Examples
    --------
    >>> gradlab.numerics.power_of_two(torch.tensor([3e-30, -5e-31])).item() == 2.0**-99
    True
    """
    if not a.numel():
        return a.new_ones((), dtype=torch.float64)
    a = a.abs() if a.is_complex() else a
    largest = torch.maximum(a.amax(dim, keepdim=bool(dim)), -a.amin(dim, keepdim=bool(dim)))  # without a copy of a
    exponent = torch.frexp(largest).exponent
    least, most = (-500, 500) if largest.dtype == torch.float64 else (-120, 127)
    return torch.exp2((exponent - 1).clamp(least, most).double()).where(exponent != 0, 1.0)
