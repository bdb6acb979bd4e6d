"""Copies of live models that share nothing that a call could change, and take no part in the training.

`copy.deepcopy` copies hooks with what they write to, compiled and DistributedDataParallel wrappers with what they
synchronise, and leaves functions as they are, with the modules that they close over. Here

- wrappers are replaced by what they wrap, so that a copy neither compiles nor communicates;
- hooks are left out, except torch's own of `torch.nn.utils` (spectral norm, pruning), which compute weights;
- functions and bound methods refer to the copies of the modules that they use, so that a loss function is copied too;
- tensors of modules and tensors that require gradients are detached clones without `.grad`, shared where they were.
"""

from __future__ import annotations

import copy
import enum
import functools
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

MOST_ENTRIES = 4096  # of a list or dict; longer ones are data, which is neither read nor copied
# of packages whose objects are kept: optimizers, loaders, trainers, loggers, and what Python itself has
_KEPT = {"torch", "numpy", "lightning", "pytorch_lightning", "accelerate", "torchvision", "matplotlib", "xarray"}
_KEPT |= sys.stdlib_module_names - {"test"}  # which users' modules are called too
_GENERATORS = ("Generator", "RandomState", "Random", "BitGenerator")
_PLAIN: tuple[type, ...] = (bool, int, float, complex, str, bytes, type(None), type, types.ModuleType, enum.Enum)
_PLAIN += (types.BuiltinFunctionType,)
_NOT_COPIED = "_forward_pre_hooks", "_forward_hooks"  # whose absence may change what a module computes


class Copies:
    """Copies of values that belong together: what two of them share, their copies share.

    `roots` are the outermost modules that were copied; `hooked` names the classes of modules whose hooks were left out.
    """

    def __init__(self) -> None:
        self._memo: dict[int, Any] = {}
        self._kept: list[Any] = []  # whose addresses the memo has, so that no other object gets them
        self._depth = 0  # in modules
        self.roots: list[nn.Module] = []
        self.hooked: set[str] = set()

    def of(self, value: Any) -> Any:
        """The copy of a value, or the value itself where nothing in it needs one."""
        if isinstance(value, _PLAIN):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        self._kept.append(value)
        self._memo[id(value)] = value  # for circles through what is kept
        found = self._copied(value)
        self._memo[id(value)] = found
        return found

    def _copied(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, types.FunctionType):
            depth, self._depth = self._depth, 0  # modules that it uses are no parts of one that holds it
            try:
                return self._function(value)
            finally:
                self._depth = depth
        if isinstance(value, types.MethodType):
            return types.MethodType(self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, functools.partial):
            keywords = {name: self.of(one) for name, one in value.keywords.items()}
            return functools.partial(self.of(value.func), *map(self.of, value.args), **keywords)
        if isinstance(value, dict | list | tuple | set):
            return self._container(value)
        if type(value).__name__ in _GENERATORS or type(value).__module__ == "numpy":
            return copy.deepcopy(value) if self._depth else value
        return self._object(value)

    # --- modules and tensors ---

    def _module(self, module: nn.Module) -> nn.Module:
        inner = _wrapped(module)
        if inner is not None:
            return self.of(inner)
        self._depth += 1
        try:
            if _copies_itself(module):
                found = copy.deepcopy(module, self._memo)
            else:
                found = self._memo[id(module)] = type(module).__new__(type(module))
                state = {name: self._attribute(module, name, one) for name, one in _state(module).items()}
                if "_original_forward" in state:  # Accelerate's, before it added its own precision
                    state["forward"] = state["_original_forward"]
                found.__setstate__(state)
        finally:
            self._depth -= 1
        if not self._depth:
            self.roots.append(found)
        return found

    def _attribute(self, module: nn.Module, name: str, value: Any) -> Any:
        if not (name.endswith("_hooks") and isinstance(value, dict)):
            return self.of(value)
        torchs = {key: hook for key, hook in value.items() if _is_torchs(hook)}
        if name in _NOT_COPIED and len(torchs) < len(value):
            self.hooked.add(type(module).__name__)
        return type(value)(torchs)

    def _tensor(self, tensor: Tensor) -> Tensor:
        if not (self._depth or tensor.requires_grad):
            return tensor  # data, such as a constant of a loss function
        if type(tensor) not in (Tensor, nn.Parameter):
            return copy.deepcopy(tensor, self._memo)
        found: Tensor = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(found, tensor.requires_grad)
        return found.requires_grad_(tensor.requires_grad)

    # --- functions, containers, other objects ---

    def _function(self, function: types.FunctionType) -> Any:
        eager = getattr(function, "_torchdynamo_orig_callable", None)
        if eager is not None:
            return self.of(eager)
        if _package(function) in _KEPT or (_package(function) == "gradlab" and not function.__closure__):
            return function
        cells = [(cell, types.CellType()) for cell in function.__closure__ or ()]
        scope = dict(function.__globals__)
        closure = tuple(own for _, own in cells) if cells else None
        found = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
        self._memo[id(function)] = found  # a function may refer to itself
        changed = False
        for cell, own in cells:
            try:
                own.cell_contents = self.of(cell.cell_contents)
                changed |= own.cell_contents is not cell.cell_contents
            except ValueError:  # a variable without a value so far
                continue
        for name in set(_names(function.__code__)) & scope.keys():
            scope[name] = self.of(scope[name])
            changed |= scope[name] is not function.__globals__[name]
        if not (changed or function.__defaults__ or function.__kwdefaults__):
            return function
        found.__defaults__ = self.of(function.__defaults__)
        found.__kwdefaults__ = self.of(function.__kwdefaults__)
        found.__dict__.update(function.__dict__)
        return found

    def _container(self, value: Any) -> Any:
        if len(value) > MOST_ENTRIES:
            return value
        if isinstance(value, tuple):
            copies = [self.of(one) for one in value]
            if all(one is other for one, other in zip(copies, value, strict=True)):
                return value
            return type(value)(*copies) if hasattr(value, "_fields") else type(value)(copies)
        try:
            found = self._memo[id(value)] = copy.copy(value)
        except Exception:  # whatever a class of containers makes of it
            return value
        if isinstance(value, dict):
            for key, one in value.items():
                dict.__setitem__(found, key, self.of(one))
        elif isinstance(value, list):
            found[:] = [self.of(one) for one in value]
        return found

    def _object(self, value: Any) -> Any:
        """An object with attributes, of a class that is not kept; anything else as it is."""
        if type(value).__module__.partition(".")[0] in _KEPT or not hasattr(value, "__dict__"):
            return value
        try:
            found = object.__new__(type(value))
        except TypeError:
            return value
        self._memo[id(value)] = found
        found.__dict__.update({name: self.of(one) for name, one in vars(value).items()})
        return found


