"""Where gradlab's noise goes among the numbers that a layer's random calls return.

A layer is called with rows, one for each draw and example. A trial with two numbers of rows shows which dimension of
each random call belongs to the rows, and after it, which one to the latents; `Layout` holds the dimensions

    (other, ..., row, latent, other, ...)

One call, or for binary units two, gets noise array 0, which samples the codes of all estimators: the one for which the
layer's codes agree best with hard(l + g). All other numbers are made from noise array 1: they are independent of array
0, each latent has its own, and they do not depend on chunks. So every choice gives the layer the numbers that torch
would, and a good choice gives it the draws of the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...hashing import exponentials, splitmix64
from ...latents import BINARY, LatentKind
from .answers import Refused

ROW, LATENT = "row", "latent"
_APART = 2**40  # between the numbers of one call and those of the next


@dataclass(frozen=True)
class Layout:
    """The dimensions of what a random call returns: ROW, LATENT, or the size of another one, in their order."""

    name: str
    parts: tuple[str | int, ...]

    @property
    def others(self) -> list[int]:
        return [part for part in self.parts if isinstance(part, int)]

    @property
    def by_latent(self) -> bool:
        return LATENT in self.parts

    def sizes(self, rows: int, latents: int) -> list[int]:
        known = {ROW: rows, LATENT: latents}
        return [known[part] if isinstance(part, str) else part for part in self.parts]

    def arranged(self, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Numbers (row, latent, *others), or (row, *others), as the call returns them."""
        order = [ROW, *[LATENT] * self.by_latent, *(i for i, part in enumerate(self.parts) if isinstance(part, int))]
        at = [order.index(part if isinstance(part, str) else i) for i, part in enumerate(self.parts)]
        return numbers.permute(at).reshape(shape)


@dataclass(frozen=True)
class Place:
    """What gets noise array 0: of call `call` the dimension `other` of its others, index 0 of the rest.

    pair : binary: the two calls `call` and `call` + 1, or two entries along `other`, are the Gumbels of l and of 0
    mirrored : uniform numbers 1 - u in place of u, or the pair the other way round
    """

    call: int
    other: int | None = None
    pair: bool = False
    mirrored: bool = False

    @property
    def calls(self) -> tuple[int, ...]:
        return (self.call, self.call + 1) if self.pair and self.other is None else (self.call,)


