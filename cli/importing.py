"""Objects of the user's modules, MODULE:NAME. Importing a module executes its code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def contents(argument: str, module: str, known: str = "") -> dict[str, Any]:
    """The names and values of a module of the current folder or the environment. Raises ValueError if it fails.

    `argument` is the start of the message, and `known` states where names without a module are listed.
    """
    sys.path.insert(0, os.getcwd())  # as in `python -m`; otherwise it is the folder of the script
    try:
        return vars(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # foreign code may raise any error
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            expected = f"{argument}: expected a module of the current folder or the environment"
            raise ValueError(f"{expected}, got {error.name!r}{known and f' ({known})'}") from error
        raise ValueError(
            f"{argument}: expected a module that can be imported, got {type(error).__name__} from {module}: {error}"
        ) from error


def made(argument: str, text: str, factory: Any) -> Any:
    """The result of calling a class or function without arguments. Raises ValueError if it fails."""
    try:
        return factory()
    except (Exception, SystemExit) as error:  # foreign code may raise any error
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{argument}: expected a call without arguments to work, got {reason} from {text}") from error


def _uncompiled(found: Any) -> Any:
    """The model or function that torch.compile wrapped, if it did."""
    return getattr(found, "_orig_mod", getattr(found, "_torchdynamo_orig_callable", found))


def _named(argument: str, form: str, what: str, text: str) -> Any:
    """The value of MODULE:NAME. Raises UnknownName, a ValueError, if the module does not have it."""
    from gradlab import errors

    where, _, name = text.partition(":")
    if not (where and name):
        raise ValueError(f"{argument}: expected {form}, got {text!r}")
    there = contents(argument, where)
    if name not in there:
        known = [key for key, value in there.items() if callable(value) and not key.startswith("_")]
        raise errors.unknown_name(f"{argument}: {what} in {where}", name, known)
    return there[name]


def layer(text: str) -> Any:
    """The layer of MODULE:NAME: a function of logits as it is; the instance of a class, the result of a factory.

    Raises ValueError if there is none.
    """
    import inspect

    from torch.autograd import Function

    from gradlab import errors
    from gradlab.estimators import Estimator

    try:
        found = _named("layer", "MODULE:NAME", "function or class", text)
    except errors.UnknownName as error:  # a layer that cannot be run: exit code 1; a wrong name of gradlab's has 2
        raise ValueError(str(error)) from None
    if not (callable(found) or isinstance(found, Estimator)):
        raise ValueError(f"layer: expected a function of logits, got one of type {type(found).__name__} from {text}")
    if isinstance(found, type):
        return found if issubclass(found, Function) else made("layer", text, found)
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        return made("layer", text, found)
    return found


def model(text: str, weights: str | None) -> tuple[Any, dict[str, Any]]:
    """The LatentModel of MODULE:FACTORY with the weights of a file, and attributes that describe it in results.

    Or a Program, whose factory gives it its weights.
    """
    import gradlab
    from gradlab import files, results

    found = _uncompiled(_named("--model", "MODULE:FACTORY", "function or model", text))
    if not isinstance(found, gradlab.LatentModel | gradlab.Program) and callable(found):
        found = _uncompiled(made("--model", text, found))
    if isinstance(found, gradlab.Program):
        if weights is not None:
            raise ValueError(f"--weights: expected none for a Program, whose factory loads its weights, got {weights}")
        digest = results.state_sha256(found.parameters)
        return found, {"checkpoint": text, "checkpoint_sha256": digest, "weights": "weights of the factory"}
    if not isinstance(found, gradlab.LatentModel):
        raise ValueError(
            "--model: expected a gradlab.LatentModel, a Program, or a function without arguments that returns one, got"
            f" a {type(found).__name__} from {text}"
        )
    if weights is not None:
        gradlab.load_weights(found, weights)
    digest = files.sha256(weights) if weights is not None else results.state_sha256(found.state_dict())
    source = weights if weights is not None else "weights of the factory"
    return found.eval(), {"checkpoint": text, "checkpoint_sha256": digest, "weights": source}
