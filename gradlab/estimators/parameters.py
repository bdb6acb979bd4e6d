"""Dataclass fields for the parameters of estimators: each has a check of its values, and the range in words.

    class Mine(Estimator):
        n: int = parameters.whole(2, at_least=2)

`Estimator.__post_init__` runs the check, `registry.describe` shows the words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import errors


@dataclass(frozen=True)
class Allowed:
    """The allowed values of a parameter: in words, and as `check(name, value)`, which returns the value or raises."""

    words: str
    check: Callable[[str, Any], Any]
    values: tuple[str, ...] = ()  # all of them, where they are names


def temperature(default: float | None) -> Any:
    """A field for a temperature: a number or, for several models, a tensor that broadcasts with the logits.

    The caller checks the values of a tensor. Reading them here would wait for the device.
    """

    def check(name: str, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point()):
            return errors.temperature(name, value)
        if value.requires_grad:
            raise ValueError(f"{name}: expected numbers that take no gradient, got requires_grad=True; detach")
        return value

    return _field(default, "finite, above 0", check)


def whole(default: int, at_least: int) -> Any:
    """A field for a whole number of at least `at_least`."""
    words = f"whole number, at least {at_least}"
    return _field(default, words, lambda name, value: errors.whole_number(name, value, at_least))


def real(default: float, at_least: float = -math.inf, below: float = math.inf) -> Any:
    """A field for a finite number with at_least <= number < below."""
    bounds = [f"at least {at_least:g}"] * (at_least > -math.inf) + [f"below {below:g}"] * (below < math.inf)
    words = ", ".join([*["finite"] * (len(bounds) < 2), *bounds])

    def check(name: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (good and at_least <= value < below):
            raise ValueError(f"{name}: expected a number, {words}, got {value!r}")
        return float(value)

    return _field(default, words, check)


def bound() -> Any:
    """A finite number above 0, or "none" for no bound, which is the default."""

    def check(name: str, value: Any) -> float | str:
        if value == "none":
            return "none"
        if not (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf):
            raise ValueError(f"{name}: expected a finite number above 0, or none, got {value!r}")
        return float(value)

    return _field("none", "none, or finite above 0", check)


def choice(default: str, among: Sequence[str]) -> Any:
    """A field for one of the names in `among`."""
    check = lambda name, value: errors.choice(name, value, among)  # noqa: E731
    return _field(default, " or ".join(among), check, tuple(among))


def allowed(field: dataclasses.Field) -> Allowed | None:
    """The allowed values of a dataclass field made here; None for any other field."""
    return field.metadata.get("allowed")


def _field(default: Any, words: str, check: Callable[[str, Any], Any], values: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": Allowed(words, check, values)})
