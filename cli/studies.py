"""Running analyses and telling what came of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from .output import console, text


def results_path(folder: Path, name: str, budget: str) -> Path:
    return folder / f"{name}-{budget}.h5"


def run(name: str, analysis: Any, given: Any, budget: str) -> tuple[list[Any], list[str]]:
    """Measure, write, draw and judge: the verdicts, and the files written."""
    from gradlab import plots, results

    paths = [results_path(given.folder, name, budget), results_path(given.folder, name, budget).with_suffix(".png")]
    ds = analysis.measure(given, budget)
    ds.attrs |= {"reproduces": name, "budget": budget}
    results.save_results(ds, paths[0])
    plots.save(analysis.draw(ds), paths[1])
    return analysis.judge(ds), [str(path) for path in paths]


def one(name: str, analysis: Any, given: Any, budget: str, as_json: bool) -> None:
    found, written = run(name, analysis, given, budget)
    if as_json:
        click.echo(json.dumps({"verdicts": [as_row(v) for v in found], "files": written}))
        return
    show_verdicts(found)
    for path in written:
        console().print(f"wrote {path}", highlight=False, soft_wrap=True)


def all_of(analyses: Mapping[str, Any], given: Any, budget: str, as_json: bool) -> None:
    """Each in turn; one that fails does not keep the others from running. SystemExit(1) if any did."""
    from gradlab import files

    found: dict[str, list[Any]] = {}
    failed: dict[str, str] = {}
    for name, analysis in analyses.items():
        click.echo(f"{name}: {analysis.cost(budget)}", err=True)
        try:
            found[name], _ = run(name, analysis, given, budget)
        except (ValueError, OSError, ArithmeticError) as error:
            failed[name] = str(error)
            click.echo(f"{name} failed: {error}", err=True)
    path = given.folder / "summary.md"
    with files.written_aside(path) as aside:
        aside.write_text(summary(analyses, found, failed, budget))
    if as_json:
        rows = {name: [as_row(v) for v in verdicts] for name, verdicts in found.items()}
        click.echo(json.dumps({"verdicts": rows, "failed": failed, "files": [str(path)]}))
    else:
        for name, verdicts in found.items():
            console().print(f"[bold]{name}[/bold]")
            show_verdicts(verdicts)
        click.echo(f"wrote {path}")
    if failed:
        click.echo(f"{len(failed)} of {len(analyses)} failed: {', '.join(failed)}", err=True)
        raise SystemExit(1)


def summary(
    analyses: Mapping[str, Any], found: Mapping[str, Sequence[Any]], failed: Mapping[str, str], budget: str
) -> str:
    """All verdicts as one table in Markdown."""
    lines = [
        f"# Verdicts, budget {budget}",
        "",
        "| analysis | claim | of | figure | effect [interval] | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for name, verdicts in found.items():
        for v in verdicts:
            which = ", ".join(v.which.values())
            lines.append(f"| {name} | {v.claim} | {which} | {v.figure} | {effect(v)} | {v.words} |")
    lines += [f"| {name} | | | | | failed: {reason} |" for name, reason in failed.items()]
    lines += ["", *(f"- {name}: {analysis.cost(budget)}" for name, analysis in analyses.items()), ""]
    return "\n".join(lines)


def listing(analyses: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """What there is, what it claims, what it costs, and what results are at hand."""
    rows = {name: described(name, analysis, folder) for name, analysis in analyses.items()}
    if as_json:
        click.echo(json.dumps({"analyses": rows}))
        return
    for name, row in rows.items():
        click.echo(f"{name}  {row['claim']}")
        for budget, cost in row["budgets"].items():
            click.echo(f"  {budget:9s} {cost}")
            if budget in row["results"]:
                click.echo(f"            at hand: {row['results'][budget]}")
    click.echo("\nRun one with `gradlab reproduce NAME --budget BUDGET`, all with `gradlab reproduce --all`.")


def described(name: str, analysis: Any, folder: Path) -> dict[str, Any]:
    from gradlab.analyses.given import BUDGETS

    from gradlab import results

    at_hand = {}
    for budget in BUDGETS:
        path = results_path(folder, name, budget)
        if not path.is_file():
            continue
        try:
            ds = results.open_results(path)
            count = Counter(v.verdict for v in analysis.judge(ds))
            at_hand[budget] = f"{path}, {str(ds.attrs['date'])[:10]}: " + ", ".join(
                f"{number} {verdict}" for verdict, number in sorted(count.items())
            )
        except (ValueError, KeyError) as error:
            at_hand[budget] = f"{path}: cannot be judged ({error})"
    doc = (analysis.__doc__ or "").strip().splitlines()[0]
    costs = {budget: analysis.cost(budget) for budget in BUDGETS}
    return {"claim": doc.partition(": ")[2] or doc, "budgets": costs, "results": at_hand}


def as_row(v: Any) -> dict[str, Any]:
    return {
        "claim": v.claim,
        **v.which,
        "figure": v.figure,
        "verdict": v.verdict,
        "change": v.whole._asdict(),
        "against": v.against,
        "lowest_at": v.lowest_at,
        "unit": v.unit,
        "note": v.note,
    }


def show_verdicts(found: Sequence[Any]) -> None:
    for claim in dict.fromkeys(v.claim for v in found):
        table = Table(box=box.SIMPLE_HEAD, title=claim, title_justify="left")
        of_claim = [v for v in found if v.claim == claim]
        for column in ("figure", *of_claim[0].which, "effect \\[interval]", "verdict"):
            table.add_column(column, no_wrap=column.startswith(("figure", "effect")))
        for v in of_claim:
            table.add_row(v.figure, *v.which.values(), effect(v).replace("[", "\\["), v.words)
        console().print(table)


def effect(v: Any) -> str:
    value, low, high = map(text, v.whole)
    return ("+" if v.whole.value > 0 else "") + f"{value} [{low}, {high}]" + (f" {v.unit}" if v.unit else "")
