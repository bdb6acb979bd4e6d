"""Files that commands write: checked before anything is computed."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from .options import OwnModel


def check_writable(out: str, kind: str = "RESULTS") -> None:
    """Creates the folder of --out. Raises OSError if --out cannot be written.

    Raises UsageError for a name of another kind of file than `kind`, of gradlab.outputs, and OSError for a file that
    gradlab did not write: neither is replaced.
    """
    from gradlab import files, outputs

    try:
        files.writable(out)
        folder = files.target_of(out).parent  # that of a link's target
    except OSError as error:
        raise OSError(f"--out: cannot write {out!r} ({error.strerror or error})") from None
    try:
        outputs.check(out, getattr(outputs, kind), "--out")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"--out: cannot write {out!r} (no permission to write to {Path(folder).resolve()})")
    if _is_kept_for_another(Path(os.path.realpath(out))):
        raise OSError(f"--out: cannot write {out!r} (a file of another user, which only its owner may replace)")


def _is_kept_for_another(path: Path) -> bool:
    """Whether a folder like /tmp, where only the owner of a file replaces it, has a file of another user here."""
    if not path.exists() or not path.parent.stat().st_mode & stat.S_ISVTX or not hasattr(os, "geteuid"):
        return False
    return os.geteuid() not in (0, path.stat().st_uid, path.parent.stat().st_uid)


def check_no_input(outputs: Sequence[str], inputs: Sequence[str]) -> None:
    """Raises UsageError if a command overwrites a file that it reads, also through links and in any spelling."""
    for out in outputs:
        for path in inputs:
            same = os.path.realpath(out) == os.path.realpath(path)
            if same or (os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path)):
                raise click.UsageError(f"--out: expected a new file, got {out!r}, which overwrites the input {path!r}")


def inputs(checkpoints: Sequence[str], own: OwnModel, data: str, data_dir: str | None) -> list[str]:
    """The files that a measurement reads, once the module of the user's model is imported."""
    observed = [own.observations] if own.observations else data_files(data, data_dir)
    weights = [own.weights] if own.weights else []
    return [*checkpoints, *weights, *observed, *module_files(own.model)]


def data_files(data: str, data_dir: str | None) -> list[str]:
    """The files of a data set."""
    from gradlab import datasets

    return [str(path) for path in datasets.where(data, data_dir).values() if path is not None]


def module_files(*names: str | None) -> list[str]:
    """The source files of imported modules, MODULE:NAME."""
    modules = (sys.modules.get(name.partition(":")[0]) for name in names if name)
    return [file for module in modules if isinstance(file := getattr(module, "__file__", None), str)]


@contextlib.contextmanager
def as_results(*files: str) -> Iterator[None]:
    """Raises BadFile with the name of the file for whatever an unusual results file causes in the block.

    Messages about an argument ("variable: unknown name ...") are left as they are.
    """
    from gradlab import errors

    try:
        yield
    except (click.ClickException, OSError, errors.BadFile):
        raise
    except Exception as error:
        text = str(error)
        if errors.out_of_memory(error) or (
            isinstance(error, ValueError) and re.match(r"[\w. -]+: (expected|unknown)", text)
        ):
            raise
        reason = " ".join(f"{type(error).__name__}: {text}".split())[:200]
        raise errors.BadFile(
            f"{', '.join(files)}: expected results as gradlab writes them, got unusual attributes or values ({reason})"
        ) from error


def figure_path(results: str) -> str:
    """The path of the figure of a results file: the same name with .png."""
    path = Path(results)
    name = path.stem if path.suffix in (".h5", ".hdf5", ".nc") else path.name
    return str(path.with_name(f"{name}.png"))
