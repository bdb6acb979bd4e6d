"""Random numbers as functions of a key and a position, for any order and any number at a time."""

from __future__ import annotations

from torch import Tensor

_INCREMENT, _FIRST, _SECOND = (
    of - 2**64 for of in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # of SplitMix64, as torch's signed numbers


def exponentials(key: int | Tensor, place: Tensor) -> Tensor:
    """Exp(1) numbers, float64, at places of the stream `key`; `place` is overwritten. 52 random bits each."""
    bits = splitmix64(key, place)
    return _shifted(bits, 12).double().add_(0.5).mul_(2.0**-52).log_().neg_()


def splitmix64(key: int | Tensor, place: Tensor) -> Tensor:
    """64 random bits at each place of the stream `key` (Steele, Lea, Flood 2014), in its place."""
    z = place.add_(1).mul_(_INCREMENT).add_(key)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        z.bitwise_xor_(_shifted(z, shift)).mul_(factor)
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(z: Tensor, by: int) -> Tensor:
    """z >> by, with zeros for the sign."""
    return (z >> by).bitwise_and_(2 ** (64 - by) - 1)
