"""gradlab check-layer: what a layer of your own is, and what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from typing import Any

import click

from . import importing
from .options import json_option, seed_option


@click.command("check-layer")
@click.argument("layer", metavar="MODULE:NAME")
@click.option("--tf", type=float, default=1.0, show_default=True, help="Forward temperature that the layer is given.")
@click.option("--tb", type=float, default=1.0, show_default=True, help="Backward temperature that the layer is given.")
@click.option("--categories", type=int, default=5, show_default=True, help="Categories of each latent.")
@click.option("--latents", type=int, default=3, show_default=True, help="Number of latents.")
@click.option("--binary", is_flag=True, help="One logit for each unit; no categories.")
@seed_option
@json_option
def check_layer(layer, tf, tb, categories, latents, binary, seed, as_json):
    """Say what a layer samples, which estimator it is, how biased it is, and what is wrong with it.

    MODULE:NAME is a function of logits (row, latent, category) that returns codes, a torch module, an
    autograd.Function, or a class or function without arguments that makes one. It is given tf and tb if it has
    arguments called tf, tb, tau or temperature, or three arguments. Importing a module EXECUTES its code: check only
    code that you trust.

    The exit code is 0 whatever is found, and 1 if the layer cannot be run.

    \b
    Examples:
      gradlab check-layer my_module:my_layer --tf 0.5 --tb 2
      gradlab check-layer my_module:BinaryLayer --binary --latents 8
    """
    import gradlab

    with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for the report
        found = gradlab.check_layer(
            importing.layer(layer), categories=categories, latents=latents, binary=binary, tf=tf, tb=tb, seed=seed
        )
    if as_json:
        click.echo(json.dumps(_as_json(layer, found, seed), allow_nan=False))
        return
    from .output import say

    say(str(found))


def _as_json(source: str, report: Any, seed: int) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    fields = {f.name: plain(getattr(report, f.name)) for f in dataclasses.fields(report)}
    fields["bias"] = [
        {
            "problem": name,
            "relative_bias": plain(v.relative_bias),
            "relative_standard_error": plain(v.standard_error / v.exact_norm),
            "draws": v.draws,
        }
        for name, v in report.bias.items()
    ]
    return {"source": source, "measured": report.measured, **fields, "seed": seed}
