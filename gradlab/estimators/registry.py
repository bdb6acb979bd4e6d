"""Estimators by name: those of gradlab, those registered by hand, and those of installed packages' entry points.

A package offers an estimator by an entry point of the group "gradlab.estimators" with the name of the estimator:

    [project.entry-points."gradlab.estimators"]
    my-estimator = "my_package.module:MyEstimator"

Entry points are loaded once, when a name is unknown or when all names are listed. An entry point that cannot be loaded
is left out; `find` of its name raises an error with the reason.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any, TypeVar

import torch

from .. import errors, specs
from . import dictionary
from . import parameters as fields_of
from .base import Estimator
from .probing import SHAPES

GROUP = "gradlab.estimators"

_CLASSES: dict[str, type[Estimator]] = {}
_BROKEN: dict[str, str] = {}  # entry points that cannot be loaded, by name, with the reason
_looked_up = False
E_ = TypeVar("E_", bound=type[Estimator] | Estimator)


def register(cls: E_) -> E_:
    """Class decorator that makes an estimator, a frozen dataclass, known under its `name`; returns the class.

    Takes an instance too, as `from_layer` makes it, and makes its class known.

    Raises ValueError if the name is taken, or if the class is no Estimator or needs arguments.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @gradlab.estimators.register
    ... @dataclass(frozen=True, kw_only=True)
    ... class Plain(gradlab.estimators.Estimator):
    ...     name, unbiased, uses = "plain", True, ("loss",)
    ...     def estimate(self, kind, logits, noise, points, loss, derivative):
    ...         return loss[0][..., None, None] * (points[0] - kind.soft(logits / self.tf)) / self.tf
    >>> gradlab.estimators.get("plain", tf=0.5)
    Plain(tf=0.5)
    """
    if isinstance(cls, Estimator):
        register(type(cls))
        return cls
    if not (isinstance(cls, type) and issubclass(cls, Estimator)):
        raise ValueError(f"cls: expected a subclass of gradlab.estimators.Estimator, got {cls!r}")
    if not isinstance(getattr(cls, "name", None), str):
        raise ValueError(f"{cls.__qualname__}: expected a name, a text in the class body, got none")
    try:
        cls()
    except TypeError as error:
        raise ValueError(f"{cls.__qualname__}: expected a default for every parameter, got {error}") from None
    if _identity(_CLASSES.get(cls.name, cls)) != _identity(cls):
        raise ValueError(f"name: expected a free name, got {cls.name!r}, which {_CLASSES[cls.name].__qualname__} has")
    _CLASSES[cls.name] = cls
    return cls


def names() -> list[str]:
    """Names of all known estimators, sorted, including those of entry points that can be loaded.

    Examples
    --------
    >>> "rloo" in gradlab.estimators.names()
    True
    """
    _look_up()
    return sorted(_CLASSES)


def find(name: str) -> type[Estimator]:
    """The estimator class of a name.

    Raises UnknownName, a ValueError that lists similar names, or ValueError if the entry point cannot be loaded.

    Examples
    --------
    >>> gradlab.estimators.find("reinmax").__name__
    'ReinMax'
    """
    if not isinstance(name, str):
        raise errors.unknown_name("estimator", name, names())
    if name not in _CLASSES:
        _look_up()
    if name in _CLASSES:
        return _CLASSES[name]
    if name in _BROKEN:
        raise ValueError(f"estimator: expected an entry point that can be loaded, got {name!r} ({_BROKEN[name]})")
    raise errors.unknown_name("estimator", name, _CLASSES)


def get(name: str, **parameters: Any) -> Estimator:
    """The estimator of a name, with parameters: `get("st-gs", tf=0.5, convention="jang")`.

    Raises ValueError for an unknown name or parameter, with similar names, and for a value out of range.

    Examples
    --------
    >>> gradlab.estimators.get("st-gs", tf=0.5, convention="jang").tf
    0.5
    """
    cls = find(name)
    known = [field.name for field in dataclasses.fields(cls)]
    for given in parameters:
        if given not in known:
            raise errors.unknown_name(f"estimator {name}", given, known)
    return cls(**parameters)


def is_built_in(estimator: Estimator) -> bool:
    """Whether the estimator's class is part of gradlab; False for subclasses and third-party estimators.

    Examples
    --------
    >>> gradlab.estimators.is_built_in(gradlab.estimators.get("rloo"))
    True
    """
    cls = type(estimator)
    return _CLASSES.get(cls.name) is cls and cls.__module__.startswith(f"{__package__}.")


def parse(text: str) -> Estimator:
    """The estimator that a text describes: `st-gs`, `st-gs:convention=jang`, or a label `st-gs(convention=jang)`.

    Layers of other packages go by their names there: `torch:gumbel-softmax(tau=0.5, hard=True)`.

    Raises ValueError for an unknown name or parameter, or a parameter without a value.

    Examples
    --------
    >>> gradlab.estimators.parse("rloo:n=4").n
    4
    >>> gradlab.estimators.parse("torch:gumbel-softmax(tau=0.5, hard=True)").label
    'st-gs(convention=jang)'
    """
    if not isinstance(text, str):
        raise errors.unknown_name("estimator", text, names())
    if dictionary.is_word(text):
        of = dictionary.meaning(text)
        tf = 1.0 if of.tf is None else of.tf
        return parse(of.entry).at(tf, tf if of.tb is None else of.tb)
    name, parameters = specs.parts(text)
    return get(name, **parameters)


def describe(*texts: str) -> list[dict[str, Any]]:
    """One dict of plain values per estimator: all at their default parameters, or those in `texts`.

    `parameters` holds the defaults, and `ranges` the allowed values in words. `evaluations` is the number of losses per
    draw, "all configurations", or "by size" if it depends on latents and categories.

    Examples
    --------
    >>> [(row["parameters"], row["unbiased"]) for row in gradlab.estimators.describe() if row["name"] == "rloo"]
    [({'tf': 1.0, 'n': 2}, True)]
    """
    rows = []
    for default in map(parse, texts or names()):
        cls, parameters = type(default), default.parameters
        if "tb" in parameters and default.tb == default.tf:  # type: ignore[attr-defined]
            parameters["tb"] = "tf"
        allowed = {f.name: fields_of.allowed(f) for f in dataclasses.fields(cls)}
        rows.append(
            {
                "name": cls.name,
                "formula": cls.formula,
                "parameters": parameters,
                "ranges": {key: known.words if known else "" for key, known in allowed.items()},
                "latents": list(cls.kinds),
                "unbiased": cls.unbiased,
                "uses_loss": default.uses_loss,
                "uses_derivative": default.uses_derivative,
                "code_only": default.code_only,
                "discrete_points": default.discrete_points,
                "noise_arrays": default.noise_arrays,
                "evaluations": _evaluations(default),
                "reference": cls.reference,
            }
        )
    return rows


def _evaluations(estimator: Estimator) -> int | str:
    if estimator.all_configurations:
        return "all configurations"
    kind, shape = SHAPES[estimator.kinds[0]]
    small, large = (estimator.evaluations_at(kind, torch.empty(1, *(n + more for n in shape))) for more in (0, 1))
    return small if small == large else "by size"


def _identity(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__  # equal for the same class from a reloaded module


def _look_up() -> None:
    """Register the estimators of entry points, once; remember those that fail."""
    global _looked_up
    if _looked_up:
        return
    _looked_up = True
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            cls = register(point.load())
            if cls.name != point.name:
                _BROKEN[point.name] = f"{point.value} is called {cls.name!r}; the two names must be the same"
        except Exception as error:  # a third-party module may raise any error on import
            _BROKEN[point.name] = f"{point.value}: {type(error).__name__}: {error}"
