"""Random numbers of a training: a stream for each seed, drawn in blocks of steps.

They follow from (seed, purpose, place) alone, so every training of one seed sees the same batches and noise, whatever
its temperatures, alone or beside others, from its first step or resumed: differences between temperatures are sharper
than either end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..latents import LatentKind, derived_seed

BLOCK = 16  # steps whose noise is drawn at once


def order(seed: int, epoch: int, images: int) -> Tensor:
    """Indices (images,) in the order in which an epoch goes through them."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(images, generator=generator)


def noise_block(
    kind: LatentKind,
    seed: int,
    block: int,
    arrays: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Noise (BLOCK, array, *shape) of the steps from BLOCK * block on, `shape` a batch's (example, latent, category).

    Each array has a generator of its own, so that estimators that take several share the first ones with all others.
    """
    generator = torch.Generator(device)
    drawn = []
    for array in range(arrays):
        generator.manual_seed(derived_seed(seed, "noise", block, array))
        drawn.append(kind.noise((BLOCK, *shape), dtype=dtype, device=device, generator=generator))
    return torch.stack(drawn, 1)
