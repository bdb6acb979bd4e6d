"""The paper's categorical VAE (appendix A.2): an MLP 784-512-256-(latents x categories), mirrored, ReLU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from .. import errors
from ..model import LatentModel


def categorical_vae(
    latents: int = 4,
    categories: int = 8,
    hidden: Sequence[int] = (512, 256),
    image_shape: Sequence[int] = (1, 28, 28),
    top_k: int | None = None,
) -> LatentModel:
    """A categorical VAE for images `(example, *image_shape)` or flat ones; Bernoulli nats, summed over pixels.

    With `top_k` each latent takes this number of its categories, without order.
    """
    widths = [errors.whole_number("hidden", h, 1) for h in hidden]
    shape = tuple(errors.whole_number("image_shape", n, 1) for n in image_shape)
    if not shape:
        raise ValueError(f"image_shape: expected (channels, height, width), got {image_shape!r}")
    latents = errors.whole_number("latents", latents, 1)
    categories = errors.whole_number("categories", categories, 2)
    outer = [math.prod(shape), *widths]
    encoder = nn.Sequential(nn.Flatten(), *_mlp([*outer, latents * categories]))
    decoder = nn.Sequential(nn.Flatten(), *_mlp([latents * categories, *outer[::-1]]), nn.Unflatten(1, shape))
    return LatentModel(encoder, decoder, latents=latents, categories=categories, likelihood="bernoulli", top_k=top_k)


def _mlp(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]
