"""The analyses, by name. One that is decorated with `analysis` is listed, run by `--all`, judged and drawn.

Imports no torch: names are read from the source of the modules, which are imported when their analysis is used.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gradlab import errors

from .protocol import BUDGETS, Analysis
from .run_options import FIELDS

_KNOWN: dict[str, Analysis] = {}
_DECORATED = re.compile(r'^@analysis\("([\w-]+)"', re.MULTILINE)
METHODS = ("cost", "measure", "judge", "draw")
Class = TypeVar("Class", bound=type[Any])


def analysis(name: str, *, takes: Sequence[str], also_from: Sequence[str] = ()) -> Callable[[Class], Class]:
    """Class decorator: makes an analysis known under a name; see `protocol.Analysis` for what the class has.

    Parameters
    ----------
    name : letters, digits and hyphens; its results are NAME-BUDGET.h5
    takes : the fields of RunOptions that it heeds; others are refused
    also_from : analyses whose results it can be judged from too

    Raises
    ------
    ValueError
        A name that is taken or no name, a field that does not exist, or a class that is no analysis.
    """
    for field in takes:
        errors.choice("takes", field, FIELDS)
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name: expected letters, digits and hyphens, got {name!r}")

    def decorate(cls: Class) -> Class:
        missing = [method for method in METHODS if not callable(getattr(cls, method, None))]
        if missing:
            raise ValueError(f"{cls.__qualname__}: expected the methods {', '.join(METHODS)}, got no {missing[0]}")
        known = _KNOWN.get(name)
        if known is not None and _identity(type(known)) != _identity(cls):
            raise ValueError(f"name: expected a new one, got {name!r} of {type(known).__qualname__}")
        cls.name, cls.takes, cls.also_from, cls.claim = name, tuple(takes), tuple(also_from), _claim(cls)
        _KNOWN[name] = cls()
        return cls

    return decorate


def _identity(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__  # the same class once more, from a module that was reloaded


def _claim(cls: type) -> str:
    """The first line of the docstring of a class or of its module, without a title before a colon."""
    words = (cls.__doc__ or sys.modules[cls.__module__].__doc__ or "").strip()
    if not words:
        raise ValueError(f"{cls.__qualname__}: expected a docstring that opens with the claim, got none")
    first = words.splitlines()[0]
    return first.partition(": ")[2] or first


@functools.cache
def modules() -> dict[str, str]:
    """Names of the analyses of this package, and the modules that they are in."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for name in _DECORATED.findall(path.read_text(encoding="utf-8")):
            found[name] = path.stem
    return found


def names() -> list[str]:
    """The analyses of this package, those of the paper first."""
    return sorted(modules(), key=lambda name: (not name.startswith(("figure", "table")), name))


def find(name: str) -> Analysis:
    """The analysis of a name. Raises UnknownName, a ValueError, with the near matches."""
    if name not in _KNOWN and name in modules():
        importlib.import_module(f".{modules()[name]}", __package__)
    if name not in _KNOWN:
        raise errors.unknown_name("analysis", name, names())
    return _KNOWN[name]


def of(thing: object, where: str) -> Analysis:
    """The analysis that a class or an instance is. Raises ValueError for one that `analysis` does not decorate."""
    cls = thing if isinstance(thing, type) else type(thing)
    known = _KNOWN.get(getattr(cls, "name", ""))
    if known is None or type(known) is not cls:
        raise ValueError(f"analysis: expected a class decorated with gradlab.analyses.analysis, got {where}")
    return known


__all__ = ["BUDGETS", "analysis", "find", "modules", "names", "of"]
