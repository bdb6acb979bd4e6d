"""Options that commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import click
from gradlab.analyses import RunOptions

from gradlab.methods import Compute

from .method_options import option_of
from .specs import MOST_SEED, DataName, TemperatureSpec

Decorator = Callable[[Any], Any]


def together(*options: Decorator) -> Decorator:
    """The decorator that adds these options, in this order."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


device_option = option_of(Compute, "device")
tf32_option = option_of(Compute, "tf32")
seed_option = click.option(
    "--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True, help="Seed of all noise."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the values as one JSON object.")
plot_option = click.option("--plot/--no-plot", default=True, help="Also draw OUT.png.  [default: plot]")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Folder of the data sets.  [default: $GRADLAB_DATA or the user's cache]",
)
checkpoints_argument = click.argument(
    "checkpoints", nargs=-1, type=click.Path(dir_okay=False), metavar="[CHECKPOINT]..."
)


def data_options(default: str) -> Decorator:
    """--data and --data-dir."""
    data = click.option(
        "--data",
        type=DataName(),
        default=default,
        show_default=True,
        help="See `gradlab data list`, or a folder of such files.",
    )
    return together(data, data_dir_option)


def images_option(default: int) -> Decorator:
    return click.option(
        "--images",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Number of test images, taken from the start of the split.",
    )


def out_option(default: str) -> Decorator:
    return click.option(
        "--out", type=click.Path(dir_okay=False), default=default, show_default=True, help="Results file, in HDF5."
    )


def temperature_options(tf: str, tb: str) -> Decorator:
    """--tf and --tb of a measurement."""
    words = "Forward temperatures: 1.6, or 0.5,1.0,1.6 or 0.3:3.0:10."
    return together(
        click.option("--tf", type=TemperatureSpec(), default=tf, show_default=True, help=words),
        click.option(
            "--tb", type=TemperatureSpec(), default=tb, show_default=True, help="Backward temperatures, likewise."
        ),
    )


workers_of_measurement = together(
    option_of(RunOptions, "workers", help="Number of processes, with one GPU each. They share the cores."),
    option_of(RunOptions, "scheduler"),
)
workers_options = together(*(option_of(RunOptions, name) for name in ("workers", "ensemble", "scheduler")))


class OwnModel(NamedTuple):
    """A model of the user's, its weights, and what it is measured on."""

    model: str | None
    weights: str | None
    observations: str | None


def own_model_options(command: Any) -> Any:
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
    def with_own(*arguments: Any, model: Any, weights: Any, observations: Any, **named: Any) -> Any:
        return command(*arguments, own=OwnModel(model, weights, observations), **named)

    return with_own
