"""What the machine may do to the numbers, and how much of its memory is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from . import errors

MEMORY = 2**28  # bytes of working memory, on a CPU
SHARE = 4  # of what is free on a GPU one part in so many

# where torch may compute with fewer bits than float32 has; convolutions on a GPU do so unless told otherwise
_BACKENDS: Any = torch.backends
_ON_GPU = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn)
_ON_CPU = (_BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn)


def working_memory(memory: int | None, device: torch.device) -> int:
    """Bytes: what was asked for, else MEMORY, on a GPU a quarter of what is free."""
    if device.type == "cpu":
        keep_freed_pages()
    if memory is not None:
        return errors.whole_number("memory", memory, 1)
    if device.type != "cuda":
        return MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, free // SHARE)


def keep_freed_pages() -> None:
    """Let the C library keep the memory of arrays up to 32 MiB that are freed, for the next.

    What it gives back it gets with every page zeroed anew: a quarter of the time of an enumeration, 80,000 pages for
    each second of work. glibc keeps arrays no larger than the largest it has seen freed, of at most 32 MiB, and of what
    is free twice that; so one is shown to it. Its pages are not touched, and elsewhere this has no effect.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@contextlib.contextmanager
def plain_arithmetic(tf32: bool = False) -> Iterator[None]:
    """Full precision, whatever the caller has set.

    Off are autocast (its bfloat16 moves every figure), inference mode (it knows no derivative) and, unless `tf32`, the
    19 bits of TensorFloat-32, which move the bias.
    """
    off = [torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda")]
    places = (*_ON_GPU, *_ON_CPU)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if tf32 and place in _ON_GPU else "ieee"
        with torch.inference_mode(False), off[0], off[1]:
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
