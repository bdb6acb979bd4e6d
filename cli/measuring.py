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

from .method_options import MethodValues
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
    workers_of_measurement,
)
from .output import say, wrote
from .paths import check_no_input, check_writable, figure_path, inputs


def output_options(out: str) -> Callable[[Any], Any]:
    """Who measures, and where results go: of `measured`, to be decorated with first, so that help lists it last."""
    return together(workers_of_measurement, out_option(out), plot_option, json_option)


def measured_options(temperatures: Callable[[Any], Any], *, images: int) -> Callable[[Any], Any]:
    """Decorator: what is measured; with `output_options` the command gets it as `measured`, a Measured.

    Raises UsageError for repeated checkpoints, a checkpoint beside --model, or a figure that overwrites a file.
    """
    observed = (images_option(images), data_options("mnist-sample"))
    options = together(checkpoints_argument, temperatures, *observed, own_model_options)
    names = ("checkpoints", "own", "data", "data_dir", "images", "workers", "scheduler", "out", "plot", "as_json")

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
    workers: int
    scheduler: str | None
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
        if self.scheduler is not None and self.workers > 1:
            raise click.UsageError("--workers: expected none with --scheduler, which has its own workers")
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

    def models(self, kind: str) -> list[tuple[Any, Any]]:
        """The checkpoints, or the user's or the bundled model: each with where it comes from, a parts.Source.

        Of several checkpoints, one that is damaged is a BadFile in place of a model.
        """
        from gradlab import checkpoints, errors
        from gradlab.parts import Source
        from gradlab.parts.code import of_module

        from . import importing

        own, bundled = self.own, {"bias": checkpoints.BUNDLED, "gap": checkpoints.BUNDLED_LARGE}[kind]
        if own.model is not None:
            load = functools.partial(importing.model, own.model, own.weights)
            with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for results
                model, about = load()
            return [(model, Source(load, about, code=of_module(own.model)))]
        found: list[tuple[Any, Any]] = []
        paths: list[str | None] = [*self.checkpoints] or [None]
        for path in paths:
            load = functools.partial(checkpoints.load_described, path, bundled)
            try:
                model, about = load()
            except errors.BadFile as error:
                if len(self.checkpoints) < 2:
                    raise
                model, about = error, {"checkpoint": path, "checkpoint_sha256": ""}
            found.append((model, Source(load, about, path)))
        return found

    def by(
        self,
        kind: str,
        analysis: functools.partial[Any],
        tf: list[float],
        tb: list[float],
        values: MethodValues,
        cross: Any = None,
    ) -> None:
        """Runs `analysis(model, x, tf, tb)` on each model; writes, draws and prints. `kind` is "bias" or "gap"."""
        observed, models = self.observed(), self.models(kind)
        there = {i: model for i, (model, _) in enumerate(models) if not isinstance(model, Exception)}
        failed = {i: model for i, (model, _) in enumerate(models) if isinstance(model, Exception)}
        if not there:
            raise failed[0]
        _check_alike([models[i] for i in there])
        # now that their kinds are known: who gives bias.h5 as a checkpoint wants another command, not another --out
        check_no_input(self.planned, inputs(self.checkpoints, self.own, self.data, self.data_dir))
        for path, sort in zip(self.planned, ("RESULTS", "FIGURE"), strict=False):
            check_writable(path, sort)
        if len(models) == 1 and self.workers == 1 and self.scheduler is None:
            (model, source), more = models[0], {} if cross is None else {"cross": cross}
            with contextlib.redirect_stdout(sys.stderr):
                ds = analysis(model, observed.floats(), tf, tb, compute=values.compute(), **more)
            self._write([ds.assign_attrs(source.about | observed.described())])
            return
        self._in_parts(kind, analysis, tf, tb, values, cross, observed, models, failed)

    def _in_parts(self, kind, analysis, tf, tb, values, cross, observed, models, failed) -> None:
        """The same in parts, which stay beside the results file until it has them all."""
        from gradlab.parts import Campaign

        campaign = Campaign(
            kind,
            analysis,
            [source for _, source in models],
            {i: model for i, (model, _) in enumerate(models) if i not in failed},
            observed.floats(),
            tf,
            tb,
            cross=cross,
            out=self.out,
            compute=values.compute(elsewhere=self.scheduler is not None),
            device=values.by_option["--device"],
            workers=self.workers,
            scheduler=self.scheduler,
        )

        def described() -> list[Any]:
            return [ds.assign_attrs(models[i][1].about | observed.described()) for i, ds in campaign.found().items()]

        with campaign.held():
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    campaign.measure()
            except BaseException as error:
                with contextlib.suppress(OSError):  # such as a full disk, of which `error` tells
                    self._keep(described(), len(models))
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt(f"interrupted; {campaign.kept()}the same command continues") from None
                if kept := campaign.kept():
                    say(f"{kept}the same command continues", err=True)
                raise
            failed |= campaign.failed
            if found := described():
                self._write(found, len(models), campaign)
            if not failed:
                return
        first = min(failed)
        if len(models) == 1:
            raise failed[first]
        number, (_, source) = f"{len(failed)} of {len(models)} checkpoints failed", models[first]
        text = str(failed[first]).removeprefix(f"{source.name}: ")
        where = f"; {self._where(campaign.folder.path)}; the same command measures only what failed" if found else ""
        raise click.ClickException(f"{number}, the first {source.name}: {text}{where}")

    def _where(self, folder: Path) -> str:
        """Where checkpoints are that are measured, while others are not."""
        if self._replaces_whole():
            return f"the others are in {folder}, as {self.out} is of an earlier measurement and stays as it is"
        return f"the others are in {self.out} and, in parts, in {folder}"

    def _replaces_whole(self) -> bool:
        """Whether the results of some checkpoints would replace those of all."""
        from gradlab import outputs

        return outputs.is_complete(self.out)

    def _keep(self, found: list[Any], count: int) -> None:
        """Writes what is measured before the command ends early, and says where it is."""
        from gradlab import results

        if not found:
            return
        number = f"{len(found)} of {count} checkpoints were measured"
        if self._replaces_whole():
            say(f"{number}; {self.out} is of an earlier measurement and stays as it is", err=True)
            return
        results.save_results(_joined(found, count), self.out)
        say(f"{number}; they are in {self.out}", err=True)

    def _write(self, found: list[Any], count: int = 1, campaign: Any = None) -> None:
        """Writes, prints and draws the results of all `count` checkpoints, or of those that did not fail.

        They are printed also where they cannot be written. The parts of a campaign stay until all are written.
        """
        from gradlab import results

        from . import report

        ds, written = _joined(found, count), []
        planned = [] if len(found) < count and self._replaces_whole() else self.planned
        replaced = [path for path in planned if os.path.exists(path)]
        try:
            if planned:
                results.save_results(ds, self.out)
                written = planned
        except OSError:
            if campaign is not None:
                say(f"{campaign.kept()}the same command continues", err=True)
            raise
        finally:
            report.report(ds, self.as_json, written if self.as_json else [])
        if campaign is not None and len(found) == count:
            campaign.remove()
        show = (lambda path: None) if self.as_json else functools.partial(wrote, replaced=replaced)
        if planned:
            show(self.out)
        if planned and self.plot:  # last: whatever drawing meets, table and results are there
            from gradlab import plots

            plots.save(plots.auto(ds), self.planned[1])
            show(self.planned[1])


def _joined(found: list[Any], count: int) -> Any:
    """One Dataset, which says if some of the `count` checkpoints are missing."""
    from gradlab import outputs, results

    ds = found[0] if len(found) == 1 else results.join_checkpoints(found)
    if len(found) < count:
        ds = ds.assign_attrs({outputs.INCOMPLETE: f"{len(found)} of {count} checkpoints"})
    return results.with_encodable_text(ds)


def _source(name: str) -> ParameterSource | None:
    return click.get_current_context().get_parameter_source(name)


def _check_alike(loaded: Sequence[tuple[Any, Any]]) -> None:
    """Raises ValueError unless all checkpoints fit into one file."""
    (first, source), *others = loaded
    for model, other in others:
        if model.code_shape != first.code_shape:
            raise ValueError(
                f"checkpoint: expected latents of shape {first.code_shape}, like {source.name}, got"
                f" {model.code_shape} for {other.name}; use one file per shape"
            )
        if model.top_k != first.top_k:
            raise ValueError(
                f"checkpoint: expected top_k = {first.top_k}, like {source.name}, got {model.top_k} for"
                f" {other.name}; use one file for each"
            )
