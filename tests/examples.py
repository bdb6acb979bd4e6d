"""Examples of docstrings, and the files in the folder where they run.

Names that every example may use: `gradlab`, `torch`, and numpy as `np`. Its folder holds results of each kind.
"""

from __future__ import annotations

import doctest
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradlab

from .imports import ROOT

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COLLECTED = {"fidelity-and-loss.h5": "fidelity-and-loss-paper.h5", "figure4-kl.h5": "figure4-kl-part.h5"}
SMALL: dict[str, Any] = {"latents": 2, "categories": 3, "hidden": [8]}


def public_callables() -> Iterator[tuple[str, Any]]:
    """Every public function and class of the package and of its public modules: (where, object)."""
    for name in gradlab.__all__:
        home = getattr(gradlab, name)
        if not inspect.ismodule(home):
            yield f"gradlab.{name}", home
            continue
        for inner, thing in vars(home).items():
            public = inner in home.__all__ if hasattr(home, "__all__") else not inner.startswith("_")
            if public and callable(thing) and getattr(thing, "__module__", "").startswith(home.__name__):
                yield f"gradlab.{name}.{inner}", thing


def example(where: str, thing: Any) -> doctest.DocTest | None:
    """What the docstring of a callable shows; None if it shows nothing."""
    text = inspect.getdoc(thing) or ""
    found = doctest.DocTestParser().get_doctest(text, {"gradlab": gradlab, "torch": torch, "np": np}, where, None, 0)
    return found if found.examples else None


def prepare(folder: Path) -> None:
    """The files that examples read."""
    from gradlab import sweeps, training

    shutil.copy(ROOT / "data" / "vae-8x4-mnist.safetensors", folder / "vae.safetensors")
    images = gradlab.datasets.load("mnist-sample")
    x = images.first(3).floats()
    small = training.Settings(config=SMALL, epochs=2, batch_size=20)
    model = training.train(small, images.first(60), images.first(20), folder / "small.safetensors", **_TRACKED)
    measured = {
        "bias.h5": gradlab.bias(model, x, tf=[1.0, 1.6], tb=[0.7, 1.3], draws=16),
        "estimators.h5": gradlab.bias(model, x, tf=1.0, tb=1.3, estimator=["st-gs", "rloo"], draws=16),
        "encoder.h5": gradlab.bias(model, x, tf=1.0, tb=1.3, draws=16, wrt="encoder"),
        "gap.h5": gradlab.gap(model, x, tf=[1.0, 1.6], tb=[0.7, 1.3], draws=4),
    }
    options = {"tf": [0.5, 1.6], "tb": [0.5, 1.3], "seeds": 2}
    measured["sweep.h5"] = sweeps.sweep(small, images.first(60), images.first(20), folder / "swept", **options)
    planned = {"tf": ["1:0.3", 1.0], "tb": 1.0, "seeds": 2}
    measured["schedules.h5"] = sweeps.sweep(small, images.first(60), images.first(20), folder / "planned", **planned)
    choice = gradlab.recommend(model, x, tb=[0.5, 1.3], estimator=["ste", "rloo"], draws=32)
    measured["recommendation.h5"] = choice.table
    for name, ds in measured.items():
        gradlab.save_results(ds, folder / name)
    for name, collected in COLLECTED.items():
        shutil.copy(ROOT / "analyses" / "results" / collected, folder / name)


_TRACKED: dict[str, Any] = {"track": ["bias"], "track_every": 1, "track_images": 3, "track_draws": 8}
