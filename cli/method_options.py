"""Options made of the fields of method objects (see gradlab.fields), and the objects made of their values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource
from gradlab.analyses import RunOptions

from gradlab import methods
from gradlab.fields import Option, options

from .output import say
from .specs import DataName, Duration, Ensemble, EstimatorSpec, ScheduleSpec, Size

KINDS: dict[str, click.ParamType] = {  # of texts, by About.kind
    "size": Size(),
    "schedule": ScheduleSpec(),
    "estimator": EstimatorSpec(),
    "data": DataName(),
    "duration": Duration(),
    "ensemble": Ensemble(),
    "file": click.Path(dir_okay=False),
    "folder": click.Path(file_okay=False),
}
# where the command line says another thing than Python: names in place of torch's objects
CHANGED: dict[tuple[type, str], dict[str, Any]] = {
    (methods.Compute, "device"): {"default": "auto"},
    (RunOptions, "device"): {"default": "auto"},
    (methods.Compute, "dtype"): {"type": click.Choice(methods.PRECISIONS)},
}
BY_THE_COMMAND = ("progress",)  # fields that are no options: commands always draw progress bars


class MethodOption(click.Option):
    """An option that stands for a field of a method."""

    def __init__(self, *given: Any, method: type, field: Option, **named: Any):
        super().__init__(*given, **named)
        self.method, self.field = method, field


def name_of(field: Option) -> str:
    """The option's name, `--max-draws`."""
    return f"--{(field.about.called or field.name).replace('_', '-')}"


def option_of(method: type, name: str, **changed: Any) -> Callable[[Any], Any]:
    """The decorator of the option of one field; `changed` as click.option takes it."""
    field = next(one for one in options(method) if one.name == name)
    made: dict[str, Any] = {
        "type": _type(field),
        "default": field.default,
        "is_flag": field.of is bool,
        "help": field.about.words,
    }
    made |= CHANGED.get((method, name), {}) | changed
    made["show_default"] = made["default"] is not None and not made["is_flag"]
    if field.about.beside:
        made["help"] += f" For {name_of(_other(method, field))}."

    return click.option(name_of(field), cls=MethodOption, method=method, field=field, **made)


def _type(field: Option) -> Any:
    about = field.about
    if about.kind:
        return KINDS[about.kind]
    if about.choices:
        return click.Choice(about.choices)
    if field.of is int:
        return click.IntRange(min=about.at_least)
    return click.FloatRange(min=0, min_open=True) if field.of is float else None


def _other(method: type, field: Option) -> Option:
    return next(one for one in options(method) if one.name == field.about.beside)


def method_options(*of: type) -> Callable[[Any], Any]:
    """Decorator: an option for every field of these methods; the command gets them as `values`, a MethodValues."""
    fields = [(method, field) for method in of for field in options(method) if field.name not in BY_THE_COMMAND]

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def run(*arguments: Any, **named: Any) -> Any:
            by_option = {name_of(field): named.pop(_parameter(field)) for _, field in fields}
            return command(*arguments, values=MethodValues(by_option), **named)

        for method, field in reversed(fields):
            run = option_of(method, field.name)(run)
        return run

    return decorate


def _parameter(field: Option) -> str:
    return field.about.called or field.name


@dataclasses.dataclass(frozen=True)
class MethodValues:
    """The values of the options of methods, by name of the option."""

    by_option: Mapping[str, Any]

    def written(self, method: type) -> list[str]:
        """Options of a method that stand on the command line."""
        context = click.get_current_context()
        default = ParameterSource.DEFAULT
        return [
            name_of(field)
            for field in options(method)
            if name_of(field) in self.by_option and context.get_parameter_source(_parameter(field)) is not default
        ]

    def make(self, method: type, *arguments: Any, **known: Any) -> Any:
        """The method object. Raises UsageError for an option without effect."""
        there = [field for field in options(method) if name_of(field) in self.by_option]
        values = {field.name: self.by_option[name_of(field)] for field in there}
        for name in self.written(method):
            field = next(one for one in there if name_of(one) == name)
            if field.about.beside and values[field.about.beside] is None:
                raise click.UsageError(f"{name}: needs {name_of(_other(method, field))}")
        return method(*arguments, **values | known)

    def refuse(self, method: type, got: str, expected: str) -> None:
        """Raises UsageError for an option of a method that is not used."""
        for name in self.written(method):
            raise click.UsageError(f"{name}: needs {expected}, got {got}")

    def moments(self, name: str) -> Any:
        """The method of --moments."""
        for other, method in methods.MOMENTS.items():
            if name == "exact" and "--draws" in self.written(method):  # as gradlab.bias, which warns
                say("gradlab: --draws: no effect with --moments exact, which draws nothing", err=True)
                without = {key: value for key, value in self.by_option.items() if key != "--draws"}
                return MethodValues(without).moments(name)
            if other != name:
                self.refuse(method, f"--moments {name}", f"--moments {other}")
        return self.make(methods.MOMENTS[name])

    def reference(self, name: str) -> Any:
        """The method of --reference. With `auto`, an option of one of the two methods chooses it."""
        enumerated, sampled = self.written(methods.Enumerated), self.written(methods.Sampled)
        if name == methods.AUTO and enumerated and sampled:
            raise click.UsageError(f"{enumerated[0]}: needs --reference exact, got {sampled[0]}")
        if name == "exact" or (name == methods.AUTO and enumerated):
            self.refuse(methods.Sampled, "--reference exact", "--reference auto or rloo")
            return self.make(methods.Enumerated)
        if name == methods.AUTO and not sampled:
            return name
        self.refuse(methods.Enumerated, f"--reference {name}", "--reference exact")
        return self.make(methods.Sampled, name)

    def compute(self, elsewhere: bool = False) -> Any:
        """The Compute of the command: device and dtype as torch has them, and progress bars.

        `elsewhere`: the device is one of other machines, and stays as it is written.
        """
        import torch

        dtype, device = self.by_option["--dtype"], self.by_option["--device"]
        known = {"device": device if elsewhere else resolve_device(device), "dtype": dtype and getattr(torch, dtype)}
        return self.make(methods.Compute, **known, progress=True)


def resolve_device(name: str) -> str:
    """The device to use. Raises ValueError if it is not available."""
    import torch

    from gradlab.numerics import precision_and_place

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    precision_and_place(None, name)
    return name
