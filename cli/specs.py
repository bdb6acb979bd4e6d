"""The texts that options take, as types of click: temperatures, schedules, seeds, durations, sizes, estimators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem
from gradlab.analyses import registry

from gradlab import errors
from gradlab.choices import DATA_SETS, ESTIMATORS

MOST_TEMPERATURES = 1000
MOST_SEEDS = 10_000
MOST_SEED = 2**63 - 1  # what a results file can hold
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def completes(names: Sequence[str]) -> Callable[..., list[CompletionItem]]:
    """A callback that completes the names."""
    return lambda context, parameter, begun: [CompletionItem(name) for name in names if name.startswith(begun)]


class TemperatureSpec(click.ParamType):
    """`1.6`, `0.5,1.0,1.6` or `0.3:3.0:10` (start, stop, count), as a list of floats."""

    name = "spec"

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        try:
            found = _range(value) if ":" in value else [float(part) for part in value.split(",")]
        except ValueError:
            found = []
        if not found or not all(math.isfinite(t) and t > 0 for t in found) or len(set(found)) < len(found):
            self.fail(
                "expected a temperature SPEC, 1.6 or 0.5,1.0,1.6 or 0.3:3.0:10 (start:stop:count), distinct finite"
                f" numbers above 0, got {value!r}",
                param,
                ctx,
            )
        return sorted(found)


def _range(text: str) -> list[float]:
    start, stop, count = text.split(":")
    n, first, last = int(count), float(start), float(stop)
    if not 2 <= n <= MOST_TEMPERATURES:
        return []
    return [round(first + (last - first) * i / (n - 1), 12) for i in range(n)]


class ScheduleSpec(click.ParamType):
    """`1.6`, `1:0.3`, `1:0.3:cosine`: a temperature or its schedule, as stored in the settings."""

    name = "spec"

    def convert(self, value, param, ctx):
        from gradlab import schedules

        try:
            return schedules.setting(param.name, value)
        except ValueError as error:
            self.fail(str(error).removeprefix(f"{param.name}: "), param, ctx)


class SweepSpec(click.ParamType):
    """Temperatures separated by commas: numbers, ranges 0.3:3.0:10, schedules 1:0.3 or 1:0.3:cosine."""

    name = "spec"

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        found = [one for item in value.split(",") for one in self._item(item, param, ctx)]
        if len(set(found)) < len(found):
            self.fail(f"expected distinct temperatures, got {value!r}", param, ctx)
        return sorted(found, key=lambda one: (isinstance(one, str), one))

    def _item(self, item, param, ctx):
        parts = item.split(":")
        if len(parts) == 1 or (len(parts) == 3 and parts[2].strip().isdigit()):
            return TemperatureSpec().convert(item, param, ctx)
        return [ScheduleSpec().convert(item, param, ctx)]


class Seeds(click.ParamType):
    """`5` (0 to 4), `3:7` (3 to 7) or `0,1,7`, as a list of whole numbers."""

    name = "seeds"

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        try:
            found = self._listed(value)
        except ValueError:
            found = []
        if not found or len(set(found)) < len(found) or not 0 <= min(found) <= max(found) <= MOST_SEED:
            self.fail(
                f"expected 5 (seeds 0 to 4), 3:7 (3 to 7) or 0,1,7, at most {MOST_SEEDS:,}, each once, got {value!r}",
                param,
                ctx,
            )
        return found

    def _listed(self, value):
        if "," in value:
            return [int(part) for part in value.split(",")]
        first, last = (int(part) for part in value.split(":")) if ":" in value else (0, int(value) - 1)
        return list(range(first, last + 1)) if last - first < MOST_SEEDS else []


class EstimatorSpec(click.ParamType):
    """An estimator by name or label, `rloo`, `rloo:n=4` or `rloo(n=4)`, checked; `others` are names taken besides."""

    name = "name"

    def __init__(self, *others: str):
        self.others = others

    def convert(self, value, param, ctx):
        if value in (*self.others, *ESTIMATORS) or (ctx is not None and ctx.resilient_parsing):  # without torch
            return value
        from gradlab import estimators

        try:
            estimators.parse(value)
        except ValueError as error:
            self.fail(str(error).removeprefix("estimator: "), param, ctx)
        return value

    def shell_complete(self, ctx, param, incomplete):
        return completes((*self.others, *ESTIMATORS))(ctx, param, incomplete)


class Duration(click.ParamType):
    """`90s`, `10m` or `2h`, in seconds."""

    name = "duration"

    def convert(self, value, param, ctx):
        if isinstance(value, float):
            return value
        number, unit = value[:-1], value[-1:]
        try:
            seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
        except (ValueError, KeyError):
            seconds = 0.0
        if not 0 < seconds < math.inf:
            self.fail(f"expected 90s, 10m or 2h, got {value!r}", param, ctx)
        return seconds


class Size(click.ParamType):
    """`512MiB` or `2GiB`, in bytes; a number without a unit is refused."""

    name = "size"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        number = value.rstrip("kKMGTiB ")
        unit = value.removeprefix(number).strip()
        try:
            size = int(float(number) * UNITS[unit])
        except (ValueError, KeyError, OverflowError):
            size = 0
        if size < 1:
            meant = f"{number}MiB" if number.isdecimal() and int(number) and not unit else "512MiB or 2GiB"
            self.fail(f"expected a size with its unit, got {value!r}; write {meant}", param, ctx)
        return size


class DataName(click.ParamType):
    """A data set, by name or as a folder of its files."""

    name = "text"

    def convert(self, value, param, ctx):
        return value

    def shell_complete(self, ctx, param, incomplete):
        return completes(DATA_SETS)(ctx, param, incomplete)


class AnalysisName(click.ParamType):
    """An analysis of `gradlab reproduce`, or MODULE:NAME."""

    name = "name"

    def convert(self, value, param, ctx):
        if ":" not in value and value not in registry.names():
            raise click.UsageError(str(errors.unknown_name("NAME", value, registry.names())), ctx)
        return value

    def shell_complete(self, ctx, param, incomplete):
        return completes(registry.names())(ctx, param, incomplete)


class Ensemble(click.ParamType):
    """A whole number from 1, or `auto`."""

    name = "N|auto"

    def convert(self, value: Any, param, ctx):
        return value if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)
