"""Copies of a model in the precision and place of a measurement. The user's model is left as it is.

A part that runs in its own precision only, because it makes tensors of float32 itself, stays in that precision: what it
is given is rounded to it, and what it returns is widened (`LatentModel.narrow`).
"""

from __future__ import annotations

import collections
import copy
import itertools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import calls, errors, model_checks, owned
from .model import LatentModel, own_tensor, precision

_PARTS = ("encoder", "decoder")
_WALKED = 100_000  # objects that are looked through for tensors with a history


def measured_copy(
    model: LatentModel,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    narrow: Mapping[str, torch.dtype] | None = None,
) -> LatentModel:
    """The model as it is measured: in the wanted precision and place, its own left as they are.

    `narrow` names the parts that stay in their precision. Raises ValueError for layers that make the decoder or encoder
    random or mix examples while in training mode.
    """
    model_checks.check_modes(model)
    own = own_tensor(model)
    dtype = dtype or (own.dtype if own is not None else None)
    if device is not None:
        device = torch.empty(0, device=device).device  # "cuda" with its index
    elif own is not None:
        device = own.device
    # tensors made in inference mode cannot be differentiated through; copies made outside of it can
    made_for_inference = any(t.is_inference() for t in itertools.chain(model.parameters(), model.buffers()))
    same = own is not None and (dtype, device) == (own.dtype, own.device) and not made_for_inference
    if (own is None and not narrow) or same:
        return model
    if dtype is not None and not narrow and model_checks.computes_by_row(model):
        try:
            return _converted(model, dtype, device)
        except (RuntimeError, AssertionError, TypeError) as error:  # an attribute that cannot be copied
            errors.pass_on_memory(error)
    memo: dict[int, Any] = {id(model._likelihood): model._likelihood}
    if isinstance(model._likelihood, nn.Module):
        memo.clear()
    made = _copied(model, memo, dtype)
    made.narrow = dict(narrow or {})
    for name, module in made.named_children():
        module.to(device=device, dtype=None if _stays(made, name) else dtype)
    if not isinstance(made._likelihood, nn.Module):
        of_likelihood = None if _stays(made, "likelihood") else dtype
        made._likelihood = owned.rebuilt(model._likelihood, lambda part: _moved(part, memo, of_likelihood, device))
    return made


def _converted(model: LatentModel, dtype: torch.dtype, device: torch.device | None) -> LatentModel:
    """A deep copy of torch's own layers with other parameters, in less time than `copy.deepcopy` and a conversion."""
    modules = list(model.modules())
    memo: dict[int, Any] = {id(model._likelihood): model._likelihood}
    memo.update((id(module), type(module).__new__(type(module))) for module in modules)
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        new = tensor.detach().to(device, dtype if tensor.is_floating_point() else None, copy=True)
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    for module in modules:
        into = vars(memo[id(module)])
        for name, value in vars(module).items():  # parameters, buffers and modules among them
            empty = isinstance(value, dict | set) and not value  # most are, of hooks, for which deepcopy takes long
            into[name] = value.copy() if empty else copy.deepcopy(value, memo)
    made: LatentModel = memo[id(model)]
    return made


def _stays(model: LatentModel, child: str) -> bool:
    """Whether a child keeps its precision; a likelihood's weights have the decoder's."""
    return (child if child in _PARTS else "decoder") in model.narrow


def _moved(part: Any, memo: dict[int, Any], dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """A copy of a module or tensor in this precision and place; the one of the model, if it is part of that."""
    if isinstance(part, nn.Module):
        return copy.deepcopy(part, memo).to(device=device, dtype=dtype)
    new = memo[id(part)] if id(part) in memo else part.detach().clone().requires_grad_(part.requires_grad)
    return new.to(device=device, dtype=dtype) if new.is_floating_point() else new.to(device=device)


def narrow_parts(model: LatentModel, x: Tensor) -> tuple[dict[str, torch.dtype], str]:
    """The precision of parts that run in their own precision and not in float64, and why they do not; mostly ({}, "").

    If encoder and decoder share tensors, both keep theirs. Raises ValueError for a part that runs in neither.
    """
    if model_checks.computes_by_row(model):
        return {}, ""
    own = precision(model, x)
    wide = measured_copy(model, torch.float64, x.device)
    if wide is model:
        return {}, ""
    reasons = {part: reason for part in _PARTS if (reason := _why_not(wide, part, x))}
    if not reasons:
        return {}, ""
    for part in reasons:
        if reason := _why_not(model, part, x):
            raise ValueError(reason)
    if _shared(model):
        return dict.fromkeys(_PARTS, own), next(iter(reasons.values()))
    return dict.fromkeys(reasons, own), next(iter(reasons.values()))


@torch.no_grad()
def _why_not(model: LatentModel, part: str, x: Tensor) -> str:
    """The message of the error of a part, or ""."""
    some = x[:2].to(torch.promote_types(x.dtype, precision(model, x))) if x.is_floating_point() else x[:2]
    try:
        if part == "encoder":
            model.logits(some.clone())
        else:
            first = torch.zeros(len(some), model.latents, dtype=torch.long, device=x.device)
            codes = model.codes_at(first, precision(model, x))
            model.losses(codes, some.clone())
    except ValueError as error:
        return str(error)
    return ""


def _shared(model: LatentModel) -> bool:
    """Whether encoder and decoder share tensors."""
    return bool({id(p) for p in model.encoder.parameters()} & {id(p) for p in model.decoder.parameters()})


def _copied(model: LatentModel, memo: dict[int, Any], dtype: torch.dtype | None) -> LatentModel:
    """A deep copy. What cannot be copied, a lock say, is shared; of tensors with a history the values are copied."""
    before = dict(memo)
    try:
        memo.update(_detached(vars(module).values() for module in model.modules()))
        return copy.deepcopy(model, memo)
    except (RuntimeError, AssertionError, TypeError) as error:
        errors.pass_on_memory(error)
        memo.clear()
        memo.update(before)
    memo.update(_detached(_reachable(model)))
    for _, _, value in _uncopyable(model, memo):
        memo[id(value)] = value
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, AssertionError, TypeError) as error:
        errors.pass_on_memory(error)
        where = next((f", {kind} has {name!r}" for kind, name, _ in _uncopyable(model, memo)), "")
        raise ValueError(
            f"model: expected one that can be copied to {dtype}, got an error ({calls.first_line(error)}{where})"
        ) from error


def _detached(groups: Any) -> dict[int, Any]:
    """A memo for deepcopy, which refuses tensors with a history, as a module may keep of its last call."""
    kept = (value for values in groups for value in values if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}


def _reachable(model: nn.Module) -> Iterator[list[Any]]:
    """Groups of the objects that the modules' attributes lead to, through containers and instances."""
    known: set[int] = set()
    group: list[Any] = [value for module in model.modules() for value in vars(module).values()]
    while group and len(known) < _WALKED:
        yield group
        group = [part for value in group for part in _contents(value) if id(part) not in known]
        known.update(map(id, group))


def _contents(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        return value
    leaf = isinstance(value, nn.Module | Tensor | type | types.ModuleType | types.FunctionType)
    return () if leaf else getattr(value, "__dict__", {}).values()


def _uncopyable(model: nn.Module, memo: dict[int, Any]) -> Iterator[tuple[str, str, Any]]:
    """Module, name and value of attributes that cannot be copied."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute.startswith("_") and attribute in vars(nn.Module()):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # of any object of the user's
                yield f"{name or 'it'} ({type(module).__name__})", attribute, value
