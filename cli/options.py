"""Options that commands share."""

from __future__ import annotations

import click

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto (a GPU where there is one), cpu, cuda, cuda:1, ..."
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all noise.")
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
