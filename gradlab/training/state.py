"""The file of an interrupted training: its identity and the state of the optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attributes import flattened, nested

PER_PARAMETER = {"step", "exp_avg", "exp_avg_sq"}  # of every optimizer in OPTIMIZERS
_PREFIX = "optimizer."


def difference(asked: dict[str, Any], there: dict[str, Any]) -> str:
    """The difference between two descriptions (`Run.about`) as text, or "" if they are of the same training."""
    scheduled = any(isinstance(asked["settings"][name], str) for name in ("tf", "tb"))
    wanted, found = _identity(asked, scheduled), _identity(there, scheduled)
    other = [f"{k} {found.get(k)} (asked: {wanted[k]})" for k in wanted if wanted[k] != found.get(k)]
    if not other:
        return ""
    spread = wanted.get("epochs") != found.get("epochs")
    because = " (a temperature schedule is spread over all epochs)" if spread else ""
    return f"was trained with {', '.join(other)}; give the same settings{because}"


def _identity(about: dict[str, Any], scheduled: bool) -> dict[str, Any]:
    """What identifies a training. `epochs` only with a schedule: otherwise a training may be extended."""
    plain = nested(flattened("about", about), "about")  # as a file gives it back
    images = {f"{k} {of}": plain[k][of] for k in ("data", "validation") for of in ("sha256", "images")}
    return {k: v for k, v in plain["settings"].items() if k != "epochs" or scheduled} | images


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of the optimizer as named tensors."""
    states = optimizer.state_dict()["state"].items()
    return {f"{_PREFIX}{index}.{key}": value for index, values in states for key, value in values.items()}


def into_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restores the state from `of_optimizer`. Raises ValueError or IndexError for tensors that do not fit."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, value in tensors.items():
        if name.startswith(_PREFIX):
            _, index, key = name.split(".")
            if value.shape not in (torch.Size([]), parameters[int(index)].shape):
                raise ValueError(
                    f"expected shape {tuple(parameters[int(index)].shape)} for {name}, got {tuple(value.shape)}"
                )
            whole["state"].setdefault(int(index), {})[key] = value
    if any(set(state) != PER_PARAMETER for state in whole["state"].values()):
        raise ValueError(f"expected the optimizer's state {sorted(PER_PARAMETER)}, got another")
    optimizer.load_state_dict(whole)
