"""gradlab recommend: which estimator and which backward temperature."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import click
from click.core import ParameterSource
from rich import box
from rich.markup import escape
from rich.table import Table

from gradlab.choices import TARGETS
from gradlab.methods import Compute

from .method_options import method_options
from .options import (
    checkpoints_argument,
    data_options,
    images_option,
    json_option,
    own_model_options,
    seed_option,
    together,
)
from .output import console, say, warnings_as_lines, wrote
from .paths import check_no_input, check_writable, inputs
from .specs import EstimatorSpec, TemperatureSpec

IMAGES, IMAGES_LARGE = 100, 16  # by default; where the code space is too large to enumerate
MOST_LINES = 12
NOTHING_KEPT = (
    "interrupted before a first round was measured, so nothing is kept; the same command starts again, and a smaller"
    " --budget ends sooner"
)

what_options = together(
    click.option(
        "--tf",
        type=TemperatureSpec(),
        help="Forward temperature. It changes the objective, so it is not chosen for you. With --target model the"
        " objective is fixed, and several, such as 0.5,1,2, are compared.  [default: that of the training, else 1; with"
        " --target model 5 from 0.5 to 2]",
    ),
    click.option(
        "--averaged",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="Loss evaluations in one average: images of a batch, times the steps that the optimizer averages.",
    ),
    click.option(
        "--budget",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help="Approximate number of seconds for each checkpoint.",
    ),
    click.option(
        "--estimator",
        "names",
        type=EstimatorSpec(),
        multiple=True,
        metavar="NAME",
        help="Once: your present estimator, to compare with; repeated: the ones to choose from.  [default: that of"
        " the training; all]",
    ),
    click.option(
        "--tb",
        type=TemperatureSpec(),
        help="One: your present backward temperature; several, such as 0.5,1,2: the ones to choose from."
        "  [default: that of the training; 12 from 0.1 to 6]",
    ),
    click.option(
        "--target",
        type=click.Choice(TARGETS),
        default="sampled",
        show_default=True,
        help="Law whose expected loss is the objective: softmax(l/tf), or softmax(l).",
    ),
    click.option(
        "--draws", type=click.IntRange(min=32), help="Draws of the last round.  [default: as --budget allows]"
    ),
)


@click.command()
@checkpoints_argument
@what_options
@images_option(IMAGES)
@data_options("mnist-sample")
@own_model_options
@method_options(Compute)
@seed_option
@click.option("--out", type=click.Path(dir_okay=False), help="Results file, in HDF5, of all candidates.")
@json_option
def recommend(checkpoints, tf, averaged, budget, names, tb, images, data, data_dir, own, values, out, as_json, **more):
    """Find the estimator and the backward temperature with the most faithful gradient at equal cost.

    All estimators are compared at 12 backward temperatures, by the error of an average that costs a fixed number of
    loss evaluations. The error is taken at the best scale, because a learning rate can correct the scale. The answer
    says what is as good within noise, what your present choice costs, and which line of code to paste. Without
    CHECKPOINT, the bundled 8x4 VAE is measured. Several checkpoints of a training give a schedule. Ctrl-C prints the
    best so far, and does not replace complete results in --out.

    \b
    Examples:
      gradlab recommend
      gradlab recommend vae.safetensors --tf 1.6 --averaged 100 --estimator st-gs --tb 1
      gradlab recommend vae.safetensors --estimator ste --estimator reinmax --tb 0.5,1,2 --out compared.h5
      gradlab recommend epoch-010.safetensors epoch-080.safetensors epoch-160.safetensors --json
    """
    import gradlab

    if tf is not None and len(tf) == 1:
        (tf,) = tf
    estimator = (names[0] if len(names) == 1 else list(names)) if names else None
    tb = None if tb is None else tb[0] if len(tb) == 1 else tb
    check_no_input([out] if out else [], [own.weights] if own.weights else [])
    models = _models(checkpoints, own)
    if out:
        check_no_input([out], inputs(checkpoints, own, data, data_dir))
        check_writable(out)
    found: list[Any] = []
    stopped, failure = False, None
    with warnings_as_lines():
        try:
            for model, about in models:
                observed = _observed(model, own, data, data_dir, images)
                with contextlib.redirect_stdout(sys.stderr):
                    one = gradlab.recommend(
                        model, observed.floats(), tf, tb, estimator, averaged, budget, compute=values.compute(), **more
                    )
                one.table.attrs.update(about | observed.described())
                found.append(one.table)
                if one.table.attrs["interrupted"]:
                    break
        except KeyboardInterrupt:
            if not found:
                raise KeyboardInterrupt(NOTHING_KEPT) from None
            stopped = True
        except Exception as error:
            if not found:
                raise
            failure = error
    missing = _missing(found, len(models), stopped, failure)
    _give(found, out, as_json, missing)
    if failure is not None:
        raise failure
    if missing:
        say(f"gradlab: {missing}: this is the best so far, and the same command starts again", err=True)
        sys.exit(130)


def _missing(found, count, stopped, failure) -> str:
    """What is missing of that which was asked for; "" for nothing."""
    of = f"{len(found)} of {count} checkpoints"
    if failure is not None:
        return f"{of}; the next one failed"
    if stopped:
        return f"{of}, interrupted"
    if not found[-1].attrs["interrupted"]:
        return ""
    return f"{of}, the last one interrupted" if count > 1 else "interrupted"


def _models(checkpoints, own) -> Any:
    from gradlab.checkpoints import BUNDLED, load_described

    from . import importing

    if own.model is not None:
        if checkpoints:
            raise click.UsageError(f"--model: expected no checkpoint beside it, got {checkpoints[0]}")
        with contextlib.redirect_stdout(sys.stderr):  # foreign code may print, and standard output is for results
            return [importing.model(own.model, own.weights)]
    if own.weights is not None:
        raise click.UsageError("--weights: needs --model")
    return [load_described(path, BUNDLED) for path in ([*checkpoints] or [None])]


def _observed(model, own, data, data_dir, images) -> Any:
    from gradlab import datasets
    from gradlab.methods import MAX_CONFIGURATIONS

    default = click.get_current_context().get_parameter_source("images") is ParameterSource.DEFAULT
    if default and getattr(model, "configurations", 0) > MAX_CONFIGURATIONS:  # a Program has none
        images = IMAGES_LARGE
    if own.observations is None:
        return datasets.load(data, "test", data_dir).first(images)
    there = datasets.load_array(own.observations)
    return there.first(min(images, max(1, len(there))) if default else images)


def _give(found: list[Any], out: str | None, as_json: bool, incomplete: str) -> None:
    from gradlab import outputs, results
    from gradlab.recommending.schedule import joined

    ds = results.with_encodable_text(joined(found))
    if incomplete:
        ds.attrs[outputs.INCOMPLETE] = incomplete
        if out and outputs.is_complete(out):
            say(f"{out} is of an earlier measurement and stays as it is", err=True)
            out = None
    replaced = [out] if out and os.path.exists(out) else []
    written = []
    try:
        if out:
            results.save_results(ds, out)
            written = [out]
    finally:  # also where it cannot be written
        show(ds, as_json, written)
    if out and not as_json:
        wrote(out, replaced)


def show(ds: Any, as_json: bool, written: list[str] | None = None) -> None:
    """A recommendation: its sentences, and the candidates with the smallest errors; or one JSON object."""
    from gradlab.attributes import plain, texts
    from gradlab.cautions import cautions
    from gradlab.recommending.schedule import parts

    each = parts(ds)
    if as_json:
        about = {name: plain(value) for name, value in ds.attrs.items()}
        files = {"attributes": about, "cautions": cautions(ds), "files": written or []}
        answers = [*map(_as_object, each)]
        several = {"schedule": texts(ds.attrs.get("schedule", "")), "checkpoints": answers}
        click.echo(json.dumps((several if len(each) > 1 else answers[0]) | files, allow_nan=False))
        return
    for one in each:
        if len(each) > 1:
            console().print(escape(str(one.checkpoint.item())), highlight=False)
        for number, sentence in enumerate(texts(one.attrs["answer"])):
            console().print(escape(sentence) if number else f"[bold]{escape(sentence)}[/bold]", highlight=False)
        console().print(_table(one))
    for sentence in texts(ds.attrs["schedule"]) if len(each) > 1 else []:
        console().print(escape(sentence), highlight=False)


def _as_object(ds: Any) -> dict[str, Any]:
    import math

    from gradlab.attributes import texts

    def number(value: Any) -> float | None:
        return float(value) if math.isfinite(float(value)) else None

    rows = [
        {
            "candidate": str(row.candidate.item()),
            "estimator": str(row.estimator.item()),
            "tf": number(row.tf),
            "tb": number(row.tb),
            **{
                name: {end or "value": number(row[f"{name}{end and '_' + end}"]) for end in ("", "low", "high")}
                for name in ("error", "excess")
            },
            **{name: int(row[name]) for name in ("equivalent", "evaluations", "draws", "unbiased")},
        }
        for row in (ds.isel(candidate=k) for k in range(ds.sizes["candidate"]))
    ]
    return {"answer": texts(ds.attrs["answer"]), "chosen": rows[0], "candidates": rows}


def _table(ds: Any) -> Table:
    from gradlab.rounding import written

    table = Table(box=box.SIMPLE_HEAD, title="the smallest errors", title_justify="left")
    for name in ("candidate", "error \\[95 %]", "more than the choice \\[95 %]", "evaluations", "draws"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for k in range(min(MOST_LINES, ds.sizes["candidate"])):
        row = ds.isel(candidate=k)
        of = [written(*(float(row[name + end]) for end in ("", "_low", "_high"))) for name in ("error", "excess")]
        label = escape(str(row.candidate.item()))
        table.add_row(label, *map(escape, of if k else [of[0], ""]), f"{int(row.evaluations)}", f"{int(row.draws):,}")
    return table
