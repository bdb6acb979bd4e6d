"""Built-in architectures. A name and a configuration (plain JSON values) define a LatentModel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from .. import errors
from ..latents import generator_seed
from ..model import LatentModel
from .binary_autoencoder import binary_autoencoder
from .categorical_vae import categorical_vae

ARCHITECTURES: dict[str, Callable[..., LatentModel]] = {
    "binary-autoencoder": binary_autoencoder,
    "categorical-vae": categorical_vae,
}


def build(architecture: str, config: dict[str, Any], seed: int | None = None) -> LatentModel:
    """A built-in model, initialised from `seed` without touching the global random state.

    Raises ValueError for an unknown architecture or a configuration that does not fit it.
    """
    if architecture not in ARCHITECTURES:
        raise errors.unknown_name("architecture", architecture, ARCHITECTURES)
    try:
        plain = json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: expected plain JSON values, got {config!r} ({error})") from None
    if seed is not None and errors.whole_number("seed", seed, 0) >= 2**64:
        raise ValueError(f"seed: expected a whole number below 2**64, got {seed}")
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            # torch.manual_seed also seeds the generators of GPUs
            torch.default_generator.manual_seed(generator_seed(seed))
        try:
            model = ARCHITECTURES[architecture](**plain)
        except TypeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"config: expected the arguments of {architecture}, got {config} ({reason})") from None
    model.architecture, model.config = architecture, plain
    return model
