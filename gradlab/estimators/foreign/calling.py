"""A layer as a function of rows of logits, tf and tb: its arguments, its dtype, its state."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ... import errors

BACKWARD = ("tb", "tau", "temperature")  # names of a layer's argument that is given tb
_CURE = "give a function of (logits), (logits, tf, tb), or with arguments called tf, tb, tau or temperature"
_NAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


class Arguments:
    """Which of tf and tb a layer takes, and how."""

    def __init__(self, layer: Any):
        self.function: Callable[..., Any] = layer.apply if _is_function(layer) else layer
        self.names, needed, any_number = _signature(layer)
        backward = next((name for name in BACKWARD if name in self.names[1:]), None)
        known = {"tf": "tf"} if "tf" in self.names[1:] else {}
        self.by_name = known if backward is None else known | {backward: "tb"}
        left = [name for name in needed if name not in (*self.names[:1], *self.by_name)]
        self.by_place = not self.by_name and (any_number or len(left) == 2)
        if (left and not self.by_place) or not (self.names or any_number):
            raise ValueError(
                f"layer: expected no arguments but logits, tf and tb, got ({', '.join(self.names)}); {_CURE}"
            )

    @property
    def taken(self) -> tuple[str, ...]:
        """Those of "tf" and "tb" that the layer is given."""
        given = {"tf", "tb"} if self.by_place else set(self.by_name.values())
        return tuple(name for name in ("tf", "tb") if name in given)

    def __call__(self, function: Callable[..., Any], logits: Tensor, tf: float, tb: float) -> Any:
        if self.by_place:
            return function(logits, tf, tb)
        values = {name: {"tf": tf, "tb": tb}[of] for name, of in self.by_name.items()}
        if _is_function(getattr(function, "__self__", None)):  # Function.apply takes no keywords
            return function(logits, *(values[name] for name in self.names[1:] if name in values))
        return function(logits, **values)


def name_of(layer: Any) -> str:
    """What its author calls it."""
    layer = getattr(layer, "_orig_mod", layer)
    if isinstance(layer, functools.partial):
        return name_of(layer.func)
    named = (getattr(layer, each, None) for each in ("__name__", "original_name", "name"))
    return next((name for name in named if isinstance(name, str)), type(layer).__name__)


def modes(layer: Any) -> list[str]:
    """Sentences on a module's mode, where its parts or what it may do depend on it."""
    if not isinstance(layer, nn.Module):
        return []
    random = (nn.modules.dropout._DropoutNd, nn.RReLU)
    parts = sorted({type(part).__name__ for part in layer.modules() if isinstance(part, random) and part.training})
    if parts:
        return [f"It is in training mode and contains {', '.join(parts)}, whose random numbers are part of what it is."]
    return [] if layer.training else ["It is in evaluation mode; after train() it may be another layer."]


def _is_function(layer: Any) -> bool:
    return isinstance(layer, type) and issubclass(layer, torch.autograd.Function)


def _signature(layer: Any) -> tuple[list[str], list[str], bool]:
    """Names of the arguments that can be given, of those that must be, and whether any number goes by position."""
    layer = getattr(layer, "_orig_mod", layer)  # of a compiled module, whose own takes any arguments
    if isinstance(layer, functools.partial) and isinstance(layer.func, nn.Module):
        inner = getattr(layer.func, "_orig_mod", layer.func)
        layer = functools.partial(inner.forward, *layer.args, **layer.keywords)
    owner = getattr(layer, "__self__", layer)
    function = layer.forward if isinstance(layer, nn.Module) else layer
    schema: Any = getattr(function, "schema", None)
    if not isinstance(layer, type) and hasattr(schema, "arguments"):  # TorchScript
        given = [a for a in schema.arguments if a.name != "self"]
        return [a.name for a in given], [a.name for a in given if not a.has_default_value()], False
    try:
        parameters = list(inspect.signature(owner.forward if _is_function(owner) else function).parameters.values())
    except (TypeError, ValueError):  # a function that is not written in Python
        return ["logits"], ["logits"], False
    if _is_function(owner) and owner.setup_context is torch.autograd.Function.setup_context:
        parameters = parameters[1:]  # without ctx
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    named = [p for p in parameters if p.kind in _NAMED and p.name not in fixed]
    any_number = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    needed = [p.name for p in named if p.default is p.empty]
    return [p.name for p in named], needed, any_number and len(named) < 2


def suited(layer: Callable[..., Any], like: Tensor) -> Callable[..., Any]:
    """The layer; of a module with other weights, a copy in the dtype and on the device of `like`."""
    if not isinstance(layer, nn.Module):
        return layer
    own = [t for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point()]
    if all(t.dtype == like.dtype and t.device == like.device for t in own):
        return layer
    try:
        return copy.deepcopy(layer, _of_the_last_call(layer)).to(device=like.device, dtype=like.dtype)
    except (RuntimeError, TypeError) as error:
        errors.pass_on_memory(error)
        raise ValueError(
            f"layer: expected a module that can be copied to {like.dtype} on {like.device}, got {line(error)}"
        ) from error


def _of_the_last_call(layer: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy, which refuses the tensors with a history that a module may keep of its last call."""
    kept = (value for module in layer.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}


@contextlib.contextmanager
def unchanged(layer: Callable[..., Any]) -> Iterator[None]:
    """Afterwards torch's random state and a module's buffers and attributes are what they were."""
    state = torch.random.get_rng_state()
    modules = list(layer.modules()) if isinstance(layer, nn.Module) else []
    kept = [{name: _copied(value) for name, value in vars(module).items()} for module in modules]
    values = [(b, b._version, b.detach().clone()) for module in modules for b in module.buffers(recurse=False)]
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        for module, before in zip(modules, kept, strict=True):
            if _differ(vars(module), before):
                vars(module).clear()
                vars(module).update(before)
        with torch.no_grad():
            for buffer, version, value in values:
                if buffer._version != version:
                    buffer.copy_(value)


def values_of_state(layer: Callable[..., Any]) -> dict[str, Any]:
    """Attributes and buffers of a module and its parts by name, as they are now."""
    found: dict[str, Any] = {}
    for prefix, module in layer.named_modules() if isinstance(layer, nn.Module) else ():
        own = {name: _copied(value) for name, value in vars(module).items() if not name.startswith("_")}
        own |= {name: buffer.detach().clone() for name, buffer in module.named_buffers(recurse=False)}
        found |= {f"{prefix}.{name}".lstrip("."): value for name, value in own.items()}
    return found


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of values that are others."""

    def differ(one: Any, other: Any) -> bool:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return one.shape != other.shape or not torch.equal(one, other)
        return one is not other and bool(_differ({"": one}, {"": other})) and not _equal(one, other)

    return [name for name in sorted(before.keys() | now.keys()) if differ(before.get(name), now.get(name))]


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and isinstance(one, int | float | str) and one == other


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (dict, list, set) else value


def _differ(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether an attribute is another object, or a plain container holds others."""
    if now.keys() != before.keys():
        return True
    for name, value in now.items():
        old = before[name]
        if value is old:
            continue
        if type(value) not in (dict, list, set) or type(value) is not type(old) or len(value) != len(old):
            return True
        pairs = ((value[k], old.get(k)) for k in value) if isinstance(value, dict) else zip(value, old, strict=True)
        if any(a is not b for a, b in pairs):
            return True
    return False


def line(error: BaseException) -> str:
    """Kind and first line of an error."""
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
