"""Named groups of latents with different numbers of categories, stored in one (latent, category) array.

Smaller groups are padded to the largest number of categories with logits PADDING. The probability of padding is exactly
0, and so are gradient, mean and standard deviation. Padded configurations are never enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import errors
from .latents import PADDING


class Groups:
    """The sizes of groups by name: {"content": (4, 8), "style": (2, 3)} is 4 latents of 8 categories, then 2 of 3."""

    def __init__(self, given: object):
        if not (isinstance(given, Mapping) and given and all(isinstance(name, str) for name in given)):
            raise ValueError(f"groups: expected a dict name -> (latents, categories), got {given!r}")
        self.sizes: dict[str, tuple[int, int]] = {}
        for name, size in given.items():
            if not (isinstance(size, tuple | list) and len(size) == 2):
                raise ValueError(f"groups: expected (latents, categories) for {name!r}, got {size!r}")
            whole = errors.whole_number(f"groups: latents of {name!r}", size[0], 1)
            self.sizes[name] = whole, errors.whole_number(f"groups: categories of {name!r}", size[1], 2)

    @property
    def category_counts(self) -> tuple[int, ...]:
        """Number of categories of each latent."""
        return tuple(categories for count, categories in self.sizes.values() for _ in range(count))

    @property
    def of_latents(self) -> list[str]:
        """The name of each latent's group."""
        return [name for name, (count, _) in self.sizes.items() for _ in range(count)]

    def joined(self, out: Any, examples: int) -> Tensor:
        """Logits (example, latent, category) from the encoder's output, a dict by name or a tuple or list in order."""
        if isinstance(out, tuple | list) and len(out) == len(self.sizes):
            out = dict(zip(self.sizes, out, strict=True))
        if not isinstance(out, Mapping) or set(out) != set(self.sizes):
            came = f"a dict of {', '.join(map(str, out))}" if isinstance(out, Mapping) else f"a {type(out).__name__}"
            raise ValueError(f"encoder: expected a dict of logits by group, {', '.join(self.sizes)}, got {came}")
        most = max(self.category_counts)
        parts = []
        for name, size in self.sizes.items():
            logits, shapes = out[name], ((examples, *size), (examples, math.prod(size)))
            if not (isinstance(logits, Tensor) and logits.is_floating_point() and tuple(logits.shape) in shapes):
                came = f"a {type(logits).__name__}"
                if isinstance(logits, Tensor):
                    came = f"{logits.dtype} of shape {tuple(logits.shape)}"
                raise ValueError(
                    f"encoder: expected logits of shape {shapes[0]} or {shapes[1]} for group {name!r}, {size[0]}"
                    f" latents of {size[1]} categories, got {came}"
                )
            logits = logits.reshape(shapes[0])
            if size[1] < most:
                if torch.finfo(logits.dtype).min > PADDING:
                    raise ValueError(f"encoder: expected torch.float32 for groups of unequal size, got {logits.dtype}")
                logits = torch.nn.functional.pad(logits, (0, most - size[1]), value=PADDING)
            parts.append(logits)
        return torch.cat(parts, 1)

    def apart(self, codes: Tensor) -> dict[str, Tensor]:
        """Splits codes (n, latent, category) into a dict of codes (n, latents, categories) by group."""
        parts = codes.split([count for count, _ in self.sizes.values()], 1)
        return {
            name: part[..., :categories].contiguous()  # for modules that take a .view
            for (name, (_, categories)), part in zip(self.sizes.items(), parts, strict=True)
        }
