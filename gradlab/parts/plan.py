"""The parts of a measurement. The name of a part is a hash of all that determines its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import __version__, results
from ..methods import Compute
from . import code
from .models import Source

NAME = 32  # hexadecimal digits of a part's name
ONLY_SHOWN = "progress"  # the option of Compute that no number depends on


@dataclass(frozen=True)
class Part:
    """One model at one or several forward temperatures.

    Parameters
    ----------
    model : position of the model among those measured
    label : for messages
    tf, tb : the temperatures
    asked : all else that determines the numbers, as canonical JSON
    more : arguments that other parts do not have
    """

    model: int
    label: str
    tf: tuple[float, ...]
    tb: tuple[float, ...]
    asked: str
    more: tuple[tuple[str, Any], ...] = ()
    version: str = __version__

    @cached_property
    def configuration(self) -> str:
        """What determines the numbers, as canonical JSON."""
        own = {"gradlab": self.version, "tf": self.tf, "tb": self.tb, "more": dict(self.more)}
        return canonical(own | {"asked": json.loads(self.asked)})

    @cached_property
    def name(self) -> str:
        return hashlib.sha256(self.configuration.encode()).hexdigest()[:NAME]

    def __str__(self) -> str:
        return self.label


def asked(kind: str, arguments: Mapping[str, Any], compute: Compute, source: Source, x: Tensor, device: str) -> str:
    """What determines the numbers of a model's parts besides the temperatures, as canonical JSON."""
    return canonical(
        {
            "torch": str(torch.__version__),
            "analysis": kind,
            "arguments": arguments,
            "compute": compute,
            "device": device.partition(":")[0],  # whichever of several GPUs
            "checkpoint": [source.name, source.sha256],  # two of equal content are two
            "code": source.code,
            "estimators": code.of_estimators(),
            "x": [results.tensor_sha256(x), str(x.dtype), list(x.shape)],
        }
    )


def canonical(value: Any) -> str:
    """A value as JSON with sorted keys; objects of methods as their class and fields."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return {"class": type(value).__name__} | {k: v for k, v in fields.items() if k != ONLY_SHOWN}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return value


def by_temperature(part: Part, more: Mapping[str, Any]) -> list[Part]:
    """The parts of one tf each; `more` are arguments besides those of all parts."""
    of = tuple(more.items())
    return [dataclasses.replace(part, label=f"{part.label}, tf {t:g}", tf=(t,), more=of) for t in part.tf]
