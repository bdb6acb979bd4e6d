"""The random numbers of a training: one stream per seed, drawn in blocks of steps.

They depend only on (seed, purpose, position). So all trainings with the same seed use the same batches and noise, at
any temperature, alone or in an ensemble, resumed or not, and differences between temperatures are more precise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..latents import LatentKind, derived_seed

BLOCK = 16  # steps whose noise is drawn at once


def order(seed: int, epoch: int, images: int) -> Tensor:
    """Indices (images,) in the order of an epoch."""
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
    """Noise (BLOCK, array, *shape) of the steps from BLOCK * block on, where `shape` is (example, latent, category).

    Each array has a separate generator, so that estimators with several arrays share the first ones with all others.
    """
    generator = torch.Generator(device)
    drawn = []
    for array in range(arrays):
        generator.manual_seed(derived_seed(seed, "noise", block, array))
        drawn.append(kind.noise((BLOCK, *shape), dtype=dtype, device=device, generator=generator))
    return torch.stack(drawn, 1)
