"""gradlab show and gradlab plot: results files, read and drawn."""

from __future__ import annotations

import click

from .options import check_writable, figure_path, json_option


@click.command()
@click.argument("results", type=click.Path(dir_okay=False))
@json_option
def show(results, as_json):
    """Print a results file: figures with intervals, and how they were made.

    \b
    Example:
      gradlab show bias.h5
    """
    from gradlab.results import open_results

    from . import output

    ds = open_results(results)
    output.report(ds, as_json, [])
    if not as_json:
        output.provenance(ds)


@click.command()
@click.argument("results", type=click.Path(dir_okay=False))
@click.option(
    "--kind",
    type=click.Choice(["auto", "trends", "heatmap", "comparison"]),
    default="auto",
    show_default=True,
    help="auto: what suits the file.",
)
@click.option("--variable", default="relative_bias_debiased", show_default=True, help="What a heatmap shows.")
@click.option("--target", help="Draw this target law only.")
@click.option("--out", type=click.Path(dir_okay=False), help="PNG, PDF or SVG.  [default: RESULTS.png]")
def plot(results, kind, variable, target, out):
    """Draw a results file: trends (figure 6), a heatmap over temperatures, or a comparison of estimators.

    \b
    Examples:
      gradlab plot bias.h5
      gradlab plot grid.h5 --kind heatmap --variable relative_std --out std.pdf
    """
    from gradlab import plots
    from gradlab.results import open_results

    ds = open_results(results)
    if kind == "trends":
        figure = plots.bias_trends(ds, target=target)
    elif kind == "heatmap":
        figure = plots.heatmap(ds, variable, target=target)
    elif kind == "comparison":
        figure = plots.comparison(ds, target=target)
    else:
        figure = plots.auto(ds, target)
    out = out or figure_path(results)
    check_writable(out)
    plots.save(figure, out)
    click.echo(f"wrote {out}")
