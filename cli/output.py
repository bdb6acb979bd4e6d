"""What commands print besides results: tables for people, one JSON object with --json; on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 110  # where standard output is no terminal


def catalogue(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"estimators": rows}))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "parameters", "latents", "unbiased", "evaluations", "estimate"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(
            row["name"],
            ", ".join(f"{name}={value}" for name, value in row["parameters"].items()),
            ", ".join(row["latents"]),
            "yes" if row["unbiased"] else "no",
            str(row["evaluations"]),
            row["formula"].replace("[", r"\["),
        )
    console().print(table)


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


def analyses(there: dict[str, str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"analyses": there}))
        return
    for name, text in there.items():
        click.echo(f"{name}\n\n{text}")


def verdicts(found: Sequence[Any], as_json: bool, written: Sequence[str]) -> None:
    if as_json:
        rows = [
            {
                "claim": v.claim,
                **v.which,
                "figure": v.figure,
                "verdict": v.verdict,
                "change": v.whole._asdict(),
                "against": v.against,
                "lowest_at": v.lowest_at,
            }
            for v in found
        ]
        click.echo(json.dumps({"verdicts": rows, "files": list(written)}))
        return
    to = console()
    for claim in dict.fromkeys(v.claim for v in found):
        table = Table(box=box.SIMPLE_HEAD, title=claim, title_justify="left")
        of_claim = [v for v in found if v.claim == claim]
        for column in ("figure", *of_claim[0].which, "change, first to last \\[95 %]", "verdict"):
            table.add_column(column, no_wrap=column != "verdict")
        for v in of_claim:
            low, high = (text(end) for end in v.whole[1:])
            table.add_row(v.figure, *v.which.values(), f"{v.whole.value:+.4g} \\[{low}, {high}]", v.words)
        to.print(table)
    for path in written:
        to.print(f"wrote {path}", highlight=False, soft_wrap=True)


def training(model: Any, out: str, as_json: bool) -> None:
    from gradlab.likelihoods import unit_of

    about = model.provenance
    last = {name: values[-1] for name, values in about["history"].items()}
    epochs = len(about["history"]["train_loss"])
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "epochs": epochs, **last, "seconds": about["seconds"]}))
        return
    kl = about["settings"]["kl"]

    def of(split: str) -> str:
        return f"{text(last[f'{split}_loss'])}" + (f" + KL {text(last[f'{split}_kl'])}" if kl else "")

    click.echo(
        f"{epochs} epoch{'s' * (epochs > 1)} in {about['seconds']:.0f} s: validation loss {of('validation')}"
        f" (training {of('train')}), in {unit_of(model.likelihood)}"
    )
    click.echo(f"wrote {out}")


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def text(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")
