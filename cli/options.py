"""Options that commands share."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from .output import say

MOST_TEMPERATURES = 1000
MOST_SEED = 2**63 - 1  # what a results file can hold


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


# names for shell completion, listed here because the registries import torch
ESTIMATORS = (
    *("arms", "decoupled-st-gs", "disarm", "exact", "gst", "gumbel-rao", "gumbel-softmax", "rebar", "reinforce"),
    *("reinmax", "rloo", "st-gs", "ste", "ste-argmax", "zgr"),
)
DATA_SETS = ("cifar10", "fashion-mnist", "mnist", "mnist-sample", "svhn")


def completes(names: Sequence[str]):
    """A callback that completes the names."""
    return lambda context, parameter, begun: [CompletionItem(name) for name in names if name.startswith(begun)]


class EstimatorSpec(click.ParamType):
    """The label of an estimator, `rloo` or `rloo:n=4`, checked."""

    name = "name"

    def convert(self, value, param, ctx):
        from gradlab import estimators

        try:
            estimators.parse(value)
        except ValueError as error:
            self.fail(str(error).removeprefix("estimator: "), param, ctx)
        return value

    def shell_complete(self, ctx, param, incomplete):
        return completes(ESTIMATORS)(ctx, param, incomplete)


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
    "--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True, help="Seed of all noise."
)
draws_option = click.option(
    "--draws", type=click.IntRange(min=2), default=1024, show_default=True, help="Estimates per point."
)
data_option = click.option(
    "--data",
    default="mnist-sample",
    show_default=True,
    shell_complete=completes(DATA_SETS),
    help="See `gradlab data list`, or a folder of such files.",
)
memory_option = click.option(
    "--memory",
    type=click.IntRange(min=1),
    help="Approximate working memory in MiB.  [default: 256; on a GPU a quarter of the free memory]",
)
tf32_option = click.option(
    "--tf32", is_flag=True, help="Allow TensorFloat-32 for float32 on a GPU: faster, but it changes the results."
)
plot_option = click.option("--plot/--no-plot", default=True, help="Also draw OUT.png.  [default: plot]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the values as one JSON object.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of processes, with one GPU each.",
)


class Ensemble(click.ParamType):
    """A whole number from 1, or `auto`."""

    name = "N|auto"

    def convert(self, value, param, ctx):
        return value if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


ensemble_option = click.option(
    "--ensemble",
    type=Ensemble(),
    default="auto",
    show_default=True,
    help="Trainings that a worker runs at once, on a GPU as one stack. auto: the number that fits in its memory.",
)
scheduler_option = click.option(
    "--scheduler", help="Address of a Dask scheduler (tcp://host:8786), to train on its workers."
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Folder of the data sets.  [default: $GRADLAB_DATA or the user's cache]",
)


class OwnModel(NamedTuple):
    """A model of the user's, its weights, and what it is measured on."""

    model: str | None
    weights: str | None
    observations: str | None


def own_model_options(command):
    """--model, --weights and --observations, which the command gets as `own`."""

    @click.option(
        "--model",
        metavar="MODULE:FACTORY",
        help="Measure your own model: a gradlab.LatentModel, or a function without arguments that returns one, in a"
        " module of the current folder or of the environment. Importing the module EXECUTES its code. The model is set"
        " to evaluation mode.",
    )
    @click.option(
        "--weights",
        type=click.Path(dir_okay=False),
        help="Its weights: safetensors, or a state dict of torch.save (a pickle that contains more than tensors is"
        " refused).  [default: the weights of the factory]",
    )
    @click.option(
        "--observations",
        type=click.Path(dir_okay=False),
        help="Replaces --data: a .npy file of floating-point numbers (example, ...), the input of the model.",
    )
    @functools.wraps(command)
    def with_own(*arguments, model, weights, observations, **named):
        return command(*arguments, own=OwnModel(model, weights, observations), **named)

    return with_own


def images_option(default: int):
    return click.option(
        "--images",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Number of test images, taken from the start of the split.",
    )


def out_option(default: str):
    return click.option(
        "--out", type=click.Path(dir_okay=False), default=default, show_default=True, help="Results file, in HDF5."
    )


def resolve_device(name: str) -> str:
    """The device to use. Raises ValueError if it is not available."""
    import torch

    from gradlab.numerics import precision_and_place

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    precision_and_place(None, name)
    return name


def check_writable(out: str) -> None:
    """Creates the folder of --out. Raises OSError if --out cannot be written."""
    from gradlab import files

    try:
        folder = files.writable(out).parent
    except OSError as error:
        raise OSError(f"--out: cannot write {out!r} ({error.strerror or error})") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"--out: cannot write {out!r} (no permission to write to {Path(folder).resolve()})")


def check_no_input(outputs: Sequence[str], inputs: Sequence[str]) -> None:
    """Raises UsageError if a command overwrites a file that it reads, also through links."""
    for out in outputs:
        for path in inputs:
            same = os.path.realpath(out) == os.path.realpath(path)
            if same or (os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path)):
                raise click.UsageError(f"--out: expected a new file, got {out!r}, which overwrites the input {path!r}")


def figure_path(results: str) -> str:
    """The path of the figure of a results file: the same name with .png."""
    path = Path(results)
    name = path.stem if path.suffix in (".h5", ".hdf5", ".nc") else path.name
    return str(path.with_name(f"{name}.png"))


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints warnings of the library as lines on standard error."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"gradlab: {message}", err=True)
        yield
