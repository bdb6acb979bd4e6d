"""Options that commands share."""

from __future__ import annotations

import math

import click

MOST_TEMPERATURES = 1000


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
                f"{value!r} is no temperature SPEC: 1.6, or 0.5,1.0,1.6 or 0.3:3.0:10 (start:stop:count),"
                " finite, above 0, each once",
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


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto (a GPU where there is one), cpu, cuda, cuda:1, ..."
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all noise."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Folder that holds data sets.  [default: $GRADLAB_DATA or the user's cache]",
)


def resolve_device(name: str) -> str:
    """The device to use; ValueError where it is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: {name!r} cannot be used here ({reason}); 'auto' or 'cpu' would do") from None
    return name
