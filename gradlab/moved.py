"""Keyword arguments that moved into a method object are refused, with the line to write in their place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from .errors import Moved

F = TypeVar("F", bound=Callable[..., Any])


def moved(now: Mapping[str, str]) -> Callable[[F], F]:
    """Decorator of a function whose keywords `now` maps to what replaces them, {} standing for the value given.

    The signature stays that of the function. Raises errors.Moved, a ValueError and a TypeError.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            for name in keywords.keys() & now.keys():
                cure = now[name].format(repr(keywords[name]))
                raise Moved(f"{name}: expected no such argument of {function.__name__}; write {cure}")
            return function(*arguments, **keywords)

        return cast(F, checked)

    return decorate
