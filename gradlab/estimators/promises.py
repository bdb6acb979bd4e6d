"""What estimators promise of their functions, and what becomes of a promise that a subclass does not repeat.

Callers take short cuts on promises: they share points, leave out the noise, enumerate. A promise holds for the
functions it was made with, and for all that these may call. A class that overrides one of them and does not state the
promise again makes none, so that nothing is taken for granted: it costs time, and never a wrong figure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)

# what no function of an estimator reads
DESCRIPTIONS = ("name", "formula", "reference", "kinds", "unbiased", "uses_loss", "uses_derivative", "discrete_points")


def own_points(estimator: Any) -> Hashable:
    """A key of points that no other estimator has."""
    return type(estimator), estimator


def jacobian_of_relaxation(self: Any, kind: Any, logits: Any, noise: Any) -> Any:
    """J(q) as `kind.pull` takes it."""
    return kind.jacobian_of(self.relaxation(kind, logits, noise))


_Q = ("relaxation", "perturbed", "jacobian")

# promise -> the functions it speaks of, and what stands in its place where one of them is overridden later
PROMISES: dict[str, tuple[tuple[str, ...], Any]] = {
    "forward": (("points",), property(own_points)),
    "backward": (("estimate", "scale", *_Q), None),
    "jacobian": (("relaxation",), jacobian_of_relaxation),
    "noise_free": (("points", "estimate", *_Q), False),
    "all_configurations": (("points",), False),
    "samples_first": (("points",), False),
    "code_only": (("points", "estimate", *_Q), False),
}


def follows(*functions: str) -> Callable[[F], F]:
    """Decorator of a promise that keeps up with these functions, whoever overrides them."""

    def mark(promise: F) -> F:
        promise.follows = functions  # type: ignore[attr-defined]
        return promise

    return mark


def withdraw(cls: type) -> None:
    """Set every promise of a class whose functions were overridden since it was made."""
    for promise, (functions, otherwise) in PROMISES.items():
        stated = vars(cls.__mro__[_depth(cls, promise)])[promise]
        kept_up_with = getattr(getattr(stated, "fget", None), "follows", ())
        if not holds(cls, promise, *(function for function in functions if function not in kept_up_with)):
            setattr(cls, promise, otherwise)


def holds(cls: type, promise: str, *functions: str) -> bool:
    """Whether none of the functions, nor what they may call, was overridden since the promise was made."""
    made = _depth(cls, promise)
    return all(_depth(cls, function) >= made for function in functions) and not _helpers_overridden(cls, made)


def _helpers_overridden(cls: type, made: int) -> set[str]:
    """Members that classes before the one of depth `made` in the order override, but for those that promises name.

    Which functions call them is not known. What the protocol's base promises rests on no member that it has.
    """
    if "__init_subclass__" in vars(cls.__mro__[made]):
        return set()
    named = {*PROMISES, *DESCRIPTIONS, *(function for functions, _ in PROMISES.values() for function in functions)}
    there = {name for base in cls.__mro__[made:] for name in vars(base)}
    above = [set(vars(base)) - set(vars(base).get("__annotations__", ())) for base in cls.__mro__[:made]]
    return {name for name in there.intersection(set().union(*above)) - named if not name.startswith(("__", "_abc_"))}


def _depth(cls: type, name: str) -> int:
    """How far up the method resolution order the class lies that defines a name; its length if none does."""
    order = cls.__mro__
    return next((depth for depth, base in enumerate(order) if name in vars(base)), len(order))
