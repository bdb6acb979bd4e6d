"""Promises of an estimator about its functions, and the rule that withdraws them in subclasses.

Callers use promises for short cuts: they share points, leave out noise, or enumerate. An estimator without promises is
correct on every route, but slower. A promise holds for the functions it was made with and for the functions that these
may call. If a subclass overrides one of them, it has to state the promise again; otherwise it makes no promise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ..latents import LatentKind

F = TypeVar("F", bound=Callable)

DESCRIPTIONS = ("name", "formula", "reference", "kinds")  # members that no function of an estimator reads


@dataclass(frozen=True)
class SharedPoints:
    """A promise about the points that `Estimator.points` returns.

    key : for two estimators with the same `points` function, keys are equal exactly if points are equal at equal noise
    codes : all points are codes, none is relaxed
    sample_first : there are several points, and the first is the code hard(l/tf + g)
    all_configurations : the points are all configurations in order
    """

    key: Hashable
    codes: bool = True
    sample_first: bool = False
    all_configurations: bool = False


@dataclass(frozen=True)
class PullBack:
    """The estimate is scale J(soft(a)) v(z): z is the only point, a code, and a = `perturbed(kind, logits, noise)`.

    key : for two estimators with the same `perturbed` function, equal keys mean equal a at equal noise. Callers then
        compute soft(a) once for all tf
    """

    perturbed: Callable[[LatentKind, Tensor, Tensor], Tensor]
    scale: float
    key: Hashable


@dataclass(frozen=True)
class FunctionOfCode:
    """One point z = hard(l/tf + g); the estimate depends only on z and on loss and derivative at z."""


@dataclass(frozen=True)
class Constant:
    """Every draw gives the same estimate."""


@dataclass(frozen=True)
class LeaveOneOut:
    """The points are n codes z_i = hard(l/tf + g_i); estimate (1/tf) 1/(n-1) sum_i (f_i - mean f) (z_i - p)."""

    n: int


@dataclass(frozen=True)
class LatentSummed:
    """The first point is z = hard(l/tf + g), all points are codes; estimate_l = (1/tf) J(p_l) f_l, p = softmax(l/tf).

    f_lk is the loss of z with latent l set to category k.
    """


@dataclass(frozen=True)
class NoiseIntegral:
    """One point, z = hard(l/tf + g); estimate 1/draws sum_i (1/tb) J(softmax(l/tb + power g_i)) v(z).

    g_1 = g where `draws` is 1; else g_i is independent noise that samples the same code: given argmax(l/tf + g_i) = z.
    """

    tb: float
    power: float
    draws: int = 1


ExactMoments = FunctionOfCode | Constant | LeaveOneOut | LatentSummed | NoiseIntegral

# promise -> the functions that it is about, and its replacement if a subclass overrides one of them
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
    """Decorator of a promise that remains valid if a subclass overrides these functions."""

    def mark(promise: F) -> F:
        promise.follows = functions  # type: ignore[attr-defined]
        return promise

    return mark


def withdraw(cls: type, otherwise: dict[str, Any]) -> None:
    """Withdraw every promise of a class whose functions were overridden after the promise was made.

    `otherwise` maps promises to their replacement where that is not a plain value.
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
    """Members that subclasses of the class at depth `made` override, except those that promises name.

    Any function may call them, so they count for every promise. Promises of the base class depend on none of its
    members.
    """
    if "__init_subclass__" in vars(cls.__mro__[made]):
        return set()
    functions = {function for functions, _ in _WITHDRAWN.values() for function in functions}
    named = {*_WITHDRAWN, *DESCRIPTIONS, *functions}
    there = {name for base in cls.__mro__[made:] for name in vars(base)}
    above = [set(vars(base)) - set(vars(base).get("__annotations__", ())) for base in cls.__mro__[:made]]
    return {name for name in there.intersection(set().union(*above)) - named if not name.startswith(("__", "_abc_"))}


def _depth(cls: type, name: str) -> int:
    """Position in the method resolution order of the class that defines a name; the order's length if none does."""
    order = cls.__mro__
    return next((depth for depth, base in enumerate(order) if name in vars(base)), len(order))
