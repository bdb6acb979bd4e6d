"""Modules and tensors that a callable owns: in its closure, defaults, instance, arguments, or the globals it reads.

A likelihood may own weights that are no part of the model: `lambda o, x: head(o, x)`, a bound method of another module,
`functools.partial(loss, head)`. A measurement in another precision or place needs copies of them, and the callable
rebuilt around the copies; its own are left alone.
"""

from __future__ import annotations

import copy
import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Any], Any]

_DEPTH = 8  # containers and instances, one in the other
_LARGEST = 1000  # elements of a container; larger ones are data
_LIBRARIES = ("torch.", "numpy.", "gradlab.", "builtins.")  # whose functions own nothing


def parts(function: Any) -> list[nn.Module | Tensor]:
    """The modules and floating-point tensors that a callable owns, each once."""
    found: dict[int, nn.Module | Tensor] = {}

    def record(part: Any) -> Any:
        if isinstance(part, nn.Module) or part.is_floating_point():
            found.setdefault(id(part), part)
        return part

    rebuilt(function, record)
    return list(found.values())


def weighted(function: Any) -> bool:
    """True if a callable owns weights, parameters or modules that have any, not just constants."""
    return any(isinstance(part, nn.Parameter) or _of_module(part) for part in parts(function))


def _of_module(part: nn.Module | Tensor) -> bool:
    return isinstance(part, nn.Module) and any(t.is_floating_point() for t in (*part.parameters(), *part.buffers()))


def rebuilt(value: Any, change: Change) -> Any:
    """The value with `change` applied to all modules and tensors in it; itself, if that changes none."""
    return _rebuilt(value, change, {}, 0)


def _rebuilt(value: Any, change: Change, known: dict[int, Any], depth: int) -> Any:
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, nn.Module | Tensor):
        known[id(value)] = change(value)
        return known[id(value)]
    if depth > _DEPTH or isinstance(value, str | bytes | int | float | complex | type | types.ModuleType | torch.dtype):
        return value
    known[id(value)] = value  # of a callable that contains itself

    def inner(part: Any) -> Any:
        return _rebuilt(part, change, known, depth + 1)

    known[id(value)] = _with_parts(value, inner)
    return known[id(value)]


def _with_parts(value: Any, inner: Change) -> Any:
    if isinstance(value, types.FunctionType):
        return value if f"{value.__module__}.".startswith(_LIBRARIES) else _function(value, inner)
    if isinstance(value, types.MethodType):
        owner = inner(value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if isinstance(value, functools.partial):
        old = value.func, value.args, value.keywords
        function, given, named = inner(old[0]), _all(old[1], inner), _all(old[2], inner)
        same = function is old[0] and given is old[1] and named is old[2]
        return value if same else functools.partial(function, *given, **named)
    if isinstance(value, tuple | list | dict):
        return _all(value, inner)
    if isinstance(getattr(value, "__dict__", None), dict):
        changed = _all(vars(value), inner)
        if changed is vars(value):
            return value
        new = copy.copy(value)
        vars(new).update(changed)
        return new
    return value


def _all(values: Any, inner: Change) -> Any:
    """A tuple, list or dict with its elements rebuilt; itself, if none changes."""
    if len(values) > _LARGEST:
        return values
    old = list(values.values()) if isinstance(values, dict) else list(values)
    new = [inner(part) for part in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return values
    if isinstance(values, dict):
        return dict(zip(values, new, strict=True))
    return type(values)(*new) if hasattr(values, "_fields") else type(values)(new)


def _function(function: types.FunctionType, inner: Change) -> types.FunctionType:
    cells = function.__closure__ or ()
    closure = tuple(_cell(cell, inner) for cell in cells)
    old = function.__defaults__, function.__kwdefaults__
    defaults, named = (None if given is None else _all(given, inner) for given in old)
    read = {name: function.__globals__[name] for name in _globals(function.__code__) if name in function.__globals__}
    changed = _all(read, inner)
    same = all(a is b for a, b in zip(cells, closure, strict=True))
    if same and defaults is old[0] and named is old[1] and changed is read:
        return function
    scope = function.__globals__ if changed is read else {**function.__globals__, **changed}
    new = types.FunctionType(function.__code__, scope, function.__name__, defaults, closure or None)
    new.__kwdefaults__ = named
    vars(new).update(vars(function))
    return new


def _cell(cell: types.CellType, inner: Change) -> types.CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    changed = inner(content)
    return cell if changed is content else types.CellType(changed)


def _globals(code: types.CodeType) -> Iterator[str]:
    """Names that a function reads from its module, those of functions inside it too."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)
