"""Built-in architectures: a name and a configuration (plain JSON values) make a LatentModel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import errors
from ..model import LatentModel
from .categorical_vae import categorical_vae

ARCHITECTURES: dict[str, Callable[..., LatentModel]] = {"categorical-vae": categorical_vae}


def build(architecture: str, config: dict[str, Any], seed: int | None = None) -> LatentModel:
    """A built-in model, initialised from `seed` without touching the global random state.

    Raises ValueError for an unknown architecture or a configuration that does not fit it.
    """
    if architecture not in ARCHITECTURES:
        raise errors.unknown_name("architecture", architecture, ARCHITECTURES)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            model = ARCHITECTURES[architecture](**config)
        except TypeError as error:
            raise ValueError(f"config: {architecture} does not take {config} ({error})") from None
    model.architecture, model.config = architecture, dict(config)
    return model
