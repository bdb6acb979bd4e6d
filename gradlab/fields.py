"""Fields of dataclasses that are options: what they are for and which values they take. Imports no torch.

    class Mine(Checked):
        draws: int = option(1024, "Estimates per point.", at_least=2)

`Checked` refuses other values, and the command line makes `--draws` of it.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import errors, schedules


@dataclass(frozen=True)
class About:
    """What is known of a field: its help text, the values it takes, and its name on the command line."""

    words: str
    choices: tuple[str, ...] = ()
    at_least: int | None = None
    because: str = ""  # why at least that
    beside: str = ""  # another field, without which this one has no effect
    called: str = ""  # on the command line, where not as the field is
    kind: str = ""  # of the text on the command line, where the type does not say it, such as "size", bytes and a unit


class Option(NamedTuple):
    """A field that is an option."""

    name: str
    default: Any
    of: type  # of its values, None left out
    about: About


def option(default: Any, words: str, choices: Sequence[str] = (), **about: Any) -> Any:
    """A field with its default, help text and, where it is one of some names, these; `about` as in `About`."""
    return dataclasses.field(default=default, metadata={"option": About(words, tuple(choices), **about)})


@functools.cache
def options(cls: type) -> tuple[Option, ...]:
    """The fields of a dataclass that `option` made."""
    hints = typing.get_type_hints(cls)
    return tuple(
        Option(field.name, field.default, _type(hints[field.name]), field.metadata["option"])
        for field in dataclasses.fields(cls)
        if "option" in field.metadata
    )


def _type(hint: Any) -> type:
    return next(one for one in (*typing.get_args(hint), hint) if one is not type(None))


class Checked:
    """Base of dataclasses whose options take the values that `option` says, and no others.

    Raises ValueError for another value, and for an option without effect.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for one in options(cls):
            value = getattr(self, one.name)
            if value is not None or one.default is not None:
                object.__setattr__(self, one.name, _checked(one, value))
            beside = one.about.beside
            if beside and value != one.default and getattr(self, beside) is None:
                raise ValueError(f"{one.name}: expected {beside} beside it, got {value} without any")


def _checked(one: Option, value: Any) -> Any:
    name, about = one.name, one.about
    if about.kind == "ensemble" and value == "auto":
        return value
    if about.kind == "schedule":
        return schedules.setting(name, value)
    if about.choices:
        return errors.choice(name, str(value).removeprefix("torch."), about.choices)
    if one.of is bool and not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    if one.of is int:
        return errors.whole_number(name, value, about.at_least or 0, about.because)
    return errors.positive(name, value) if one.of is float else value
