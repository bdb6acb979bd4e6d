"""Calls of a user's encoder, decoder and likelihood; what goes wrong there is an error that says in which part."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from . import decoded, errors


def check_inputs(decoder: nn.Module, conditional: bool) -> None:
    """Raises ValueError unless the decoder can be called with codes, or with codes and x."""
    try:
        signature = inspect.signature(decoder.forward)
        expected = "(codes, x), as conditional=True says" if conditional else "codes alone"
        try:
            signature.bind(*[None] * (1 + conditional))
        except TypeError:
            cure = "; pass conditional=True if it takes x" if not conditional and len(signature.parameters) == 2 else ""
            raise errors.Excluded(
                f"decoder: expected a module that takes {expected}, got forward{signature}{cure}"
            ) from None
    except (TypeError, ValueError) as error:  # a compiled module may have no signature
        if isinstance(error, errors.Excluded):
            raise


def apply(module: nn.Module, name: str, *given: Any) -> Any:
    """The module's output; where torch finds that shapes or types do not fit, a ValueError that says whose."""
    try:
        return module(*given)
    except (RuntimeError, IndexError) as error:
        errors.pass_on_memory(error)
        wanted = "images that fit the model" if name == "encoder" else "a module that takes codes"
        raise ValueError(
            f"{name}: expected {wanted}, got an error for {' and '.join(map(described, given))} ({first_line(error)})"
            f"{cure(error)}"
        ) from error


def described(value: Any) -> str:
    """Precision and shape of what a module was given."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {described(part)}" for key, part in value.items())
    return decoded.described(value)


# what torch says -> what causes it, and what to write
_CURES = {
    r"use_reentrant=True": "reentrant checkpointing hides derivatives; pass use_reentrant=False to"
    " torch.utils.checkpoint.checkpoint",
    r"view size is not compatible": "a .view of a tensor that is not contiguous; write .reshape",
    r"on the same device|on device|but is on": "a tensor on another device; make it with device=codes.device, or"
    " register it as a buffer",
    r"'indices' to have .*(Long|Int)": "an embedding takes integers; pass x as integers, x.long()",
    r"dtype|scalar type|[Ii]nput type|Double|BFloat16": "a tensor of another precision; make it in that of the input,"
    " codes.new_zeros(...) or x.new_zeros(...), or register it as a buffer",
}


def cure(error: Exception) -> str:
    """The cause of an error of torch and what to do about it, or ""."""
    found = (words for pattern, words in _CURES.items() if re.search(pattern, str(error)))
    return next((f"; the cause: {words}" for words in found), "")


def gradients(name: str, outputs: Any, inputs: Any, *more: Any, **options: Any) -> tuple[Tensor | None, ...]:
    """torch.autograd.grad; where torch cannot differentiate the module, a ValueError that says why."""
    try:
        return torch.autograd.grad(outputs, inputs, *more, **options)
    except RuntimeError as error:
        errors.pass_on_memory(error)
        if not (words := cure(error)):
            raise
        raise ValueError(f"{name}: expected derivatives from torch.autograd.grad, got an error{words}") from error


def check_precision(name: str, given: torch.dtype, out: Tensor) -> None:
    """Raises ValueError if the output is less precise than the input."""
    if torch.promote_types(out.dtype, given) != out.dtype:
        raise ValueError(
            f"{name}: expected the precision of its input, {given}, got {out.dtype}; metrics are computed in"
            " several precisions (a .float() inside?)"
        )


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
