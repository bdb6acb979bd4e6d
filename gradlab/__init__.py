"""gradlab: how faithful are the gradients of discrete-latent models?

Public names are imported when first used, so that the command line answers without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "LatentModel": "model",
    "Program": "programs.program",
    "save": "checkpoints",
    "load": "checkpoints",
    "bundled": "checkpoints",
    "load_weights": "weights",
    "exact_gradient": "exact",
    "bias": "fidelity.bias_analysis",
    "gap": "fidelity.gap_analysis",
    "Monitor": "monitoring.monitor",
    **dict.fromkeys(("MonteCarlo", "Integrated", "Enumerated", "Sampled", "Compute"), "methods"),
    "decoupled_st_gumbel_softmax": "estimators",
    "save_results": "results",
    "open_results": "results",
    "report": "reports.page",
    "table": "reports.tables",
    "recommend": "recommending.choosing",
    "check_layer": "inspection.checking",
}
_MODULES = ("datasets", "estimators", "latents", "likelihoods", "metrics", "plots", "schedules", "sweeps", "training")

__all__ = [
    "Compute",
    "Enumerated",
    "Integrated",
    "LatentModel",
    "Monitor",
    "MonteCarlo",
    "Program",
    "Sampled",
    "bias",
    "bundled",
    "check_layer",
    "datasets",
    "decoupled_st_gumbel_softmax",
    "estimators",
    "exact_gradient",
    "gap",
    "latents",
    "likelihoods",
    "load",
    "load_weights",
    "metrics",
    "open_results",
    "plots",
    "recommend",
    "report",
    "save",
    "save_results",
    "schedules",
    "sweeps",
    "table",
    "training",
]

if TYPE_CHECKING:
    from . import datasets, estimators, latents, likelihoods, metrics, plots, schedules, sweeps, training
    from .checkpoints import bundled, load, save
    from .estimators import decoupled_st_gumbel_softmax
    from .exact import exact_gradient
    from .fidelity.bias_analysis import bias
    from .fidelity.gap_analysis import gap
    from .inspection.checking import check_layer
    from .methods import Compute, Enumerated, Integrated, MonteCarlo, Sampled
    from .model import LatentModel
    from .monitoring.monitor import Monitor
    from .programs.program import Program
    from .recommending.choosing import recommend
    from .reports.page import report
    from .reports.tables import table
    from .results import open_results, save_results
    from .weights import load_weights


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
