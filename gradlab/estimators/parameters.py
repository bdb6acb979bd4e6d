"""Fields of estimators that say which values they take: dataclass fields with the range in words and its check.

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
    """The values a parameter may take: in words, and as `check(name, value)`, the value or a ValueError."""

    words: str
    check: Callable[[str, Any], Any]


def temperature(default: float | None) -> Any:
    """A temperature: a number or, for several models at once, a tensor that broadcasts with the logits.

    A tensor's values are not read, so that no device is waited for: whoever makes it checks them.
    """

    def check(name: str, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point()):
            return errors.temperature(name, value)
        if value.requires_grad:
            raise ValueError(f"{name}: expected numbers that take no gradient, got requires_grad=True; detach")
        return value

    return _field(default, "finite, above 0", check)


def whole(default: int, at_least: int) -> Any:
    """A whole number of at least `at_least`."""
    words = f"whole number, at least {at_least}"
    return _field(default, words, lambda name, value: errors.whole_number(name, value, at_least))


def real(default: float, at_least: float = -math.inf, below: float = math.inf) -> Any:
    """A finite number with at_least <= number < below."""
    bounds = [f"at least {at_least:g}"] * (at_least > -math.inf) + [f"below {below:g}"] * (below < math.inf)
    words = ", ".join(["finite", *bounds])

    def check(name: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (good and at_least <= value < below):
            raise ValueError(f"{name}: expected a number, {words}, got {value!r}")
        return float(value)

    return _field(default, words, check)


def choice(default: str, among: Sequence[str]) -> Any:
    """One of some names."""
    return _field(default, " or ".join(among), lambda name, value: errors.choice(name, value, among))


def allowed(field: dataclasses.Field) -> Allowed | None:
    """What a dataclass field made here takes; None for one that was not."""
    return field.metadata.get("allowed")


def _field(default: Any, words: str, check: Callable[[str, Any], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": Allowed(words, check)})
