"""gradlab: how faithful are the gradients of discrete-latent models?

Public names are imported when first used, so that the command line answers without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "LatentModel": "model",
    "save": "checkpoints",
    "load": "checkpoints",
    "bundled": "checkpoints",
    "decoupled_st_gumbel_softmax": "estimators",
}
_MODULES = ("datasets", "estimators", "latents", "likelihoods", "training")

__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from . import datasets, estimators, latents, likelihoods, training
    from .checkpoints import bundled, load, save
    from .estimators import decoupled_st_gumbel_softmax
    from .model import LatentModel


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
