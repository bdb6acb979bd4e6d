"""gradlab reproduce: the paper's figures, measured, with a verdict on each claim."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from .options import data_dir_option, data_option, device_option, json_option

ANALYSES = {"figure5": "figure5_gradient_gap", "figure6": "figure6_bias_variance"}


@click.command()
@click.argument("name", required=False, type=click.Choice(list(ANALYSES)))
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    help="A trained model: figure 5 any, figure 6 an 8x4 VAE.  [default: the bundled one]",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    help="The first so many of the test split.  [default: 64 for figure 5, 100 for figure 6]",
)
@data_option
@data_dir_option
@click.option(
    "--draws", type=click.IntRange(min=2), help="Draws per point.  [default: 64 for figure 5, 1024 for figure 6]"
)
@device_option
@click.option(
    "--out", type=click.Path(file_okay=False), default="results", show_default=True, help="Folder for figure and data."
)
@json_option
def reproduce(name, checkpoint, images, data, data_dir, draws, device, out, as_json):
    """Measure a figure of the paper and judge its claims. Without NAME, list what there is.

    \b
    Example:
      gradlab reproduce figure6
    """
    from . import output

    if name is None:
        modules = {
            key: importlib.import_module(f"..analyses.{module}", __package__) for key, module in ANALYSES.items()
        }
        output.analyses({key: module.__doc__ or "" for key, module in modules.items()}, as_json)
        return
    from gradlab import checkpoints, datasets, plots, results

    from .options import check_writable, resolve_device

    analysis = importlib.import_module(f"..analyses.{ANALYSES[name]}", __package__)
    model, about = checkpoints.load_described(checkpoint, analysis.BUNDLED)
    observed = datasets.load(data, "test", data_dir).first(images or analysis.IMAGES)
    paths = [Path(out) / f"{name}.h5", Path(out) / f"{name}.png"]
    check_writable(str(paths[0]))
    place = resolve_device(device)
    ds = analysis.measure(model.to(place), observed.floats(), draws=draws or analysis.DRAWS, shown=True)
    ds.attrs |= about | observed.described()
    results.save_results(ds, paths[0])
    plots.save(analysis.draw(ds), paths[1])
    output.verdicts(analysis.judge(ds), as_json, [str(path) for path in paths])
