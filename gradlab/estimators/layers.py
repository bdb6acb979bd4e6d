"""Estimators as layers of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import errors
from ..latents import CATEGORICAL


def decoupled_st_gumbel_softmax(
    logits: Tensor, tf: float = 1.0, tb: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Sample one-hot codes with Decoupled ST-GS gradients; a drop-in for `gumbel_softmax(logits, hard=True)`.

    Forward z = onehot(argmax(l/tf + g)), backward that of softmax(l/tb + g) with the same Gumbel noise g
    (Decoupled ST-GS, eq. 12-16). The values are exactly 0 and 1.

    Parameters
    ----------
    logits : floating-point tensor (..., category)
    tf, tb : forward and backward temperature, finite and positive; tb defaults to tf
    generator : source of the noise, on the logits' device; torch's default generator if None

    Returns
    -------
    Tensor (..., category), one-hot, differentiable with respect to logits.

    Raises
    ------
    ValueError
        Temperatures that are not finite and positive; logits that are no floating-point tensor.
    """
    if not (isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim > 0):
        raise ValueError(f"logits: got {type(logits).__name__}; a floating-point tensor (..., category) is needed")
    tf = errors.temperature("tf", tf)
    tb = tf if tb is None else errors.temperature("tb", tb)
    g = CATEGORICAL.noise(tuple(logits.shape), dtype=logits.dtype, device=logits.device, generator=generator)
    z = CATEGORICAL.hard(logits.detach() / tf + g)
    q = CATEGORICAL.soft(logits / tb + g)
    return z + (q - q.detach())  # the bracket is exactly 0
