"""What an estimator may promise of its functions, and what becomes of a promise that a subclass does not repeat.

Callers take short cuts on promises: they share points, leave out the noise, enumerate. An estimator that promises
nothing is right on every route, only slower. A promise holds for the functions it was made with, and for all that these
may call: a class that overrides one of them and does not state the promise again makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ..latents import LatentKind

F = TypeVar("F", bound=Callable)

DESCRIPTIONS = ("name", "formula", "reference", "kinds")  # which no function of an estimator reads


@dataclass(frozen=True)
class SharedPoints:
    """Which points `Estimator.points` gives.

    key : equal for two estimators of the same `points` exactly if, at equal noise, their points are equal
    codes : all points are codes, none is relaxed
    sample_first : several points, the first of them the one code hard(l/tf + g)
    all_configurations : the points are the configurations in their order
    """

    key: Hashable
    codes: bool = True
    sample_first: bool = False
    all_configurations: bool = False


@dataclass(frozen=True)
class PullBack:
    """The estimate is scale J(soft(a)) v(z): z is the only point, a code, and a = `perturbed(kind, logits, noise)`.

    key : equal for two estimators of the same `perturbed` only if, at equal noise, they have equal a; callers then
        compute soft(a) once for all their tf
    """

    perturbed: Callable[[LatentKind, Tensor, Tensor], Tensor]
    scale: float
    key: Hashable


@dataclass(frozen=True)
class FunctionOfCode:
    """One point, z = hard(l/tf + g), and the estimate is a function of it, and of loss and derivative there, alone."""


@dataclass(frozen=True)
class Constant:
    """Every draw gives the same estimate."""


@dataclass(frozen=True)
class LeaveOneOut:
    """The points are n codes z_i = hard(l/tf + g_i); estimate (1/tf) 1/(n-1) sum_i (f_i - mean f) (z_i - p)."""

    n: int


@dataclass(frozen=True)
class NoiseIntegral:
    """One point, z = hard(l/tf + g); estimate 1/draws sum_i (1/tb) J(softmax(l/tb + power g_i)) v(z).

    g_1 = g where `draws` is 1; else g_i is independent noise that samples the same code: given argmax(l/tf + g_i) = z.
    """

    tb: float
    power: float
    draws: int = 1


ExactMoments = FunctionOfCode | Constant | LeaveOneOut | NoiseIntegral

# promise -> the functions it speaks of, and what stands in its place where one of them is overridden later
_WITHDRAWN: dict[str, tuple[tuple[str, ...], Any]] = {
    "shared_points": (("points",), None),
    "same_at_every_tf": (("perturbed",), False),
    "pull_back": (("estimate", "scale", "perturbed"), None),
    "exact_moments": (("points", "estimate", "scale", "perturbed"), None),
    "unbiased": (("points", "estimate", "scale", "perturbed"), False),
    "uses": (("estimate",), ("loss", "derivative")),
    "noise_arrays": (("points", "estimate", "perturbed"), None),
}


def follows(*functions: str) -> Callable[[F], F]:
    """Decorator of a promise that keeps up with these functions, whoever overrides them."""

    def mark(promise: F) -> F:
        promise.follows = functions  # type: ignore[attr-defined]
        return promise

    return mark


def withdraw(cls: type, otherwise: dict[str, Any]) -> None:
    """Set every promise of a class whose functions were overridden since it was made.

    `otherwise` gives what stands in the place of promises that are no plain values.
    """
    for promise, (functions, value) in _WITHDRAWN.items():
        made = _depth(cls, promise)
        if made == len(cls.__mro__):
            continue
        stated = vars(cls.__mro__[made])[promise]
        kept_up_with = getattr(getattr(stated, "fget", None), "follows", ())
        overridden = any(_depth(cls, function) < made for function in functions if function not in kept_up_with)
        if overridden or _helpers_overridden(cls, made):
            setattr(cls, promise, otherwise.get(promise, value))


def _helpers_overridden(cls: type, made: int) -> set[str]:
    """Members that classes before the one of depth `made` in the order override, but for those that promises name.

    Which functions call them is not known. What the protocol's base promises rests on no member that it has.
    """
    if "__init_subclass__" in vars(cls.__mro__[made]):
        return set()
    functions = {function for functions, _ in _WITHDRAWN.values() for function in functions}
    named = {*_WITHDRAWN, *DESCRIPTIONS, *functions}
    there = {name for base in cls.__mro__[made:] for name in vars(base)}
    above = [set(vars(base)) - set(vars(base).get("__annotations__", ())) for base in cls.__mro__[:made]]
    return {name for name in there.intersection(set().union(*above)) - named if not name.startswith(("__", "_abc_"))}


def _depth(cls: type, name: str) -> int:
    """How far up the method resolution order the class lies that defines a name; its length if none does."""
    order = cls.__mro__
    return next((depth for depth, base in enumerate(order) if name in vars(base)), len(order))
