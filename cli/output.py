"""What commands print besides results: tables for people, one JSON object with --json; on standard output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH, LEAST_WIDTH = 110, 40  # where standard output is no terminal


def catalogue(rows: list[dict[str, Any]], as_json: bool, formulas: bool = False) -> None:
    if as_json:
        click.echo(json.dumps({"estimators": rows}))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("name", "parameters", "latents", "unbiased", "uses\ndf/dz", "uses\nf", "code\nalone", "losses"):
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "unbiased"))
    for row in rows:
        given = {name: (value, row["ranges"][name]) for name, value in row["parameters"].items()}
        common = {"tf": (1.0, "finite, above 0"), "tb": ("tf", "finite, above 0")}  # said once, below
        short = [name for name in given if given[name] == common.get(name)]
        own = [f"{name} = {default}: {words}" for name, (default, words) in given.items() if name not in short]
        answers = (row["unbiased"], row["uses_derivative"], row["uses_loss"], row["code_only"])
        table.add_row(
            row["name"],
            escape("\n".join([", ".join(short), *own])),
            {2: "both", 3: "all"}.get(len(row["latents"]), ", ".join(row["latents"])),
            *("yes" if answer else "no" for answer in answers),
            "all" if row["evaluations"] == "all configurations" else str(row["evaluations"]),
        )
    to = console()
    to.print(table)
    for line in (
        "parameters: default and range; tf and tb, the temperatures, are finite above 0; by default tf = 1, tb = tf",
        "latents: categorical, binary, both, or all, k-hot too.  unbiased: for the expected loss under softmax(l/tf)",
        "uses: the loss f at the points, its derivative df/dz there.  code alone: a function of one sampled code",
        "losses: evaluations of f per draw; all: every configuration; by size: L(K-1) + 1, L latents, K categories",
    ):
        to.print(line, highlight=False)
    for row in rows if formulas else []:
        to.print(f"\n[bold]{row['name']}[/bold]  {escape(row['reference'])}", highlight=False)
        to.print(f"  {escape(row['formula'])}", highlight=False)


def datasets(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"datasets": rows}))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "split", "images", "file", "credit"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        for split, path in row["files"].items():
            where = path or f"not here: gradlab data fetch {row['name']}"
            table.add_row(row["name"], split, f"{row['images'][split]:,}", where, row["credit"])
    console().print(table)


def training(model: Any, out: str, as_json: bool, replaced: Sequence[str] | None = ()) -> None:
    """The result of a training, written to `out`; `replaced` None: it was there already."""
    from gradlab.likelihoods import unit_of

    about = model.provenance
    last = {name: values[-1] for name, values in about["history"].items()}
    epochs = len(about["history"]["train_loss"])
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "epochs": epochs, **last, "seconds": about["seconds"]}))
        return
    kl = about["settings"]["kl"] not in (False, "none")

    def of(split: str) -> str:
        return f"{text(last[f'{split}_loss'])}" + (f" + KL {text(last[f'{split}_kl'])}" if kl else "")

    say(
        f"{epochs} epoch{'s' * (epochs > 1)} in {about['seconds']:.0f} s: validation loss {of('validation')}"
        f" (training {of('train')}), in {unit_of(model.likelihood)}"
    )
    if replaced is not None:
        wrote(out, replaced)


class _Plain(Console):
    """A console to which text from files and names cannot send control characters."""

    def render_str(self, text, **options):
        return super().render_str(_visible(text), **options)

    def print(self, *objects, **options):
        """Prints without trailing blanks if the output is not a terminal. Nothing in a table is cut off."""
        for table in objects:
            if isinstance(table, Table) and self._least_width(table) > self.width:
                names, *others = table.columns
                wide = max((len(str(cell)) for cell in names.cells), default=0) > self.width // 4
                for column in (names, *others) if wide else others:
                    column.no_wrap, column.overflow = False, "fold"
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _least_width(self, table: Table) -> int:
        """Columns between blanks and lines; those that may not wrap at their full width."""
        wide = self.options.update(max_width=10_000)
        measured = [[self.measure(x, options=wide) for x in (c.header, *c.cells)] for c in table.columns]
        at_least = [
            max(m.maximum if column.no_wrap else m.minimum for m in of)
            for column, of in zip(table.columns, measured, strict=True)
        ]
        return sum(at_least) + 3 * len(at_least) + 1


def console() -> Console:
    """Standard output: as wide as its terminal, else as COLUMNS says, else WIDTH."""
    if sys.stdout.isatty():
        return _Plain()
    columns = os.environ.get("COLUMNS", "")
    return _Plain(width=max(LEAST_WIDTH, int(columns)) if columns.isdecimal() and int(columns) else WIDTH)


def say(text: str, err: bool = False) -> None:
    """A line on standard output or standard error; without the streams that click puts in place of ASCII ones."""
    click.echo(_visible(text), file=sys.stderr if err else sys.stdout)


def _visible(text: str) -> str:
    from gradlab.terminal import visible

    return visible(text)


def wrote(path: str, replaced: Sequence[str] = ()) -> None:
    name = path.replace("\n", "\\n")  # one line, whatever the name
    say(f"{'replaced' if path in replaced else 'wrote'} {name}")


def text(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints each warning, of any library, as a line on standard error."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"gradlab: {' '.join(str(message).split())}", err=True)
        yield
