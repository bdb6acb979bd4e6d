"""What `gradlab bias` and `gradlab gap` share: checkpoints measured one by one into one file, table and figure."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import (
    OwnModel,
    checkpoints_argument,
    data_options,
    images_option,
    json_option,
    out_option,
    own_model_options,
    plot_option,
    together,
)
from .output import say, wrote
from .paths import check_no_input, check_writable, data_files, figure_path, module_files


def output_options(out: str) -> Callable[[Any], Any]:
    """Where the results go: a part of `measured`, to be decorated with first, so that help lists it last."""
    return together(out_option(out), plot_option, json_option)


def measured_options(temperatures: Callable[[Any], Any], *, images: int) -> Callable[[Any], Any]:
    """Decorator: what is measured; with `output_options` the command gets it as `measured`, a Measured.

    Raises UsageError for repeated checkpoints, a checkpoint beside --model, or a figure that overwrites a file.
    """
    observed = (images_option(images), data_options("mnist-sample"))
    options = together(checkpoints_argument, temperatures, *observed, own_model_options)
    names = ("checkpoints", "own", "data", "data_dir", "images", "out", "plot", "as_json")

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def run(**named: Any) -> Any:
            measured = Measured(**{name: named.pop(name) for name in names})
            measured.check()
            return command(measured=measured, **named)

        return options(run)

    return decorate


@dataclass(frozen=True)
class Measured:
    """Models, observations, and the files to write."""

    checkpoints: Sequence[str]
    own: OwnModel
    data: str
    data_dir: str | None
    images: int
    out: str
    plot: bool
    as_json: bool

    @property
    def planned(self) -> list[str]:
        """The files to be written."""
        return [self.out, figure_path(self.out)] if self.plot else [self.out]

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        own, out = self.own, self.out
        if self.plot and Path(out).suffix == ".png":
            raise click.UsageError(f"--out: expected a results file, .h5, got {out!r}, which the figure overwrites")
        check_no_input(self.planned, [own.weights] if own.weights else [])
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise click.UsageError(f"checkpoints: expected each once, got {' '.join(self.checkpoints)}")
        if own.weights is not None and own.model is None:
            raise click.UsageError("--weights: needs --model")
        if self.checkpoints and own.model is not None:
            raise click.UsageError(
                f"--model: expected no checkpoint beside it, got {self.checkpoints[0]}; pass weights with --weights"
            )
        for name in ("data", "data_dir") if own.observations is not None else ():
            if _source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--observations: expected no --{name.replace('_', '-')} beside it")

    def observed(self) -> Any:
        """The first observations, `images` in number. A user's file may have fewer if --images is not given."""
        from gradlab import datasets

        if self.own.observations is None:
            return datasets.load(self.data, "test", self.data_dir).first(self.images)
        there, images = datasets.load_array(self.own.observations), self.images
        if _source("images") is ParameterSource.DEFAULT:
            images = min(images, max(1, len(there)))
        return there.first(images)

    def models(self, bundled: str) -> list[tuple[Any, dict[str, Any]]]:
        """The checkpoints, or the user's or the bundled model, with what describes them in results."""
        from gradlab import checkpoints

        from . import importing

        if self.own.model is not None:
            with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for results
                return [importing.model(self.own.model, self.own.weights)]
        paths: list[str | None] = [*self.checkpoints] or [None]
        return [checkpoints.load_described(path, bundled) for path in paths]

    def by(self, analysis: Callable[[Any, Any], Any], bundled: str) -> None:
        """Runs `analysis(model, x)` on each model; writes, draws and prints."""
        from gradlab import results

        observed, models = self.observed(), self.models(bundled)
        _check_alike(models)
        # now that their kinds are known: who gives bias.h5 as a checkpoint wants another command, not another --out
        own = self.own
        read = [own.observations] if own.observations else data_files(self.data, self.data_dir)
        check_no_input(self.planned, [*self.checkpoints, *read, *module_files(own.model)])
        for path in self.planned:
            check_writable(path)
        found: list[Any] = []
        try:
            for model, about in models:
                with contextlib.redirect_stdout(sys.stderr):
                    ds = analysis(model, observed.floats())
                ds.attrs |= about | observed.described()
                found.append(ds)
        except BaseException:
            if found:
                results.save_results(results.join_checkpoints(found), self.out)
                say(f"{len(found)} of {len(models)} checkpoints were measured; they are in {self.out}", err=True)
            raise
        self._write(results.with_encodable_text(found[0] if len(found) == 1 else results.join_checkpoints(found)))

    def _write(self, ds: Any) -> None:
        from gradlab import results

        from . import report

        replaced = [path for path in self.planned if os.path.exists(path)]
        results.save_results(ds, self.out)
        report.report(ds, self.as_json, self.planned if self.as_json else [])
        show = (lambda path: None) if self.as_json else functools.partial(wrote, replaced=replaced)
        show(self.out)
        if self.plot:  # last: whatever drawing meets, table and results are there
            from gradlab import plots

            plots.save(plots.auto(ds), self.planned[1])
            show(self.planned[1])


def _source(name: str) -> ParameterSource | None:
    return click.get_current_context().get_parameter_source(name)


def _check_alike(loaded: Sequence[tuple[Any, dict[str, Any]]]) -> None:
    """Raises ValueError unless all checkpoints fit into one file."""
    (first, about), *others = loaded
    for model, of_model in others:
        if model.code_shape != first.code_shape:
            raise ValueError(
                f"checkpoint: expected latents of shape {first.code_shape}, like {about['checkpoint']}, got"
                f" {model.code_shape} for {of_model['checkpoint']}; use one file per shape"
            )
        if model.top_k != first.top_k:
            raise ValueError(
                f"checkpoint: expected top_k = {first.top_k}, like {about['checkpoint']}, got {model.top_k} for"
                f" {of_model['checkpoint']}; use one file for each"
            )
