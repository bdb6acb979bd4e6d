"""gradlab sweep: a training for every pair of temperatures and every seed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gradlab.settings import BINARY_AUTOENCODER, Settings

from .options import Decorator, data_options, out_option, together, workers_options
from .output import wrote
from .paths import check_no_input, check_writable, data_files
from .specs import Seeds, SweepSpec
from .training_options import (
    OF_CELLS,
    OF_TRACKING,
    autoencoder_options,
    autoencoder_settings,
    check_tracking,
    settings_options,
    tracking_options,
    vae_options,
    vae_settings,
    where_options,
)

of_temperatures = together(
    click.option(
        "--tf", type=SweepSpec(), required=True, help="Forward temperatures: 0.3,1,1.6 or 0.3:3.0:10 (a range)."
    ),
    click.option(
        "--tb", type=SweepSpec(), required=True, help="Backward temperatures. In both, 1:0.3:cosine is a schedule."
    ),
    click.option("--seeds", type=Seeds(), default="5", show_default=True, help="5 (0 to 4), 3:7 or 0,1,7."),
)
of_cells = together(
    click.option(
        "--folder",
        type=click.Path(file_okay=False),
        default="results/sweep",
        show_default=True,
        help="Folder of the cells. Each cell is one file.",
    ),
    click.option(
        "--resume",
        type=click.Choice(["auto", "never"]),
        default="auto",
        show_default=True,
        help="auto: continue with the cells in --folder, and do nothing if all are finished; never: refuse a folder"
        " that is not empty.",
    ),
    click.option("--retry-failed", is_flag=True, help="Train failed cells again."),
    click.option("--keep-models", is_flag=True, help="Keep the trained models in --folder."),
)


def grid_options(model: Decorator, settings: Decorator) -> Decorator:
    """The options of a sweep, with those of a model and its settings."""
    what = (of_temperatures, model, data_options("mnist"), settings)
    return together(*what, tracking_options, workers_options, of_cells, out_option("sweep.h5"), where_options)


@click.group()
def sweep() -> None:
    """Train a model for every pair of temperatures and every seed.

    \b
    Examples:
      gradlab sweep vae --tf 0.3:3.0:10 --tb 0.3:3.0:10 --seeds 10 --workers 8
      gradlab sweep binary-ae --tf 0.3,1 --tb 0.3:6.0:5 --seeds 5 --scheduler tcp://host:8786

    If a sweep is interrupted, the same command continues it. Several sweeps on one --folder share the work.
    """


@sweep.command()
@grid_options(vae_options, settings_options(Settings(), OF_CELLS, lr="5e-4; 7e-4 for 16 categories x 12 latents"))
def vae(latents, categories, top_k, lr, **others) -> None:
    """Train categorical VAEs over a grid, with the paper's settings.

    \b
    Examples:
      gradlab sweep vae --tf 0.5,1,1.6 --tb 0.5,1,1.3 --seeds 3 --epochs 10 --workers 2
      gradlab sweep vae --tf 1.6,1:0.3,1:0.3:cosine --tb 1.3 --track bias --track-every 20
      gradlab sweep vae --top-k 2 --estimator rloo --tf 0.5,1 --tb 1

    Each training is one file in --folder. If the sweep is interrupted, the same command continues it. Several sweeps on
    one --folder share the work.
    """
    _sweep(Settings(), **vae_settings(latents, categories, top_k, lr), **others)


@sweep.command("binary-ae")
@grid_options(autoencoder_options, settings_options(BINARY_AUTOENCODER, OF_CELLS))
def binary_ae(preset, width, depth, **others) -> None:
    """Train binary autoencoders over a grid.

    \b
    Example:
      gradlab sweep binary-ae --tf 0.3,1,3 --tb 0.3,1,3,6 --seeds 5 --epochs 100 --device cuda --tf32

    Each training is one file in --folder. If the sweep is interrupted, the same command continues it. Several sweeps on
    one --folder share the work.
    """
    _sweep(BINARY_AUTOENCODER, **autoencoder_settings(preset, width, depth), **others)


def _check_out(out: str, folder: str) -> None:
    """Raises UsageError for a name that a cell may have: the collected results would replace it."""
    from gradlab.sweeps.cells import NAME

    path = Path(os.path.realpath(out))
    if len(path.stem) == NAME and path.parent == Path(os.path.realpath(folder)):
        raise click.UsageError(f"--out: expected a name that no cell in --folder has, got {out!r}")


def _sweep(defaults, config, *, data, data_dir, out, as_json, track, workers, scheduler, resume, **options) -> None:
    import dataclasses

    from gradlab import datasets, results, sweeps

    from . import sweep_report

    if scheduler is not None and workers > 1:
        raise click.UsageError("--workers: expected none with --scheduler, which has its own workers")
    tracking = check_tracking(track, {name: options.pop(name) for name in OF_TRACKING})
    of_training = {name: options.pop(name) for name in OF_CELLS}
    images = datasets.load(data, "train", data_dir)
    config = config | {"image_shape": list(images.pixels.shape[1:])}
    base = dataclasses.replace(defaults, config=config, **of_training)
    _check_out(out, options["folder"])
    check_no_input([out], data_files(data, data_dir))
    check_writable(out)
    if resume == "never" and os.path.isdir(options["folder"]) and os.listdir(options["folder"]):
        raise FileExistsError(
            f"{options['folder']}: expected an empty folder beside --resume never, got one with files"
        )
    options |= tracking | {"track": track, "workers": workers, "scheduler": scheduler}
    ds = sweeps.sweep(base, images, datasets.load(data, "test", data_dir), progress=True, **options)
    replaced = [out] if os.path.exists(out) else []
    results.save_results(ds, out)
    sweep_report.report(ds, as_json, [out] if as_json else [])
    if not as_json:
        wrote(out, replaced)
    failed = sweep_report.failures(ds)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {int((ds.status != 'missing').sum())} cells failed; the first: {failed[0]['error']}"
            " (--retry-failed trains them again)"
        )
