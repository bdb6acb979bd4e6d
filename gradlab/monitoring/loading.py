"""Loading what a measurement needs before the training begins, so that no step of it pays for this."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from .. import results
from ..fidelity.bias_analysis import bias
from ..model import LatentModel
from .isolation import isolated


@functools.cache
def load() -> None:
    """Measures a model of four configurations and writes its file, once in a process.

    Libraries are imported where they are first used, some 0.5 s of CPU time that the first measurement of a process
    takes: xarray imports dask, where it is installed, with its first Dataset; saved results import h5py.
    """
    with isolated(), warnings.catch_warnings(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")
        encoder, decoder = (nn.Linear(4, 4, dtype=torch.float32, device="cpu") for _ in range(2))
        model = LatentModel(encoder, nn.Sequential(nn.Flatten(), decoder), latents=2, categories=2)
        found = bias(model, torch.full((2, 4), 0.5, dtype=torch.float32, device="cpu"), 1.0, 1.0, draws=2)
        results.save_results(found, Path(folder) / "loaded.h5")
