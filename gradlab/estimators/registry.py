"""Estimators by name."""

from __future__ import annotations

import ast
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


def parse(text: str) -> Estimator:
    """An estimator written as on the command line, `st-gs` or `st-gs:convention=jang`.

    Raises ValueError for an unknown name or parameter, or one without a value.
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"estimator: got {text!r}; write parameters as name:key=value,key=value")
        try:
            parameters[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            parameters[key.strip()] = value.strip()
    return get(name, **parameters)


def describe() -> list[dict[str, Any]]:
    """What is known of every estimator, as plain values."""
    rows = []
    for name in names():
        cls = _CLASSES[name]
        default = cls()
        parameters = {f.name: "tf" if f.name == "tb" else f.default for f in dataclasses.fields(cls)}
        rows.append(
            {
                "name": name,
                "formula": cls.formula,
                "parameters": parameters,
                "latents": list(cls.kinds),
                "unbiased": cls.unbiased,
                "uses_loss": cls.uses_loss,
                "uses_derivative": cls.uses_derivative,
                "code_only": cls.code_only,
                "evaluations": default.evaluations,
                "reference": cls.reference,
            }
        )
    return rows
