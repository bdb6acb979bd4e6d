"""The first rows of a batch: a tensor, or dicts, tuples and lists of tensors, examples first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in x."""
    if isinstance(x, Tensor):
        yield x
    for part in x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else ():
        yield from tensors(part)


def count(x: Any) -> int | None:
    """The number of examples; None where x has no tensor with any."""
    return min((len(one) for one in tensors(x) if one.ndim), default=None)


def first(x: Any, rows: int) -> Any:
    """x with the first rows of each tensor, without their history."""
    if isinstance(x, Tensor):
        return x.detach()[:rows] if x.ndim else x.detach()
    if isinstance(x, dict):
        return {name: first(one, rows) for name, one in x.items()}
    if isinstance(x, tuple | list):
        parts = [first(one, rows) for one in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x
