"""An estimator in a text: `rloo:n=4` as on the command line, or `rloo(n=4)`, the label that results print.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any


def parts(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters. Raises ValueError for a parameter without a value."""
    name, pairs = _split(text)
    return name, {key: _value(value) for key, value in pairs}


def canonical(text: str) -> str:
    """The one form `name:key=value,key=value`. Raises ValueError for a parameter without a value."""
    name, pairs = _split(text)
    return ":".join([name, *[",".join(f"{key}={value}" for key, value in pairs)] * bool(pairs)])


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    label = re.fullmatch(r"([^():]+)\((.*)\)", text)
    name, _, rest = text.partition(":") if label is None else (label[1], "", label[2])
    pairs = []
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"estimator: expected parameters as name:key=value,key=value, got {text!r}")
        pairs.append((key.strip(), value.strip()))
    return name.strip(), pairs


def _value(text: str) -> Any:
    """A whole number, a number, True or False, else the text itself, without quotes. Nothing is evaluated."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return {"True": True, "False": False}.get(text, text)
