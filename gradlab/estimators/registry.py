"""Estimators by name."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from .. import errors
from .base import Estimator

_CLASSES: dict[str, type[Estimator]] = {}
E_ = TypeVar("E_", bound=type[Estimator])


def register(cls: E_) -> E_:
    """Class decorator: makes an estimator known under its `name`.

    Raises ValueError if the name is taken.
    """
    if _CLASSES.get(cls.name, cls).__qualname__ != cls.__qualname__:
        raise ValueError(f"name: {cls.name!r} is taken by {_CLASSES[cls.name].__qualname__}; choose another")
    _CLASSES[cls.name] = cls
    return cls


def names() -> list[str]:
    """Names of all known estimators, sorted."""
    return sorted(_CLASSES)


def find(name: str) -> type[Estimator]:
    """The estimator class of a name; UnknownName (a ValueError) with the near matches otherwise."""
    if name not in _CLASSES:
        raise errors.unknown_name("estimator", name, _CLASSES)
    return _CLASSES[name]


def get(name: str, **parameters: Any) -> Estimator:
    """An estimator by name, `get("st-gs", tf=0.5, convention="jang")`.

    Raises ValueError for an unknown name or parameter, with the near matches.
    """
    cls = find(name)
    known = [field.name for field in dataclasses.fields(cls)]
    for given in parameters:
        if given not in known:
            raise errors.unknown_name(f"estimator {name}", given, known)
    return cls(**parameters)
