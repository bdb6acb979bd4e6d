"""Files that commands write: checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click


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
