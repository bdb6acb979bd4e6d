"""What `gradlab bias` and `gradlab gap` share: checkpoints measured one by one into one file, table and figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .options import check_writable, figure_path


def check_usage(checkpoints: Sequence[str], out: str, plot: bool) -> None:
    """UsageError for checkpoints given twice, or a results file that its figure would overwrite."""
    if plot and Path(out).suffix == ".png":
        raise click.UsageError(f"--out: {out!r} is the results file, and the figure would overwrite it; end it in .h5")
    if len(set(checkpoints)) < len(checkpoints):
        raise click.UsageError(f"checkpoints: got {' '.join(checkpoints)}; give each once")


def measure(
    checkpoints: Sequence[str],
    bundled: str,
    observed: Any,
    analysis: Callable[[Any, Any], Any],
    out: str,
    plot: bool,
    as_json: bool,
) -> None:
    """Run `analysis(model, x)` on each checkpoint, or the bundled model; write, draw and print what it finds."""
    from gradlab import checkpoints as files
    from gradlab import results

    from . import report

    paths: list[str | None] = [*checkpoints] or [None]
    loaded = [files.load_described(path, bundled) for path in paths]
    _check_alike(loaded)
    check_writable(out)
    found: list[Any] = []
    try:
        for model, about in loaded:
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
