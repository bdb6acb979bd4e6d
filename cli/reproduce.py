"""gradlab reproduce: the paper's figures and table, measured, with a verdict on each claim."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from .options import (
    data_dir_option,
    device_option,
    ensemble_option,
    json_option,
    scheduler_option,
    tf32_option,
    warnings_as_lines,
    workers_option,
)

ANALYSES = {
    "figure2": "figure2_binary_autoencoder",
    "figure3": "figure3_vae_8x4",
    "figure4": "figure4_vae_16x12",
    "figure4-kl": "figure4_kl",
    "figure5": "figure5_gradient_gap",
    "figure6": "figure6_bias_variance",
    "table1": "table1_schedules",
    "bias-direction": "bias_direction",
    "gap-and-bias": "gap_and_bias",
    "fidelity-and-loss": "fidelity_and_loss",
}
BUDGETS = ("quick", "standard", "paper")
# over a grid of temperatures and seeds
TRAININGS = ("figure2", "figure3", "figure4", "figure4-kl", "table1", "fidelity-and-loss")
WITH_KL = ("figure3", "figure4", "fidelity-and-loss")
KLS = ("none", "model", "sampled")


class Duration(click.ParamType):
    """`90s`, `10m` or `2h`, in seconds."""

    name = "duration"

    def convert(self, value, param, ctx):
        if isinstance(value, float):
            return value
        number, unit = value[:-1], value[-1:]
        try:
            seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
        except (ValueError, KeyError):
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"expected 90s, 10m or 2h, got {value!r}", param, ctx)
        return seconds


@click.command()
@click.argument("name", required=False, type=click.Choice(list(ANALYSES)))
@click.option("--all", "everything", is_flag=True, help="Run all, one after the other, and write OUT/summary.md.")
@click.option(
    "--budget",
    type=click.Choice(BUDGETS),
    default="quick",
    show_default=True,
    help="quick: at most ten minutes each on two cores; standard: hours, except figures 5 and 6; paper: for a GPU or a"
    " cluster.",
)
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    help="A trained model: any for figure 5, an 8x4 VAE for figure 6.  [default: the bundled one]",
)
@click.option("--images", type=click.IntRange(min=1), help="Replaces the number of the budget.")
@click.option(
    "--seeds", type=click.IntRange(min=1), help="Replaces the number of the budget; analyses that train a grid."
)
@click.option("--time", type=Duration(), help="Train the number of seeds that fits into 90s, 10m or 2h.")
@click.option("--kl", type=click.Choice(KLS), help="KL term of the training loss of VAEs.  [default: model]")
@click.option(
    "--from",
    "collected",
    type=click.Path(dir_okay=False),
    help="Judge and draw the results file of an earlier run, without measuring.",
)
@click.option("--draws", type=click.IntRange(min=2), help="Replaces the number of the budget; figures 5 and 6.")
@click.option("--data", help="See `gradlab data list`.  [default: mnist; table 1 cifar10; figures 5, 6 mnist-sample]")
@data_dir_option
@workers_option
@ensemble_option
@tf32_option
@scheduler_option
@device_option
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default="results",
    show_default=True,
    help="Folder for figures, results and trainings.",
)
@json_option
def reproduce(name, everything, budget, out, as_json, device, collected, **given):
    """Measure a figure or table of the paper (arXiv 2410.13331 v1) and judge its claims. Without NAME, list them.

    \b
    Examples:
      gradlab reproduce
      gradlab reproduce figure6 --budget standard
      gradlab reproduce --all --workers 2
      gradlab reproduce figure3 --budget paper --device cuda --time 30m
      gradlab reproduce figure3 --budget paper --scheduler tcp://host:8786
      gradlab reproduce figure3 --from results/figure3-paper.h5

    If it is interrupted, the same command continues.
    """
    from . import studies

    _check_usage(name, everything, collected, **given)
    if name is None and not everything:
        studies.listing({key: _module(key) for key in ANALYSES}, Path(out), as_json)
        return
    if collected is not None:
        studies.again(name, _module(name), Path(collected), Path(out), as_json)
        return
    from gradlab.analyses.run_options import Given

    from .options import check_writable, resolve_device

    check_writable(str(Path(out) / "summary.md"))
    options = Given(folder=Path(out), device=resolve_device(device), progress=True, **given)
    with warnings_as_lines():
        if name is not None:
            studies.one(name, _module(name), options, budget, as_json)
            return
        studies.all_of({key: _module(key) for key in ANALYSES}, options, budget, as_json)


def _check_usage(name, everything, collected, seeds, time, kl, **others):
    """Raises UsageError for options without effect."""
    if name is not None and everything:
        raise click.UsageError(f"--all: runs every analysis; remove {name}")
    for option, value, of in (("--seeds", seeds, TRAININGS), ("--time", time, TRAININGS), ("--kl", kl, WITH_KL)):
        if value is not None and name not in of and (not everything or option == "--kl"):
            raise click.UsageError(f"{option}: only for {', '.join(of)}; name one of them")
    if collected is not None and name is None:
        raise click.UsageError("--from: needs the NAME of the analysis that wrote the file")


def _module(name: str) -> Any:
    return importlib.import_module(f"..analyses.{ANALYSES[name]}", __package__)
