"""Calls of a user's encoder, decoder and likelihood; what goes wrong there is an error that says in which part."""

from __future__ import annotations

import inspect
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
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{name}: expected {'images that fit the model' if name == 'encoder' else 'a module that takes codes'},"
            f" got an error for {' and '.join(map(described, given))} ({first_line(error)})"
        ) from error


def described(value: Any) -> str:
    """Precision and shape of what a module was given."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {described(part)}" for key, part in value.items())
    return decoded.described(value)


def check_precision(name: str, given: Tensor, out: Tensor) -> None:
    if out.dtype != given.dtype:
        raise ValueError(
            f"{name}: expected the precision of its input, {given.dtype}, got {out.dtype}; metrics are computed in"
            " several precisions (a .float() inside?)"
        )


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
