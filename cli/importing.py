"""What a user names in a module of their own, MODULE:NAME. Importing a module executes its code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def contents(argument: str, module: str, known: str = "") -> dict[str, Any]:
    """Names and values of a module of the current folder or the environment; ValueError, in one line, where none is.

    `argument` is what the message begins with, `known` says where names that need no module are listed.
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` does; the script's own folder stands there otherwise
    try:
        return vars(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            message = f"no module {error.name!r} in the current folder or in the environment"
            raise ValueError(f"{argument}: {message}{known and f' ({known})'}") from error
        raise ValueError(f"{argument}: importing {module} raises {type(error).__name__}: {error}") from error


def made(argument: str, text: str, factory: Any) -> Any:
    """What a class or function makes without arguments; ValueError, in one line, where it raises."""
    try:
        return factory()
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{argument}: {text} cannot be made without arguments ({reason})") from error


def model(text: str, weights: str | None) -> tuple[Any, dict[str, Any]]:
    """The LatentModel that MODULE:FACTORY makes, with the weights of a file, and what tells a result which it was."""
    import gradlab
    from gradlab import errors, files, results

    where, _, name = text.partition(":")
    if not (where and name):
        raise ValueError(f"--model: got {text!r}; write MODULE:FACTORY")
    there = contents("--model", where)
    if name not in there:
        known = [key for key, value in there.items() if callable(value) and not key.startswith("_")]
        raise errors.unknown_name(f"--model: function or model in {where}", name, known)
    found = there[name]
    if not isinstance(found, gradlab.LatentModel) and callable(found):
        found = made("--model", text, found)
    if not isinstance(found, gradlab.LatentModel):
        raise ValueError(
            f"--model: {text} gives a {type(found).__name__}; a gradlab.LatentModel, or a function without arguments"
            " that makes one, is needed"
        )
    if weights is not None:
        gradlab.load_weights(found, weights)
    digest = files.sha256(weights) if weights is not None else results.state_sha256(found.state_dict())
    source = weights if weights is not None else "as the factory makes them"
    return found.eval(), {"checkpoint": text, "checkpoint_sha256": digest, "weights": source}
