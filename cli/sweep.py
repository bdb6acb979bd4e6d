"""gradlab sweep: a training for every pair of temperatures and every seed."""

from __future__ import annotations

import os

import click

from . import train
from .options import (
    MOST_SEED,
    TemperatureSpec,
    check_writable,
    ensemble_option,
    out_option,
    scheduler_option,
    warnings_as_lines,
    workers_option,
)
from .output import wrote

MOST_SEEDS = 10_000
OF_TRAINING = ("data", "data_dir", "estimator", "kl", "epochs", "batch_size", "lr", "device", "tf32", "as_json")
OF_TRACKING = ("track_every", "track_images", "track_draws")


class SweepSpec(click.ParamType):
    """Temperatures separated by commas: numbers, ranges 0.3:3.0:10, schedules 1:0.3 or 1:0.3:cosine."""

    name = "spec"

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        found = [one for item in value.split(",") for one in self._item(item, param, ctx)]
        if len(set(found)) < len(found):
            self.fail(f"expected distinct temperatures, got {value!r}", param, ctx)
        return sorted(found, key=lambda one: (isinstance(one, str), one))

    def _item(self, item, param, ctx):
        from gradlab import schedules

        parts = item.split(":")
        if len(parts) == 1 or (len(parts) == 3 and parts[2].strip().isdigit()):
            return TemperatureSpec().convert(item, param, ctx)
        try:
            return [schedules.setting(param.name, item)]
        except ValueError as error:
            self.fail(str(error).removeprefix(f"{param.name}: "), param, ctx)


class Seeds(click.ParamType):
    """`5` (0 to 4), `3:7` (3 to 7) or `0,1,7`, as a list of whole numbers."""

    name = "seeds"

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        try:
            found = self._listed(value)
        except ValueError:
            found = []
        if not found or len(set(found)) < len(found) or not 0 <= min(found) <= max(found) <= MOST_SEED:
            self.fail(
                f"expected 5 (seeds 0 to 4), 3:7 (3 to 7) or 0,1,7, at most {MOST_SEEDS:,}, each once, got {value!r}",
                param,
                ctx,
            )
        return found

    def _listed(self, value):
        if "," in value:
            return [int(part) for part in value.split(",")]
        first, last = (int(part) for part in value.split(":")) if ":" in value else (0, int(value) - 1)
        return list(range(first, last + 1)) if last - first < MOST_SEEDS else []


def shared_with(training: click.Command, *own: str) -> list[click.Parameter]:
    """The options of the training of a model, with its defaults."""
    there = {str(parameter.name): parameter for parameter in training.params}
    return [there[name] for name in (*own, *OF_TRAINING, *OF_TRACKING)]


def grid_options(command):
    options = [
        click.option(
            "--tf", type=SweepSpec(), required=True, help="Forward temperatures: 0.3,1,1.6 or 0.3:3.0:10 (a range)."
        ),
        click.option(
            "--tb", type=SweepSpec(), required=True, help="Backward temperatures. In both, 1:0.3:cosine is a schedule."
        ),
        click.option("--seeds", type=Seeds(), default="5", show_default=True, help="5 (0 to 4), 3:7 or 0,1,7."),
        click.option(
            "--folder",
            type=click.Path(file_okay=False),
            default="results/sweep",
            show_default=True,
            help="Folder of the cells. Each cell is one file.",
        ),
        click.option(
            "--track", type=click.Choice(train.KINDS), multiple=True, help="Measure this during each training."
        ),
        workers_option,
        ensemble_option,
        scheduler_option,
        click.option("--retry-failed", is_flag=True, help="Train failed cells again."),
        click.option("--keep-models", is_flag=True, help="Keep the trained models in --folder."),
        out_option("sweep.h5"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def sweep() -> None:
    """Train a model for every pair of temperatures and every seed.

    \b
    Examples:
      gradlab sweep vae --tf 0.3:3.0:10 --tb 0.3:3.0:10 --seeds 10 --workers 8
      gradlab sweep binary-ae --tf 0.3,1 --tb 0.3:6.0:5 --seeds 5 --scheduler tcp://host:8786

    If a sweep is interrupted, the same command continues it. Several sweeps on one --folder share the work.
    """


@sweep.command(params=shared_with(train.vae, "latents", "categories"))
@grid_options
def vae(latents, categories, lr, **others) -> None:
    """Train categorical VAEs over a grid, with the paper's settings.

    \b
    Examples:
      gradlab sweep vae --tf 0.5,1,1.6 --tb 0.5,1,1.3 --seeds 3 --epochs 10 --workers 2
      gradlab sweep vae --tf 1.6,1:0.3,1:0.3:cosine --tb 1.3 --track bias --every 20

    Each training is one file in --folder. If the sweep is interrupted, the same command continues it. Several sweeps on
    one --folder share the work.
    """
    from gradlab.training import Settings

    if lr is None:
        lr = 7e-4 if (categories, latents) == (16, 12) else 5e-4
    _sweep(Settings(), {"latents": latents, "categories": categories}, lr=lr, **others)


@sweep.command("binary-ae", params=shared_with(train.binary_ae, "preset", "width", "depth"))
@grid_options
def binary_ae(preset, width, depth, lr, **others) -> None:
    """Train binary autoencoders over a grid.

    \b
    Example:
      gradlab sweep binary-ae --tf 0.3,1,3 --tb 0.3,1,3,6 --seeds 5 --epochs 100 --device cuda --tf32

    Each training is one file in --folder. If the sweep is interrupted, the same command continues it. Several sweeps on
    one --folder share the work.
    """
    from gradlab.networks.binary_autoencoder import PRESETS
    from gradlab.training import BINARY_AUTOENCODER

    chosen = {name: size for name, size in (("width", width), ("depth", depth)) if size is not None}
    _sweep(BINARY_AUTOENCODER, PRESETS[preset] | chosen, lr=BINARY_AUTOENCODER.lr if lr is None else lr, **others)


def _sweep(defaults, config, *, data, data_dir, out, as_json, **options) -> None:
    import dataclasses

    from gradlab import datasets, results, sweeps

    from . import sweep_report

    of_training = {name: options.pop(name) for name in ("estimator", "kl", "epochs", "batch_size", "lr")}
    _check_usage(**options)
    options = {name: value for name, value in options.items() if value is not None}
    images = datasets.load(data, "train", data_dir)
    config = config | {"image_shape": list(images.pixels.shape[1:])}
    base = dataclasses.replace(defaults, config=config, **of_training)
    check_writable(out)
    with warnings_as_lines():
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


def _check_usage(track, workers, scheduler, **others) -> None:
    """UsageError for options that have nothing to act on."""
    if scheduler is not None and workers > 1:
        raise click.UsageError("--workers: expected none with --scheduler, which has its own workers")
    for name in OF_TRACKING:
        if others[name] is not None and not track:
            option = "--every" if name == "track_every" else f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option}: needs --track")
