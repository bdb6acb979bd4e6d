"""gradlab show and gradlab plot: print and draw results files."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.core import ParameterSource

from .options import data_options, json_option
from .output import say, wrote
from .paths import as_results, check_no_input, check_writable, data_files, figure_path

# values of --kind other than auto and heatmap, and the function of gradlab.plots that draws them
KINDS = {
    "trends": "bias_trends",
    "comparison": "comparison",
    "tradeoff": "tradeoff",
    "parameters": "parameters",
    "gap": "gap",
    "losses": "losses",
    "schedules": "schedules",
    "curves": "training_curves",
    "tracked": "tracked",
}
WITH_TARGET = ("trends", "comparison", "parameters", "tradeoff")
SIZES = ("column", "page", "slide")
COMMAND_LINE = ParameterSource.COMMANDLINE


@click.command()
@click.argument("results", type=click.Path(dir_okay=False))
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "latex", "markdown"]),
    default="table",
    show_default=True,
    help="csv: all metrics, for computing; latex (booktabs) and markdown: the leading ones, for publishing.",
)
@json_option
def show(results, form, as_json):
    """Print a results file: values with intervals, and how they were measured.

    \b
    Example:
      gradlab show bias.h5
      gradlab show bias.h5 --format latex
    """
    from gradlab.kinds import kind
    from gradlab.results import open_results

    from . import recommend, report, sweep_report

    if as_json and form != "table":
        raise click.UsageError(f"--format {form}: expected no --json beside it")
    with as_results(results):
        ds = open_results(results)
        if form != "table":
            from gradlab.reports.tables import table

            say(table(ds, form).removesuffix("\n"))
        elif kind(ds).name == "recommendation":
            recommend.show(ds, as_json)
        elif "kl" in ds.dims:
            sweep_report.report_each_kl(ds, as_json)
        elif kind(ds).of_trainings:
            from gradlab.sweeps import with_means

            sweep_report.report(with_means(ds), as_json, [])
        else:
            report.report(ds, as_json, [])
            if not as_json:
                report.provenance(ds)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False), metavar="RESULTS")
@click.option(
    "--kind",
    type=click.Choice(["auto", *KINDS, "heatmap"]),
    default="auto",
    show_default=True,
    help="auto: the plot that fits the file.",
)
@click.option(
    "--variable",
    help="Variable of a heatmap.  [default: the leading metric, or the mean loss of a sweep]",
)
@click.option("--target", help="Draw only this target law.")
@click.option("--checkpoint", help="Draw only this checkpoint of a gap.")
@click.option("--reconstructions", is_flag=True, help="RESULTS is a checkpoint: draw images and their reconstructions.")
@click.option("--images", type=click.IntRange(min=1), default=20, show_default=True, help="For --reconstructions.")
@data_options("mnist-sample")
@click.option(
    "--size", type=click.Choice(SIZES), help="Width and letters: 3.35, 5.5 or 10 inches.  [default: as drawn]"
)
@click.option("--caption", is_flag=True, help="Draw the caption too. The file's metadata hold it in any case.")
@click.option("--out", type=click.Path(dir_okay=False), help="PNG, PDF or SVG.  [default: RESULTS.png]")
def plot(file, kind, variable, target, checkpoint, reconstructions, images, data, data_dir, size, caption, out):
    """Draw a results file: trends (figure 6), a heatmap over temperatures, a comparison of estimators, bias against
    standard deviation, the encoder's parameter tensors, the gradient gap (figure 5); losses (figures 2 to 4), schedules
    (table 1) or training curves of a sweep; bias or gap tracked during a training; or reconstructions of images by a
    trained model.

    \b
    Examples:
      gradlab plot bias.h5
      gradlab plot grid.h5 --kind heatmap --variable relative_std --out std.pdf
      gradlab plot compared.h5 --kind tradeoff --size column --out tradeoff.pdf
      gradlab plot sweep.h5 --kind curves
      gradlab plot ae.safetensors --reconstructions
    """
    from gradlab import plots

    _check_usage(kind, variable, target, checkpoint, reconstructions)
    out = out or figure_path(file)
    check_no_input([out], [file, *(data_files(data, data_dir) if reconstructions else [])])
    if reconstructions:
        figure = _reconstructions(file, images, data, data_dir)
    else:
        with as_results(file):
            figure = _figure(file, kind, variable, target, checkpoint)
    check_writable(out, "FIGURE")
    replaced = [out] if os.path.exists(out) else []
    with as_results(file):
        plots.save(figure, out, size=size, caption=caption)
    wrote(out, replaced)


def _check_usage(kind, variable, target, checkpoint, reconstructions) -> None:
    """Raises UsageError for options without effect."""
    context = click.get_current_context()
    given = {name for name in ("images", "data", "data_dir") if context.get_parameter_source(name) is COMMAND_LINE}
    if given and not reconstructions:
        raise click.UsageError(f"--{min(given).replace('_', '-')}: needs --reconstructions")
    if reconstructions and (kind != "auto" or variable or target or checkpoint):
        raise click.UsageError(
            "--reconstructions: draws a checkpoint; --kind, --variable, --target and --checkpoint need results"
        )
    if variable and kind not in ("auto", "heatmap"):
        raise click.UsageError(f"--variable: needs --kind heatmap, got {kind}")
    if checkpoint and kind not in ("auto", "gap"):
        raise click.UsageError(f"--checkpoint: needs --kind gap, got {kind}")
    if target and (checkpoint or kind not in ("auto", "heatmap", *WITH_TARGET)):
        raise click.UsageError(f"--target: needs a plot of bias, got {'gap' if checkpoint else kind}")


def _figure(path, kind, variable, target, checkpoint):
    from gradlab import kinds, plots
    from gradlab.results import open_results

    ds = open_results(path)
    if kinds.kind(ds).of_trainings:
        from gradlab.sweeps import with_means

        ds = with_means(ds)
    if kind == "heatmap" or variable:
        return plots.heatmap(ds, variable or kinds.first_metrics(ds)[0], target=target)
    if kind == "gap" or checkpoint is not None:
        return plots.gap(ds, checkpoint)
    if kind == "auto":
        return plots.auto(ds, target)
    draw = getattr(plots, KINDS[kind])
    return draw(ds, target=target) if kind in WITH_TARGET else draw(ds)


def _reconstructions(path, images, data, data_dir):
    from gradlab import checkpoints, datasets, plots
    from gradlab.setup import reconstruct

    model, about = checkpoints.load_described(path)
    observed = datasets.load(data, "test", data_dir).first(images)
    x = observed.floats()
    tf = float(about.get("trained_tf", 1.0))
    name = Path(path).name
    caption = f"{name}; {observed.described()['data']}; one code per image from softmax(l/tf) at tf = {tf:g}"
    return plots.reconstructions(x, reconstruct(model, x, tf), caption)
