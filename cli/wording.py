"""Errors of the library, told in the words of the command line: options and files in place of Python's arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import click

from gradlab import errors

from .method_options import MethodOption

OBJECTS = ("model", "weights")  # also names of options, but messages mean the thing itself


def speak_of_options(command: click.Command) -> None:
    """Make a command, and all below it, raise errors that name its options. An unknown name is wrong usage."""
    for below in getattr(command, "commands", {}).values():
        speak_of_options(below)
    run = command.callback
    if run is None:
        return

    @functools.wraps(run)
    def callback(*arguments: Any, **named: Any) -> Any:
        context = click.get_current_context()
        try:
            return run(*arguments, **named)
        except ValueError as error:
            message = str(error)
            told = reworded(_without_methods(message, command), _names(command, context.params))
            if isinstance(error, errors.UnknownName | errors.Excluded) and told != message:
                raise click.UsageError(told) from error
            error.args = (told,)
            raise

    command.callback = callback


def _names(command: click.Command, given: Mapping[str, Any]) -> dict[str, str]:
    """What the command line calls an argument of the library."""
    names: dict[str, str] = {}
    for parameter in command.params:
        options = [option for option in parameter.opts if option.startswith("--")]
        told = options[0] if options else parameter.make_metavar(click.Context(command))
        known = {str(parameter.name), told.removeprefix("--").replace("-", "_")}
        names |= dict.fromkeys(known - {*OBJECTS}, told)
    for option in _of_methods(command):
        names.setdefault(option.field.name, option.opts[0])
    if "data" not in names and "name" in names:  # gradlab data fetch NAME
        names["data"] = names["name"]
    if "--out" in names.values():
        names["path"] = "--out"
    if isinstance(file := given.get("file") or given.get("results"), str):
        names |= {"ds": file, "results": file}
    return names


def _of_methods(command: click.Command) -> list[MethodOption]:
    return [parameter for parameter in command.params if isinstance(parameter, MethodOption)]


def _without_methods(message: str, command: click.Command) -> str:
    """The message with options in place of method objects, Enumerated(dtype='float32'), and of their fields."""
    for option in _of_methods(command):
        name, called = option.field.name, option.opts[0]
        written = rf"\b(?:gradlab\.)?{option.method.__name__}\({name}='?([^()']*)'?\)"
        message = re.sub(written, rf"{called} \1", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w.-]){name}(?!\w|=|: )", called, message)
    return message


def reworded(message: str, names: Mapping[str, str]) -> str:
    """The message with `name: ` at its beginning and `name='value'` within as options, and calls as commands."""
    first = re.match(r"(\w+)( [^:]*)?: ", message)
    if first and first[1] in names:
        message = names[first[1]] + message[first.end(1) :]
    message = re.sub(r"\bgradlab\.(bias|gap)\(\.\.\., (\w+)='(\w[\w-]*)'\)", r"gradlab \1 --\2 \3", message)
    message = re.sub(r"\bgradlab\.(bias|gap)\b(?!\()", r"gradlab \1", message).replace(
        "gradlab.sweeps.sweep", "gradlab sweep"
    )

    def option(found: re.Match[str]) -> str:
        return f"{names[found[1]]} {found[2]}" if names.get(found[1], "").startswith("--") else found[0]

    message = re.sub(r"\b(\w+)='([\w.-]+)'", option, message)
    return re.sub(r"\b((?:expected|got) )(?:an? )?(?:xarray\.)?Dataset\b", r"\1results", message)
