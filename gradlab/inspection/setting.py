"""A layer under inspection: rows of logits and noise, and what the layer makes of them at some temperatures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..estimators.foreign.places import Numbers
from ..estimators.foreign.running import Layer, Plan
from ..latents import BINARY, LatentKind, derived_seed


@dataclass(frozen=True)
class Runs:
    """Codes and estimates of a layer on some rows, in float64.

    logits, z, v, estimate : (row, latent[, category]); v is the derivative at the codes
    noise : (array, row, latent[, category]), the standard noise that the random calls were answered from, as far as it
        has the shape of the codes; array 0 is what samples the codes of the catalogue
    elsewhere : (row, latent[, category]) each, that of the random calls which do not decide the codes
    """

    tf: float
    tb: float
    logits: Tensor
    noise: Tensor
    z: Tensor
    v: Tensor
    estimate: Tensor
    elsewhere: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Setting:
    """The layer, how it is called, and the shape of its codes."""

    layer: Layer
    plan: Plan
    kind: LatentKind
    shape: tuple[int, ...]  # (latent[, category])
    seed: int

    def numbers(self, name: str, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, name))
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def noise(self, name: str, rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, name))
        return self.kind.noise((2, rows, *self.shape), dtype=torch.float64, generator=generator)

    def runs(self, tf: float, tb: float, rows: int) -> Runs:
        """At logits that differ from row to row; the same rows and noise at all temperatures."""
        logits, v = (1.2 * self.numbers("logits", rows, *self.shape), self.numbers("derivative", rows, *self.shape))
        numbers = self.plan.numbers(self.kind, self.noise("rows", rows))
        numbers.kept = []
        z, estimate = self.layer.run(self.plan.form, logits, tf, tb, numbers, v)
        assert estimate is not None
        heard = [numbers.noise[0], *_heard(self.kind, numbers, self.shape)]
        return Runs(tf, tb, logits, torch.stack(heard), z, v, estimate, _elsewhere(self.kind, numbers, self.shape))

    def codes(self, tf: float, tb: float, rows: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (latent[, category]), codes of them (row, latent[, category]) and noise array 0."""
        logits, noise = 1.2 * self.numbers("logits of the law", *self.shape), self.noise(name, rows)
        z, _ = self.plan.run(self.layer, self.kind, logits.expand(rows, *self.shape), noise, tf, tb)
        return logits, z, noise[0]


def _elsewhere(kind: LatentKind, numbers: Numbers, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    place, kept = numbers.place, numbers.kept or []
    calls = () if place is None else place.calls
    of_others = [e for call, e in enumerate(kept) if call not in calls and e.shape[1:] == shape]
    return tuple(torch.logit(torch.exp(-e)) if kind is BINARY else -e.log() for e in of_others)


def _heard(kind: LatentKind, numbers: Numbers, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """The further standard noise of calls that return several arrays at once, as (row, latent[, category])."""
    place = numbers.place
    if place is None or (place.pair and place.other is None) or numbers.kept is None:
        return
    e = numbers.kept[place.call]  # (row, latent, *others)
    if place.other is not None:
        e = e.movedim(2 + place.other, -1)
        e = e.reshape(*e.shape[:2], -1, e.shape[-1])
        of_all = -e.log() if kind is not BINARY else e[..., 0].log().neg() + e[..., 1].log()
        if kind is BINARY and place.mirrored:
            of_all = -of_all
    else:
        e = e.reshape(*e.shape[:2], -1)
        of_all = torch.logit(torch.exp(-e)) * (-1 if place.mirrored else 1)
    for array in range(1, of_all.shape[2]):
        yield of_all[:, :, array].reshape(len(e), *shape)
