"""Attributes of a file: plain numbers, texts, and lists of these, which any HDF5 reader understands.

Settings are one attribute each: `settings.epochs`, `settings.config.latents`. What is None is left out, truth values
are 0 and 1. A list of one is that one, since that is what a file gives back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NESTED = ("settings", "tracking", "training")


def flattened(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as attributes NAME.KEY and NAME.KEY.KEY."""
    found: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, Mapping):
            found |= flattened(f"{name}.{key}", value)
        elif value is not None:
            found[f"{name}.{key}"] = stored(value)
    return found


def nested(attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings that `flattened` took apart, as plain values."""
    found: dict[str, Any] = {}
    for key, value in attributes.items():
        if str(key).startswith(f"{name}."):
            *outer, last = str(key).split(".")[1:]
            into = found
            for part in outer:
                into = into.setdefault(part, {})
            into[last] = plain(value)
    return found


def stored(value: Any) -> Any:
    """A value as a file gives it back."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list | tuple):
        return stored(value[0]) if len(value) == 1 else [stored(one) for one in value]
    return value


def plain(value: Any) -> Any:
    """Numpy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def texts(value: Any) -> list[str]:
    """An attribute that is a text, or several, as a list."""
    return [value] if isinstance(value, str) else [str(one) for one in plain(value)]


def numbers(value: Any) -> list[Any]:
    """An attribute that is a number, or several, as a list."""
    value = plain(value)
    return list(value) if isinstance(value, list | tuple) else [value]


def of_parameters(parameters: Mapping[str, Any]) -> str:
    """An estimator's parameters, as they are written on the command line: "n=4,eta=1"."""
    return ",".join(f"{name}={value}" for name, value in parameters.items())


def of_groups(sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Groups of latents: their names, and how many latents and categories each has."""
    latents, categories = zip(*sizes.values(), strict=True)
    return {
        "group_names": stored(list(sizes)),
        "group_latents": stored(list(latents)),
        "group_categories": stored(list(categories)),
    }


def groups(attributes: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Name, latents and categories of each group; none where there are no groups."""
    if "group_names" not in attributes:
        return []
    counts = (numbers(attributes[f"group_{of}"]) for of in ("latents", "categories"))
    return list(zip(texts(attributes["group_names"]), *counts, strict=True))


def of_candidates(over: Mapping[str, float]) -> dict[str, Any]:
    """References that were tried, and the variance of each over the smallest."""
    return {
        "reference_candidates": stored(list(over)),
        "reference_candidate_variances": stored([float(value) for value in over.values()]),
    }


def of_enumerated(where: Mapping[str, Sequence[float]]) -> Any:
    """Of which estimators, and at which tf, moments were enumerated and not drawn."""
    return stored([f"{label} at tf = {', '.join(f'{tf:g}' for tf in tfs)}" for label, tfs in where.items()])


def joined_enumerated(each: Sequence[Any]) -> Any:
    """`of_enumerated` of several measurements, at other tf each."""
    where: dict[str, list[str]] = {}
    for text in (text for given in each for text in texts(given)):
        label, _, tfs = text.rpartition(" at tf = ")
        where.setdefault(label, []).extend(tfs.split(", "))
    return stored([f"{label} at tf = {', '.join(tfs)}" for label, tfs in where.items()])


def upgraded(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of earlier versions, which held lists and settings as texts of JSON, as this one writes them."""
    found = dict(attributes)
    for name in NESTED:
        if isinstance(given := found.get(name), str) and (given == "null" or isinstance(_json(given), dict)):
            del found[name]
            found |= flattened(name, _json(given) or {})
    for name in ("estimator", "evaluations"):
        if isinstance(given := found.get(name), str):
            found[name] = stored(_json(given, given))
    if isinstance(given := _json(found.get("estimator_parameters")), list):
        found["estimator_parameters"] = stored([of_parameters(one) for one in given])
    for name, of in (("groups", of_groups), ("reference_candidates", of_candidates)):
        if isinstance(given := _json(found.get(name)), dict):
            del found[name]
            found |= of(given)
    if isinstance(given := _json(found.get("moments_enumerated")), dict):
        found["moments_enumerated"] = of_enumerated(given)
    return found


def _json(text: Any, otherwise: Any = None) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return otherwise