def _wrapped(module: nn.Module) -> nn.Module | None:
    """What a compiled module or one for data-parallel training wraps; None for others."""
    if type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module):
        return module._orig_mod  # type: ignore[return-value]
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return module.module
    return None


def unwrapped(model: Any) -> Any:
    """The model inside its wrappers."""
    while isinstance(model, nn.Module) and (inner := _wrapped(model)) is not None:
        model = inner
    return model


def _copies_itself(module: nn.Module) -> bool:
    """Whether a class says how it is copied: a scripted or traced module. Parametrizations say what is done here."""
    return hasattr(type(module), "__deepcopy__") and not nn.utils.parametrize.is_parametrized(module)


def _state(module: nn.Module) -> dict[str, Any]:
    """The attributes to copy, without what torch.compile made of them."""
    if nn.utils.parametrize.is_parametrized(module):  # which refuses to be pickled
        return {name: one for name, one in vars(module).items() if name != "_compiled_call_impl"}
    return module.__getstate__()


def _is_torchs(hook: Any) -> bool:
    owner = hook if isinstance(hook, types.FunctionType | types.MethodType) else type(hook)
    return str(getattr(owner, "__module__", "")).startswith("torch.nn.utils.")


def _package(function: types.FunctionType) -> str:
    return str(function.__module__).partition(".")[0] if function.__module__ != "__main__" else "__main__"


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function may look up among its globals, those of functions inside of it included."""
    yield from code.co_names
    inner: Iterable[Any] = code.co_consts
    for one in inner:
        if isinstance(one, types.CodeType):
            yield from _names(one)
