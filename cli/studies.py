"""Running analyses and telling what came of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from .output import console, text

COLLECTED = Path(__file__).parents[1] / "analyses" / "results"  # committed: trainings that took a GPU


def results_path(folder: Path, name: str, budget: str, kl: str | None = None) -> Path:
    return folder / f"{name}-{budget}{f'-kl-{kl}' if kl else ''}.h5"


def run(name: str, analysis: Any, given: Any, budget: str) -> tuple[list[Any], list[str]]:
    """Measure, write, draw and judge: the verdicts, and the files written. ValueError for what cannot be judged."""
    from gradlab.analyses.verdicts import PAPER

    from gradlab import results

    from .options import check_writable

    path = results_path(given.folder, name, budget, given.kl)
    picture = path.with_suffix(".png")
    for out in (path, picture):
        check_writable(str(out))
    ds = analysis.measure(given, budget)
    ds.attrs |= {"reproduces": name, "budget": budget, "paper": PAPER}
    results.save_results(ds, path)
    return judged(name, analysis, ds), [str(path), drawn(analysis, ds, picture)]


def again(name: str, analysis: Any, collected: Path, folder: Path, as_json: bool) -> None:
    """Judge and draw what an earlier run collected. ValueError for a file of another analysis."""
    from gradlab import results

    from .options import check_writable

    path = folder / collected.with_suffix(".png").name
    check_writable(str(path))
    ds = results.open_results(collected)
    if ds.attrs.get("reproduces") not in (name, *getattr(analysis, "ALSO_FROM", ())):
        raise ValueError(f"--from: {collected} is of {ds.attrs.get('reproduces', 'no analysis')}, not of {name}")
    tell(judged(name, analysis, ds), [drawn(analysis, ds, path)], as_json)


def judged(name: str, analysis: Any, ds: Any) -> list[Any]:
    try:
        return list(analysis.judge(ds))
    except KeyError as error:
        raise ValueError(f"{name}: cannot be judged ({error.args[0]})") from None


def drawn(analysis: Any, ds: Any, path: Path) -> str:
    from gradlab import plots

    plots.save(analysis.draw(ds), path)
    return str(path)


def one(name: str, analysis: Any, given: Any, budget: str, as_json: bool) -> None:
    tell(*run(name, analysis, given, budget), as_json)


def tell(found: Sequence[Any], written: Sequence[str], as_json: bool) -> None:
    """Verdicts and files, on the terminal or as JSON."""
    if as_json:
        click.echo(json.dumps({"verdicts": [as_row(v) for v in found], "files": list(written)}, allow_nan=False))
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
        click.echo(json.dumps({"verdicts": rows, "failed": failed, "files": [str(path)]}, allow_nan=False))
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
        "| analysis | claim | whose | of | figure | effect [interval] | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, verdicts in found.items():
        for v in verdicts:
            which = ", ".join(v.which.values())
            lines.append(f"| {name} | {v.claim} | {whose(v)} | {which} | {v.figure} | {effect(v)} | {v.words} |")
    lines += [f"| {name} | | | | | | failed: {reason} |" for name, reason in failed.items()]
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
        if "part" in row["results"]:
            click.echo(f"  part      at hand: {row['results']['part']}")
    click.echo("\nRun one with `gradlab reproduce NAME --budget BUDGET`, all with `gradlab reproduce --all`.")


def described(name: str, analysis: Any, folder: Path) -> dict[str, Any]:
    """An analysis for the list: its claim, its cost by budget, and the verdicts of results at hand."""
    from gradlab.analyses.run_options import BUDGETS

    at_hand = {}
    names = (name, *getattr(analysis, "ALSO_FROM", ()))
    for budget in (*BUDGETS, "part"):
        path = results_path(folder, name, budget)
        collected = [path for path in (results_path(COLLECTED, one, budget) for one in names) if path.is_file()]
        if path.is_file():
            at_hand[budget] = _at_hand(name, analysis, path)
        elif collected:
            at_hand[budget] = f"{collected[0]} (judge it with --from)"
    doc = (analysis.__doc__ or "").strip().splitlines()[0]
    costs = {budget: analysis.cost(budget) for budget in BUDGETS}
    return {"claim": doc.partition(": ")[2] or doc, "budgets": costs, "results": at_hand}


def _at_hand(name: str, analysis: Any, path: Path) -> str:
    from gradlab import results

    try:
        ds = results.open_results(path)
        count = Counter(v.verdict for v in judged(name, analysis, ds))
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(count.items()))
        return f"{path}, {str(ds.attrs['date'])[:10]}: {verdicts}"
    except (ValueError, KeyError) as error:
        return f"{path}: cannot be judged ({error})"


def as_row(v: Any) -> dict[str, Any]:
    """A verdict in JSON; null for ends and differences that no interval gives."""
    numbers = v.whole._asdict() | {"detectable": v.detectable}
    plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return {
        "claim": v.claim,
        "paper": v.paper,
        **v.which,
        "figure": v.figure,
        "verdict": v.verdict,
        "lacks": v.lacks,
        "detectable": plain.pop("detectable"),
        "change": plain,
        "against": v.against,
        "lowest_at": v.lowest_at,
        "unit": v.unit,
        "note": v.note,
    }


def show_verdicts(found: Sequence[Any]) -> None:
    for claim in dict.fromkeys(v.claim for v in found):
        of_claim = [v for v in found if v.claim == claim]
        title = f"{claim} ({whose(of_claim[0])})"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for column in ("figure", *of_claim[0].which, "effect \\[interval]", "verdict"):
            table.add_column(column, no_wrap=column.startswith(("figure", "effect")))
        for v in of_claim:
            table.add_row(v.figure, *v.which.values(), effect(v).replace("[", "\\["), v.words.replace("[", "\\["))
        console().print(table)


def whose(v: Any) -> str:
    return str(v.paper or "not a claim of the paper")


def effect(v: Any) -> str:
    value, low, high = map(text, v.whole)
    return ("+" if v.whole.value > 0 else "") + f"{value} [{low}, {high}]" + (f" {v.unit}" if v.unit else "")
