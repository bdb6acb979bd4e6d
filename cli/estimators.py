"""gradlab estimators and check-estimator: the catalogue, and a test of any estimator."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
import sys
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from gradlab.choices import ESTIMATORS

from . import importing
from .options import json_option, seed_option
from .specs import EstimatorSpec, completes

OTHER = (1.6, 0.7)  # tf and tb of the second check: at 1, an estimator that ignores a temperature is correct too


@click.command()
@click.argument("names", nargs=-1, type=EstimatorSpec(), metavar="[NAME]...")
@click.option("--formulas", is_flag=True, help="Also print formulas and references.")
@json_option
def estimators(names, formulas, as_json):
    """List the gradient estimators, or those named, with their parameters and requirements.

    \b
    Examples:
      gradlab estimators --formulas
      gradlab estimators st-gs rloo:n=4 --formulas
      gradlab estimators --json
    """
    from gradlab.estimators import describe

    from . import output

    output.catalogue(describe(*names), as_json, formulas)


@click.command("check-estimator")
@click.argument("estimator", shell_complete=completes(ESTIMATORS))
@click.option("--draws", type=click.IntRange(min=2), default=200_000, show_default=True, help="Estimates per problem.")
@seed_option
@json_option
def check_estimator(estimator, draws, seed, as_json):
    """Test any estimator, including your own, for bias and for the protocol.

    ESTIMATOR is a registered name, NAME or NAME:KEY=VALUE,..., or MODULE:NAME, a class or an instance in a module of
    the current folder or of the environment. Importing a module EXECUTES its code: check only code that you trust.

    The mean of many estimates is compared with the exact gradient, found by enumeration, on five small problems, at the
    estimator's temperatures and at tf = 1.6, tb = 0.7. The exit code is 0 if the estimator is as declared, else 1.

    \b
    Examples:
      gradlab check-estimator rloo:n=4
      gradlab check-estimator my_module:MyEstimator --draws 50000
    """
    from gradlab import progress
    from gradlab.estimators import conformance

    with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for the verdict
        tested = _named(estimator)
        other = tested.at(*OTHER)
        at = [tested] if other == tested else [tested, other]
        total = draws * len(conformance.problems_of(tested)) * len(at)
        with progress.bar("checking", total, shown=True) as advance:
            reports = [conformance.check(one, draws=draws, seed=seed, advance=advance) for one in at]
    verdicts = [(_temperatures(one), v) for one, report in zip(at, reports, strict=True) for v in report.verdicts]
    violations = tuple(dict.fromkeys(text for report in reports for text in report.violations))
    whole = dataclasses.replace(reports[0], verdicts=tuple(v for _, v in verdicts), violations=violations)
    if as_json:
        click.echo(json.dumps(_as_json(estimator, whole, verdicts, draws, seed), allow_nan=False))
    else:
        _print(estimator, whole, verdicts, draws, seed)
    if not whole.conforms:
        raise click.ClickException(f"{whole.estimator} does not keep its promises: {_broken(whole, verdicts)}")


def _named(text: str) -> Any:
    """The estimator with this name. Raises ValueError if there is none."""
    from gradlab import errors
    from gradlab.estimators import Estimator, dictionary, parse

    where, colon, name = text.partition(":")
    if not colon or "=" in name or dictionary.is_word(text):
        return parse(text)
    if not (where and name):
        raise ValueError(f"estimator: expected NAME, NAME:KEY=VALUE or MODULE:NAME, got {text!r}")
    there = importing.contents("estimator", where, "registered estimators: gradlab estimators")
    known = [key for key, value in there.items() if _is_estimator(value) and not inspect.isabstract(value)]
    if name not in there:
        if not known:
            raise ValueError(
                f"estimator: expected an estimator in module {where!r}, got none, under {name!r} or another name"
            )
        raise errors.unknown_name(f"estimator in {where}", name, known)
    found = there[name]
    if not _is_estimator(found):
        raise ValueError(
            f"estimator: expected a subclass or an instance of gradlab.estimators.Estimator, got {text}, a"
            f" {type(found).__name__}"
        )
    return found if isinstance(found, Estimator) else importing.made("estimator", text, found)


def _is_estimator(value: Any) -> bool:
    from gradlab.estimators import Estimator

    return isinstance(value, Estimator) or (isinstance(value, type) and issubclass(value, Estimator))


def _temperatures(estimator: Any) -> dict[str, float]:
    return {key: value for key, value in estimator.parameters.items() if key in ("tf", "tb")}


def _agrees(report: Any, verdict: Any) -> bool | None:
    """Whether a verdict is as declared; None where it says nothing: "biased" need not show on every problem."""
    if report.unbiased:
        return not verdict.biased
    return True if verdict.biased else None


def _words(report: Any, verdict: Any) -> str:
    said = {True: ", as declared", False: ", NOT as declared", None: ": no bias found here"}
    return f"{'biased' if verdict.biased else 'unbiased'}{said[_agrees(report, verdict)]}"


def _broken(report: Any, verdicts: list[tuple[dict[str, float], Any]]) -> str:
    if report.violations:
        rules = dict.fromkeys(text.split(": ", 2)[1] for text in report.violations)
        return f"the protocol is not kept ({', '.join(rules)})"
    if not report.unbiased:
        return "declared biased, but no bias was found; declare unbiased = True, or look closer with --draws"
    found = [f"{v.problem} at {_at(where)}" for where, v in verdicts if v.biased]
    return f"declared unbiased, but biased on {'; '.join(found)}"


def _at(temperatures: dict[str, float]) -> str:
    return ", ".join(f"{key} = {value:g}" for key, value in temperatures.items())


def _as_json(source: str, report: Any, verdicts: list, draws: int, seed: int) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    problems = [
        {
            "problem": v.problem,
            **where,
            "relative_bias": number(v.relative_bias),
            "relative_standard_error": number(v.standard_error / v.exact_norm),
            "relative_variance": number(v.variance / v.exact_norm**2),
            "z": number(v.z),
            "p_value": number(v.p_value),
            "resolution": number(v.resolution),
            "biased": v.biased,
            "as_declared": _agrees(report, v),
        }
        for where, v in verdicts
    ]
    return {
        "estimator": report.estimator,
        "source": source,
        "declared_unbiased": report.unbiased,
        "conforms": report.conforms,
        "violations": list(report.violations),
        "problems": problems,
        "draws": draws,
        "seed": seed,
    }


def _print(source: str, report: Any, verdicts: list, draws: int, seed: int) -> None:
    from gradlab.estimators import conformance

    from .output import console

    to = console()
    name = report.estimator if report.estimator == source else f"{report.estimator} ({source})"
    declared = "unbiased" if report.unbiased else "biased"
    to.print(f"{escape(name)}: declared {declared}; {draws:,} draws per problem, seed {seed}", highlight=False)
    rules = conformance.rules()
    if report.violations:
        for rule, asked in rules.items():
            found = [one.split(": ", 2) for one in report.violations if one.split(": ", 2)[1] == rule]
            if found:
                to.print(f"\n[bold]protocol broken: {rule}[/bold]\n  asked: {escape(asked)}", highlight=False)
            for kind, _, words in found:
                to.print(f"  {kind} latents: {escape(words)}", highlight=False)
        to.print("\na break may follow from one above it; bias is tested once the protocol is kept", highlight=False)
        return
    to.print(f"protocol: kept ({len(rules)} rules)", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("problem", no_wrap=True)
    temperatures = list(verdicts[0][0])
    for column in (*temperatures, "bias/|g|", "s.e./|g|", "z", "p", "variance/|g|²"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for where, v in verdicts:
        figures = (v.relative_bias, v.standard_error / v.exact_norm, v.z)
        p = "<1e-99" if v.p_value < 1e-99 else f"{v.p_value:.2g}"
        cells = [f"{number:.3g}" for number in (*where.values(), *figures)]
        table.add_row(v.problem, *cells, p, f"{v.variance / v.exact_norm**2:.3g}", _words(report, v))
    to.print(table)
    finest = 100 * max(v.resolution for _, v in verdicts)
    for line in (
        "|g|: norm of the exact gradient.  bias: |mean - g|; without bias it would be about s.e., its standard error",
        "z: deviation of the worst of all coordinates, in standard errors",
        f"p: chance of such a z without bias; below {verdicts[0][1].failure_rate:g}, the verdict is biased",
        "variance: of one draw, summed over coordinates",
        f"resolution: a bias of {finest:.2g} % of |g| in a single coordinate is found in half of all checks, or more",
    ):
        to.print(line, highlight=False)
    if report.conforms:
        to.print(f"[bold]{escape(report.estimator)} keeps its promises[/bold]", highlight=False)
