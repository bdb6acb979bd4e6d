"""What `gradlab bias` and `gradlab gap` share: checkpoints measured one by one into one file, table and figure."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import OwnModel, check_writable, figure_path, warnings_as_lines


def check_usage(checkpoints: Sequence[str], own: OwnModel, out: str, plot: bool) -> None:
    """UsageError for checkpoints given twice, or beside a model of one's own, or a figure that would overwrite them."""
    if plot and Path(out).suffix == ".png":
        raise click.UsageError(f"--out: {out!r} is the results file, and the figure would overwrite it; end it in .h5")
    if len(set(checkpoints)) < len(checkpoints):
        raise click.UsageError(f"checkpoints: got {' '.join(checkpoints)}; give each once")
    if own.weights is not None and own.model is None:
        raise click.UsageError("--weights: the model they belong to is given by --model")
    if checkpoints and own.model is not None:
        raise click.UsageError(f"--model: got the checkpoint {checkpoints[0]} too; weights are given by --weights")


def observed(own: OwnModel, data: str, data_dir: str | None, images: int) -> Any:
    """The first so many observations; of a file of one's own all there are, if nobody said how many."""
    from gradlab import datasets

    if own.observations is None:
        return datasets.load(data, "test", data_dir).first(images)
    context = click.get_current_context()
    if context.get_parameter_source("data") is not ParameterSource.DEFAULT:
        raise click.UsageError("--observations: got --data too; give one of them")
    there = datasets.load_array(own.observations)
    if context.get_parameter_source("images") is ParameterSource.DEFAULT:
        images = min(images, max(1, len(there)))
    return there.first(images)


@warnings_as_lines()
def measure(
    checkpoints: Sequence[str],
    own: OwnModel,
    bundled: str,
    observed: Any,
    analysis: Callable[[Any, Any], Any],
    out: str,
    plot: bool,
    as_json: bool,
) -> None:
    """Run `analysis(model, x)` on each checkpoint, or one's own or the bundled model; write, draw and print."""
    from gradlab import checkpoints as files
    from gradlab import results

    from . import importing, report

    if own.model is not None:
        with contextlib.redirect_stdout(sys.stderr):  # a stranger's code may print; standard output is for results
            loaded = [importing.model(own.model, own.weights)]
    else:
        paths: list[str | None] = [*checkpoints] or [None]
        loaded = [files.load_described(path, bundled) for path in paths]
    _check_alike(loaded)
    for path in [out, figure_path(out)] if plot else [out]:
        check_writable(path)
    found: list[Any] = []
    try:
        for model, about in loaded:
            with contextlib.redirect_stdout(sys.stderr):
                ds = analysis(model, observed.floats())
            ds.attrs |= about | observed.described()
            found.append(ds)
    except BaseException:
        if found:
            results.save_results(results.join_checkpoints(found), out)
            click.echo(f"{len(found)} of {len(loaded)} checkpoints were measured; they are in {out}", err=True)
        raise
    ds = found[0] if len(found) == 1 else results.join_checkpoints(found)
    results.save_results(ds, out)
    written = [out]
    if plot:
        from gradlab import plots

        written.append(figure_path(out))
        plots.save(plots.auto(ds), written[1])
    report.report(ds, as_json, written)


def _check_alike(loaded: Sequence[tuple[Any, dict[str, Any]]]) -> None:
    """ValueError, before anything is measured, unless all checkpoints fit into one file."""
    (first, about), *others = loaded
    for model, of_model in others:
        if model.code_shape != first.code_shape:
            raise ValueError(
                f"checkpoint: {of_model['checkpoint']} has latents of shape {model.code_shape}, {about['checkpoint']}"
                f" {first.code_shape}; measure models of different size into different files"
            )
