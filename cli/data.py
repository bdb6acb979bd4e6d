"""gradlab data: image data sets."""

from __future__ import annotations

import click

from gradlab.choices import DATA_SETS

from .options import data_dir_option, json_option
from .output import say
from .specs import completes


@click.group()
def data() -> None:
    """List, download and check image data sets.

    \b
    Example:
      gradlab data list
    """


@data.command("list")
@data_dir_option
@json_option
def list_(data_dir, as_json):
    """List the known data sets and where their files are.

    \b
    Example:
      gradlab data list
    """
    from gradlab import datasets

    from . import output

    rows = []
    for name in datasets.names():
        places = {split: str(path) if path else None for split, path in datasets.where(name, data_dir).items()}
        credit = (
            datasets.SOURCES[name].credit if name in datasets.SOURCES else "bundled: the first 1,000 MNIST test images"
        )
        counts = datasets.SOURCES[name].counts if name in datasets.SOURCES else {"test": 1000}
        rows.append({"name": name, "images": counts, "files": places, "credit": credit})
    output.datasets(rows, as_json)


@data.command()
@click.argument("name", shell_complete=completes(DATA_SETS))
@data_dir_option
@click.option("--mirror", help="Address of another folder with the same files.")
def fetch(name, data_dir, mirror):
    """Download a known data set and check it. cifar10 has 170 MB, svhn 246 MB.

    \b
    Example:
      gradlab data fetch mnist
    """
    from gradlab import datasets

    for path in datasets.fetch(name, data_dir, mirror, progress=True):
        say(str(path))


@data.command()
@click.argument("name", shell_complete=completes(DATA_SETS))
@data_dir_option
def check(name, data_dir):
    """Compare the files of a data set with their checksums.

    NAME is a known data set, your own folder or a CIFAR-10 archive. The last two have no known checksum; they must be
    complete.

    \b
    Example:
      gradlab data check mnist
    """
    from gradlab import datasets

    faults = []
    for one in datasets.check(name, data_dir):
        say(f"{one.split}: {one.fault or f'{one.path} is complete'}")
        faults += [one.split] * bool(one.fault)
    if faults:
        raise click.ClickException(f"{name}: {' and '.join(faults)} split missing or damaged")
