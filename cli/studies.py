"""Runs analyses and prints their verdicts."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from gradlab.analyses import BUDGETS, Analysis, RunOptions, registry
from rich import box
from rich.table import Table

from gradlab import errors
from gradlab.rounding import written

from . import importing
from .output import console, say, wrote
from .paths import as_results, check_no_input, check_writable, data_files, module_files

COLLECTED = Path(__file__).parents[1] / "analyses" / "results"  # committed: trainings that took a GPU


def results_path(folder: Path, name: str, budget: str, kl: str | None = None) -> Path:
    return folder / f"{name}-{budget}{f'-kl-{kl}' if kl else ''}.h5"


def named(text: str) -> Analysis:
    """The analysis of a name or of MODULE:NAME. Raises ValueError if there is none."""
    where, colon, name = text.partition(":")
    if not colon:
        return registry.find(text)
    if not (where and name):
        raise ValueError(f"NAME: expected NAME or MODULE:NAME, got {text!r}")
    with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for results
        there = importing.contents("NAME", where, "analyses without a module: gradlab reproduce")
    if name not in there:
        known = [key for key, value in there.items() if isinstance(value, type) and hasattr(value, "takes")]
        raise click.UsageError(str(errors.unknown_name(f"NAME: analysis in {where}", name, known)))
    return registry.of(there[name], text)


def run(analysis: Analysis, options: RunOptions, budget: str) -> tuple[list[Any], list[str], Callable[[], None]]:
    """Measure, write and judge: the verdicts, the files written, and what draws the last one, which may fail.

    Raises ValueError for what cannot be judged.
    """
    from gradlab.analyses.verdicts import PAPER

    from gradlab import results

    options = options.only(analysis.takes)
    path = results_path(options.folder, analysis.name, budget, options.kl)
    files = [str(path), str(path.with_suffix(".png"))]
    read = [options.checkpoint] if options.checkpoint else []
    read += data_files(options.data, options.data_dir) if options.data else []
    check_no_input(files, [*read, *module_files(type(analysis).__module__)])
    for out, kind in zip(files, ("RESULTS", "FIGURE"), strict=True):
        check_writable(out, kind)
    ds = analysis.measure(options, budget)
    ds.attrs |= {"reproduces": analysis.name, "budget": budget, "paper": PAPER}
    try:
        results.save_results(ds, path)
    except OSError as fault:  # a full disk costs no verdicts
        return judged(analysis, ds), [], functools.partial(_raise, fault)
    return judged(analysis, ds), files, functools.partial(draw, analysis, ds, files[-1])


def _raise(fault: OSError) -> None:
    raise fault


def again(analysis: Analysis, collected: Path, folder: Path, as_json: bool) -> None:
    """Judge and draw what an earlier run collected. ValueError for a file of another analysis."""
    from gradlab import results

    path = str(folder / collected.with_suffix(".png").name)
    check_no_input([path], [str(collected)])
    check_writable(path, "FIGURE")
    ds = results.open_results(collected)
    if (of := ds.attrs.get("reproduces")) not in (analysis.name, *analysis.also_from):
        cure = f"of {of}" if of else "of no analysis (gradlab show, plot and report take it)"
        raise ValueError(f"--from: expected results of {analysis.name}, got {collected}, which is {cure}")
    with as_results(str(collected)):
        tell(
            judged(analysis, ds, str(collected)),
            [path],
            functools.partial(draw, analysis, ds, path),
            there([path]),
            as_json,
        )


def judged(analysis: Analysis, ds: Any, file: str = "") -> list[Any]:
    """The verdicts. Raises ValueError, with the name of the file, for results that lack what is judged."""
    try:
        return list(analysis.judge(ds))
    except KeyError as error:
        name = f"{file}: {analysis.name}" if file else analysis.name
        raise ValueError(f"{name}: expected results that can be judged, got others ({error.args[0]})") from None


def draw(analysis: Analysis, ds: Any, path: str) -> None:
    from gradlab import plots

    plots.save(analysis.draw(ds), path)


def there(files: Sequence[str]) -> list[str]:
    return [path for path in files if os.path.exists(path)]


def one(analysis: Analysis, options: RunOptions, budget: str, as_json: bool) -> None:
    path = results_path(options.folder, analysis.name, budget, options.only(analysis.takes).kl)
    before = there([str(path), str(path.with_suffix(".png"))])
    verdicts, files, draw_it = run(analysis, options, budget)
    tell(verdicts, files, draw_it, before, as_json)


def tell(
    found: Sequence[Any], files: Sequence[str], draw_it: Callable[[], None], replaced: Sequence[str], as_json: bool
) -> None:
    """Verdicts and files, on the terminal or as JSON; then the figure, the last file: its faults cost nothing else."""
    if as_json:
        click.echo(json.dumps({"verdicts": [as_row(v) for v in found], "files": list(files)}, allow_nan=False))
        draw_it()
        return
    show_verdicts(found)
    for path in files[:-1]:
        wrote(path, replaced)
    draw_it()
    for path in files[-1:]:
        wrote(path, replaced)


def all_of(analyses: Sequence[Analysis], options: RunOptions, budget: str, as_json: bool) -> None:
    """Each in turn; one that fails does not keep the others from running. SystemExit(1) if any did."""
    from gradlab import files

    path = options.folder / "summary.md"
    replaced = there([str(path)])
    found: dict[str, list[Any]] = {}
    failed: dict[str, str] = {}
    for analysis in analyses:
        name = analysis.name
        say(f"{name}: {analysis.cost(budget)}", err=True)
        try:
            found[name], _, draw_it = run(analysis, options, budget)
            draw_it()
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            failed[name] = " ".join(str(error).split())
            say(f"{name} failed: {error}", err=True)
    with files.written_aside(path) as aside:
        aside.write_text(summary(analyses, found, failed, budget))
    if as_json:
        rows = {name: [as_row(v) for v in verdicts] for name, verdicts in found.items()}
        click.echo(json.dumps({"verdicts": rows, "failed": failed, "files": [str(path)]}, allow_nan=False))
    else:
        for name, verdicts in found.items():
            console().print(f"[bold]{name}[/bold]")
            show_verdicts(verdicts)
        wrote(str(path), replaced)
    if failed:
        say(f"{len(failed)} of {len(analyses)} failed: {', '.join(failed)}", err=True)
        raise SystemExit(1)


def summary(
    analyses: Sequence[Analysis], found: Mapping[str, Sequence[Any]], failed: Mapping[str, str], budget: str
) -> str:
    """All verdicts as one table in Markdown."""
    from gradlab.outputs import SUMMARY_TITLE

    lines = [
        f"{SUMMARY_TITLE} {budget}",
        "",
        "| analysis | claim | whose | of | figure | effect [interval] | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, verdicts in found.items():
        for v in verdicts:
            which = ", ".join(v.which.values())
            lines.append(f"| {name} | {v.claim} | {whose(v)} | {which} | {v.figure} | {effect(v)} | {v.words} |")
    lines += [f"| {name} | | | | | | failed: {reason} |" for name, reason in failed.items()]
    lines += ["", *(f"- {analysis.name}: {analysis.cost(budget)}" for analysis in analyses), ""]
    return "\n".join(lines)


def listing(analyses: Sequence[Analysis], folder: Path, as_json: bool) -> None:
    """What there is, what it claims, what it costs, and what results are at hand."""
    rows = {analysis.name: described(analysis, folder) for analysis in analyses}
    if as_json:
        click.echo(json.dumps({"analyses": rows}))
        return
    for name, row in rows.items():
        say(f"{name}  {row['claim']}")
        for budget, cost in row["budgets"].items():
            say(f"  {budget:9s} {cost}")
            if budget in row["results"]:
                say(f"            at hand: {row['results'][budget]}")
        if "part" in row["results"]:
            say(f"  part      at hand: {row['results']['part']}")
    click.echo("\nRun one with `gradlab reproduce NAME --budget BUDGET`, all with `gradlab reproduce --all`.")


def described(analysis: Analysis, folder: Path) -> dict[str, Any]:
    """An analysis for the list: its claim, its cost by budget, and the verdicts of results at hand."""
    at_hand = {}
    names = (analysis.name, *analysis.also_from)
    for budget in (*BUDGETS, "part"):
        path = results_path(folder, analysis.name, budget)
        collected = [path for path in (results_path(COLLECTED, one, budget) for one in names) if path.is_file()]
        if path.is_file():
            at_hand[budget] = _at_hand(analysis, path)
        elif collected:
            at_hand[budget] = f"{collected[0]} (judge it with --from)"
    costs = {budget: analysis.cost(budget) for budget in BUDGETS}
    return {"claim": analysis.claim, "budgets": costs, "results": at_hand}


def _at_hand(analysis: Analysis, path: Path) -> str:
    from gradlab import results

    try:
        ds = results.open_results(path)
        count = Counter(v.verdict for v in judged(analysis, ds))
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(count.items()))
        return f"{path}, {str(ds.attrs['date'])[:10]}: {verdicts}"
    except Exception as error:  # a damaged file may raise any error
        return f"{path}: cannot be judged ({error})"


def as_row(v: Any) -> dict[str, Any]:
    """A verdict in JSON; null for ends and differences that no interval gives."""
    numbers = v.whole._asdict() | {"detectable": v.detectable}
    plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return {
        "claim": v.claim,
        "paper": v.paper,
        **v.which,
        "metric": v.figure,
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
    return ("+" if v.whole.value > 0 else "") + written(*v.whole) + (f" {v.unit}" if v.unit else "")
