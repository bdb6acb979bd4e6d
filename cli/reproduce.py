"""gradlab reproduce: the paper's figures and table, and other analyses, measured, with a verdict on each claim."""

from __future__ import annotations

from pathlib import Path

import click
from gradlab.analyses import BUDGETS, RunOptions, registry

from .method_options import MethodValues, method_options, resolve_device
from .options import json_option
from .paths import check_writable
from .specs import AnalysisName


@click.command()
@click.argument("name", required=False, type=AnalysisName(), metavar=f"[{'|'.join(registry.names())}|MODULE:NAME]")
@click.option("--all", "everything", is_flag=True, help="Run all, one after the other, and write OUT/summary.md.")
@click.option(
    "--budget",
    type=click.Choice(BUDGETS),
    default="quick",
    show_default=True,
    help="quick: at most ten minutes each on two cores; standard: hours, except figures 5 and 6; paper: for a GPU or a"
    " cluster.",
)
@method_options(RunOptions)
@click.option(
    "--from",
    "collected",
    type=click.Path(dir_okay=False),
    help="Judge and draw the results file of an earlier run, without measuring.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default="results",
    show_default=True,
    help="Folder for figures, results and trainings.",
)
@json_option
def reproduce(name, everything, budget, values, collected, out, as_json):
    """Measure a figure or table of the paper (arXiv 2410.13331 v1) and judge its claims. Without NAME, list them.

    NAME may also be MODULE:NAME, a class decorated with gradlab.analyses.analysis in a module of the current folder or
    of the environment. Importing the module EXECUTES its code: run only code that you trust.

    \b
    Examples:
      gradlab reproduce
      gradlab reproduce figure6 --budget standard
      gradlab reproduce --all --workers 2
      gradlab reproduce figure3 --budget paper --device cuda --time 30m
      gradlab reproduce figure3 --budget paper --scheduler tcp://host:8786
      gradlab reproduce figure3 --from results/figure3-paper.h5
      gradlab reproduce my_module:MyFigure

    If it is interrupted, the same command continues.
    """
    from . import studies

    if name is not None and everything:
        raise click.UsageError(f"--all: runs every analysis; remove {name}")
    if collected is not None and name is None:
        raise click.UsageError("--from: needs the NAME of the analysis that wrote the file")
    chosen = [studies.named(name)] if name else [registry.find(each) for each in registry.names()]
    if name is None and not everything:
        studies.listing(chosen, Path(out), as_json)
        return
    _refuse_others(values, chosen)
    if collected is not None:
        studies.again(chosen[0], Path(collected), Path(out), as_json)
        return
    if everything:
        check_writable(str(Path(out) / "summary.md"), "SUMMARY")
    options = values.make(
        RunOptions, folder=Path(out), device=resolve_device(values.by_option["--device"]), progress=True
    )
    if everything:
        studies.all_of(chosen, options, budget, as_json)
    else:
        studies.one(chosen[0], options, budget, as_json)


def _refuse_others(values: MethodValues, chosen) -> None:
    """Raises UsageError for an option that none of the analyses takes."""
    takes = {name for analysis in chosen for name in analysis.takes}
    for option in values.written(RunOptions):
        field = option.removeprefix("--").replace("-", "_")
        if field not in takes:
            of = [name for name in registry.names() if field in registry.find(name).takes]
            raise click.UsageError(f"{option}: only for {', '.join(of)}, got {chosen[0].name}")
