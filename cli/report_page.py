"""gradlab report: results files as one HTML page."""

from __future__ import annotations

import os

import click

from .output import wrote
from .paths import as_results, check_no_input, check_writable


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--out", type=click.Path(dir_okay=False), default="report.html", show_default=True, help="The page.")
def report(results, out):
    """Write one self-contained HTML page for results files: figures, sortable tables, interactive heatmaps with the
    interval of each cell, and provenance. It works offline and is readable without JavaScript.

    \b
    Example:
      gradlab report bias.h5 gap.h5 --out report.html
    """
    import gradlab

    check_no_input([out], results)
    check_writable(out, "PAGE")
    replaced = [out] if os.path.exists(out) else []
    with as_results(*results):
        gradlab.report(results, out)
    wrote(out, replaced)
