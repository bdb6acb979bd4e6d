"""Named groups of latents with categories of their own, side by side in one (latent, category) array.

Groups of fewer categories are padded to the most, with logits PADDING: there the probability is exactly 0, and with it
gradient, mean and standard deviation. Padded configurations are never enumerated.
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
    """Sizes by name, {"content": (4, 8), "style": (2, 3)}: 4 latents of 8 categories, then 2 of 3."""

    def __init__(self, given: object):
        if not (isinstance(given, Mapping) and given and all(isinstance(name, str) for name in given)):
            raise ValueError(f"groups: got {given!r}; name -> (latents, categories) would do, {{'content': (4, 8)}}")
        self.sizes: dict[str, tuple[int, int]] = {}
        for name, size in given.items():
            if not (isinstance(size, tuple | list) and len(size) == 2):
                raise ValueError(f"groups: got {size!r} for {name!r}; (latents, categories) would do")
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
        """Logits (example, latent, category) from the encoder's, a dict by name, or a tuple or list in its order."""
        if isinstance(out, tuple | list) and len(out) == len(self.sizes):
            out = dict(zip(self.sizes, out, strict=True))
        if not isinstance(out, Mapping) or set(out) != set(self.sizes):
            came = f"a dict of {', '.join(map(str, out))}" if isinstance(out, Mapping) else f"a {type(out).__name__}"
            raise ValueError(f"encoder: got {came}; a dict of logits by group, {', '.join(self.sizes)}, is needed")
        most = max(self.category_counts)
        parts = []
        for name, size in self.sizes.items():
            logits, shapes = out[name], ((examples, *size), (examples, math.prod(size)))
            if not (isinstance(logits, Tensor) and logits.is_floating_point() and tuple(logits.shape) in shapes):
                came = f"a {type(logits).__name__}"
                if isinstance(logits, Tensor):
                    came = f"{logits.dtype} of shape {tuple(logits.shape)}"
                raise ValueError(
                    f"encoder: got {came} for group {name!r}; {size[0]} latents of {size[1]} categories need logits of"
                    f" shape {shapes[0]} or {shapes[1]}"
                )
            logits = logits.reshape(shapes[0])
            if size[1] < most:
                if torch.finfo(logits.dtype).min > PADDING:
                    raise ValueError(f"encoder: gives {logits.dtype}; groups of unequal categories need torch.float32")
                logits = torch.nn.functional.pad(logits, (0, most - size[1]), value=PADDING)
            parts.append(logits)
        return torch.cat(parts, 1)

    def apart(self, codes: Tensor) -> dict[str, Tensor]:
        """Codes (n, latent, category) by name, each (n, latents, categories) of its own."""
        parts = codes.split([count for count, _ in self.sizes.values()], 1)
        return {
            name: part[..., :categories]
            for (name, (_, categories)), part in zip(self.sizes.items(), parts, strict=True)
        }
