"""What `gradlab bias` and `gradlab gap` share: checkpoints measured one by one into one file, table and figure."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import OwnModel, check_no_input, check_writable, figure_path, warnings_as_lines
from .output import say, wrote


def check_usage(checkpoints: Sequence[str], own: OwnModel, out: str, plot: bool) -> None:
    """Raises UsageError for repeated checkpoints, a checkpoint beside --model, or a figure that overwrites a file."""
    if plot and Path(out).suffix == ".png":
        raise click.UsageError(f"--out: expected a results file, .h5, got {out!r}, which the figure overwrites")
    check_no_input(_planned(out, plot), [own.weights] if own.weights else [])
    if len(set(checkpoints)) < len(checkpoints):
        raise click.UsageError(f"checkpoints: expected each once, got {' '.join(checkpoints)}")
    if own.weights is not None and own.model is None:
        raise click.UsageError("--weights: needs --model")
    if checkpoints and own.model is not None:
        raise click.UsageError(
            f"--model: expected no checkpoint beside it, got {checkpoints[0]}; pass weights with --weights"
        )


def _planned(out: str, plot: bool) -> list[str]:
    """The files to be written."""
    return [out, figure_path(out)] if plot else [out]


def observed(own: OwnModel, data: str, data_dir: str | None, images: int) -> Any:
    """The first observations, `images` in number. A user's file may have fewer if --images is not given."""
    from gradlab import datasets

    if own.observations is None:
        return datasets.load(data, "test", data_dir).first(images)
    context = click.get_current_context()
    if context.get_parameter_source("data") is not ParameterSource.DEFAULT:
        raise click.UsageError("--observations: expected no --data beside it")
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
    """Runs `analysis(model, x)` on each checkpoint, or on the user's or the bundled model; writes, draws and prints."""
    from gradlab import checkpoints as files
    from gradlab import results

    from . import importing, report

    if own.model is not None:
        with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for results
            loaded = [importing.model(own.model, own.weights)]
    else:
        paths: list[str | None] = [*checkpoints] or [None]
        loaded = [files.load_described(path, bundled) for path in paths]
    _check_alike(loaded)
    planned = _planned(out, plot)
    # now that their kinds are known: who gives bias.h5 as a checkpoint wants another command, not another --out
    check_no_input(planned, [*checkpoints, *([own.observations] if own.observations else [])])
    for path in planned:
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
            say(f"{len(found)} of {len(loaded)} checkpoints were measured; they are in {out}", err=True)
        raise
    ds = results.with_encodable_text(found[0] if len(found) == 1 else results.join_checkpoints(found))
    replaced = [path for path in planned if os.path.exists(path)]
    results.save_results(ds, out)
    report.report(ds, as_json, planned if as_json else [])
    show = (lambda path: None) if as_json else functools.partial(wrote, replaced=replaced)
    show(out)
    if plot:  # last: whatever drawing meets, table and results are there
        from gradlab import plots

        plots.save(plots.auto(ds), planned[1])
        show(planned[1])


def _check_alike(loaded: Sequence[tuple[Any, dict[str, Any]]]) -> None:
    """Raises ValueError unless all checkpoints fit into one file."""
    (first, about), *others = loaded
    for model, of_model in others:
        if model.code_shape != first.code_shape:
            raise ValueError(
                f"checkpoint: expected latents of shape {first.code_shape}, like {about['checkpoint']}, got"
                f" {model.code_shape} for {of_model['checkpoint']}; use one file per shape"
            )
