"""State dicts as people save them: inside a checkpoint, and with the prefixes of what wrapped the model.

torch.compile adds `_orig_mod`, DataParallel `module`, at the front or inside a name; training scripts and Lightning
modules add `model` at the front. What may be meant in two ways is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_WRAPPERS = {"_orig_mod", "module"}  # anywhere in a name
_FRONT = "model"


def own_names(own: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """For each name in a file, the model's name of that tensor, or the name itself where the model has none.

    Raises ValueError where two names are one without what wrappers add.
    """
    own, there = list(own), list(there)
    if set(there) <= set(own):
        return {name: name for name in there}
    plain_own = _by_plain_name(own)
    plain = {name: _plain(name) for name in there}
    known = {name for name in own if name.startswith(f"{_FRONT}.")}
    while not known and plain and all(name.startswith(f"{_FRONT}.") for name in plain.values()):
        plain = {name: short.removeprefix(f"{_FRONT}.") for name, short in plain.items()}
    taken: dict[str, str] = {}
    for name, short in plain.items():
        if short in taken:
            raise ValueError(f"expected one name for each tensor, got {taken[short]} and {name}, which mean the same")
        taken[short] = name
    return {name: plain_own.get(short, short) for name, short in plain.items()}


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _by_plain_name(own: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in own:
        short = _plain(name)
        if short in found:
            raise ValueError(
                f"expected names that differ by more than module and _orig_mod, got {found[short]} and {name} in the"
                " model"
            )
        found[short] = name
    return found


def state_dict(found: Any, own: Iterable[str]) -> dict[str, Tensor] | None:
    """The state dict in a checkpoint, a dict of such things as epochs and state dicts; None if there is none.

    Of several the one whose names are the model's. Raises ValueError if that is not one.
    """
    if not isinstance(found, Mapping):
        return None
    if found and all(isinstance(value, Tensor) for value in found.values()):
        return {str(name): tensor for name, tensor in found.items()}
    inside = {str(key): value for key, value in found.items() if _of_tensors(value)}
    if len(inside) > 1:
        fitting = {key: value for key, value in inside.items() if _fits(value, own)}
        if len(fitting) != 1:
            listed = ", ".join(fitting or inside)
            raise ValueError(
                f"expected one state dict that fits the model, got {len(fitting) or 'none'} of {listed}; save one of"
                " them: torch.save(checkpoint[NAME], FILE)"
            )
        inside = fitting
    for value in inside.values():
        return {str(name): tensor for name, tensor in value.items()}
    return None


def _of_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def _fits(value: Mapping[str, Tensor], own: Iterable[str]) -> bool:
    own = list(own)
    try:
        return set(own_names(own, map(str, value)).values()) <= set(own)
    except ValueError:
        return False