def layout(
    name: str, shapes: Sequence[tuple[int, ...]], rows: Sequence[int], latents: int, more: tuple[int, ...] | None
) -> Layout | None:
    """The layout of a call that returned these shapes at two numbers of rows; None where rows do not show in it.

    `more` is the shape at the first number of rows and one latent more, where that is known: it shows which of two
    dimensions of equal size belongs to the latents.
    """
    one, other = shapes
    if len(one) != len(other):
        return None
    growing = [i for i, (m, n) in enumerate(zip(one, other, strict=True)) if m != n]
    if len(growing) != 1 or one[growing[0]] * rows[1] != other[growing[0]] * rows[0]:
        return None
    at = growing[0]
    per_row = one[at] // rows[0]
    parts: list[str | int] = [*one[:at], ROW]
    if per_row > 1:
        with_latents = per_row % latents == 0
        parts += [LATENT, per_row // latents] if with_latents else [per_row]
        return Layout(name, (*parts, *one[at + 1 :]))
    after = list(one[at + 1 :])
    if latents in after:
        grown = (
            [] if more is None or len(more) != len(one) else [m != n for m, n in zip(one, more, strict=True)][at + 1 :]
        )
        i = grown.index(True) if sum(grown) == 1 and after[grown.index(True)] == latents else after.index(latents)
        return Layout(name, (*parts, *after[:i], LATENT, *after[i + 1 :]))
    return Layout(name, (*parts, *after))


def candidates(kind: LatentKind, layouts: Sequence[Layout], categories: int) -> Iterator[Place]:
    """All places that noise array 0 could have, the most usual first."""
    for mirrored in (False, True):
        for call, of in enumerate(layouts):
            if not of.by_latent:
                continue
            if kind is not BINARY:
                yield from (Place(call, o, mirrored=mirrored) for o, n in enumerate(of.others) if n == categories)
                continue
            yield Place(call, mirrored=mirrored)
            yield from (Place(call, o, True, mirrored) for o, n in enumerate(of.others) if n == 2)
            if call + 1 < len(layouts) and layouts[call + 1].by_latent:
                yield Place(call, None, True, mirrored)


class Numbers:
    """Exp(1) numbers for the calls of one run of a layer: `draw` of `answers.Answers`."""

    def __init__(self, kind: LatentKind, noise: Tensor, layouts: Sequence[Layout], place: Place | None):
        """`noise` (array, row, latent[, category])"""
        self.kind, self.noise, self.layouts, self.place = kind, noise, layouts, place
        self.rows, self.latents = noise.shape[1], noise.shape[2]
        self.calls = 0
        self.kept: list[Tensor] | None = None  # the numbers of each call, (row, latent, *others), where they are wanted
        self._seeds: Tensor | None = None
        self._pair: Tensor | None = None

    def restart(self) -> None:
        self.calls = 0
        self.kept = None if self.kept is None else []

    def __call__(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        call = self.calls
        self.calls += 1
        of = self.layouts[call] if call < len(self.layouts) else None
        if of is None or of.name != name or math.prod(of.sizes(self.rows, self.latents)) != math.prod(shape):
            raise Refused(
                f"expected the random calls of a layer to be the same each time, got {name} of shape {shape} as call"
                f" {call + 1} (does it draw until something holds?)"
            )
        whole = [self.rows, *[self.latents] * of.by_latent, *of.others]
        e = self._of_call(call, of).reshape(whole)
        if self.kept is not None:
            self.kept.append(e)
        return of.arranged(e, shape)

    def _of_call(self, call: int, of: Layout) -> Tensor:
        """(row, latent, *others), or (row, *others)"""
        count = math.prod(of.others)
        if self.place is None or call not in self.place.calls:
            return self._hashed(call, of.by_latent, count)
        if count == self._placed_numbers(of):
            return self._placed(call, of)
        e = self._hashed(call, of.by_latent, count).reshape(self.rows, self.latents, *of.others)
        first: list[int | slice] = [0] * len(of.others)
        if self.place.other is not None:
            first[self.place.other] = slice(None)
        e[:, :, *first] = self._placed(call, of)
        return e

    def _placed_numbers(self, of: Layout) -> int:
        """How many numbers of a row and latent come from noise array 0."""
        assert self.place is not None
        return 1 if self.place.other is None else of.others[self.place.other]

    def _placed(self, call: int, of: Layout) -> Tensor:
        """(row, latent[, entries along `other`]) from noise array 0."""
        assert self.place is not None
        g = self.noise[0].double()
        if self.kind is not BINARY:
            e = torch.exp(-g)
            return -torch.log(-torch.expm1(-e)) if self.place.mirrored else e
        if not self.place.pair:  # u = sigmoid(n): e = -log u
            return torch.nn.functional.softplus(g if self.place.mirrored else -g)
        if self._pair is None:
            self._pair = self._split(g)
        on, off = self._pair.flip(0) if self.place.mirrored else self._pair
        if self.place.other is not None:
            return torch.stack([on, off], -1)
        return off if call > self.place.call else on

    def _split(self, n: Tensor) -> Tensor:
        """Exp(1) numbers s sigmoid(-n) and s sigmoid(n), s ~ Gamma(2): their Gumbels, -log of them, differ by n."""
        s = self._hashed(len(self.layouts), True, 2).sum(-1)
        return torch.stack([s * torch.sigmoid(-n), s * torch.sigmoid(n)])

    def _hashed(self, call: int, by_latent: bool, count: int) -> Tensor:
        """(row, latent, count) or (row, count) numbers from noise array 1."""
        seeds = self._seeds_of_latents()
        seeds = seeds if by_latent else splitmix64(0, seeds.sum(1))  # the same for any order of the latents
        place = torch.arange(count, device=seeds.device).add_((call + 1) * _APART).expand(*seeds.shape, count).clone()
        return exponentials(seeds[..., None], place)

    def _seeds_of_latents(self) -> Tensor:
        """(row, latent), from the bits of all numbers of noise array 1."""
        if self._seeds is None:
            if len(self.noise) < 2:
                raise Refused("expected two noise arrays, got one")
            bits = self.noise[1].float().contiguous().view(torch.int32).long()
            bits = bits.reshape(self.rows, self.latents, -1)
            at = torch.arange(bits.shape[-1], device=bits.device) * _APART
            self._seeds = splitmix64(0, bits + at).sum(-1)
        return self._seeds


def one_array_is_enough(kind: LatentKind, layouts: Sequence[Layout], place: Place | None, categories: int) -> bool:
    """Whether noise array 0 provides all numbers."""
    if not layouts:
        return True
    if place is None or place.pair or len(layouts) > 1:
        return False
    return math.prod(layouts[0].others) == (1 if kind is BINARY else categories)
