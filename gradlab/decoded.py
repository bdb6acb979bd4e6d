"""What a decoder returns: a tensor, tensors in tuples, lists and dicts, or another object, such as a distribution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a value, in order; of other objects than tuples, lists and dicts none."""
    if isinstance(value, Tensor):
        yield value
    for part in _parts(value):
        yield from tensors(part)


def opaque(value: Any) -> bool:
    """True if the value contains anything but tensors, tuples, lists, dicts, numbers and texts."""
    if isinstance(value, tuple | list | dict):
        return any(map(opaque, _parts(value)))
    return not isinstance(value, (Tensor, *_PLAIN))


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The value with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        changed = copy.copy(value)
        for key, part in value.items():
            changed[key] = mapped(change, part)
        return changed
    if isinstance(value, tuple | list):
        parts = [mapped(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def wide(value: Any, dtype: torch.dtype) -> Any:
    """The value with its floating-point tensors in this precision."""
    return mapped(lambda t: t.to(dtype) if t.is_floating_point() else t, value)


def per_row(two: Any, three: Any) -> bool:
    """True if the outputs for two and for three codes are alike, but for one row per code of every tensor."""
    if opaque(two) or opaque(three):
        return False
    pairs = list(zip(tensors(two), tensors(three), strict=False))
    return all(a.ndim and b.ndim and (len(a), len(b)) == (2, 3) and a.shape[1:] == b.shape[1:] for a, b in pairs)


def rows(value: Any, count: int) -> Tensor:
    """All numbers of a value as `(count, numbers)`, in its precision; none of an object that is not looked into."""
    found = [t.reshape(count, -1) for t in tensors(value) if t.ndim and len(t) == count]
    floats = [t for t in found if t.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.float32
    return torch.cat([t.to(dtype) for t in found], 1) if found else torch.zeros(count, 0)


def described(value: Any) -> str:
    """The value as a message names it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors(value))
    return f"a {type(value).__name__}" + (f" of tensors of shape {shapes}" if shapes else "")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else []
