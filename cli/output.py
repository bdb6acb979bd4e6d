"""What commands print: tables for people, one JSON object with --json. Figures go to standard output."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

POINT_DIMS = ("checkpoint", "estimator", "target", "tf", "tb")
LINE = ("relative_bias_debiased", "relative_std", "cosine")  # columns of a table of many points
WIDTH = 110  # where standard output is no terminal


def report(ds: Any, as_json: bool, written: Sequence[str]) -> None:
    """A result: one point as a table of all its figures, many as a line each."""
    if ds.attrs.get("analysis") != "bias":
        raise ValueError(
            f"results: analysis {ds.attrs.get('analysis')!r} is not known; a file that `gradlab bias` wrote would do"
        )
    points = list(_points(ds))
    if as_json:
        about = {name: value.item() if hasattr(value, "item") else value for name, value in ds.attrs.items()}
        click.echo(json.dumps({"attributes": about, "points": points, "files": list(written)}, allow_nan=False))
        return
    console = _console()
    console.print(_headline(ds), highlight=False)
    centre = _centre(ds, points)
    if centre:
        console.print(_all_figures(ds, centre))
    if len(points) > len(centre):
        for line in _sorted_lines(ds, points):
            console.print(_lines(ds, line))
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def provenance(ds: Any) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="how it was made", title_justify="left", show_header=False)
    for name, value in ds.attrs.items():
        table.add_row(name, str(value))
    _console().print(table)


def catalogue(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"estimators": rows}))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "parameters", "latents", "unbiased", "evaluations", "estimate"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(
            row["name"],
            ", ".join(f"{name}={value}" for name, value in row["parameters"].items()),
            ", ".join(row["latents"]),
            "yes" if row["unbiased"] else "no",
            str(row["evaluations"]),
            row["formula"].replace("[", r"\["),
        )
    _console().print(table)


def datasets(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"datasets": rows}))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "split", "images", "file", "credit"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        for split, path in row["files"].items():
            where = path or f"not here: gradlab data fetch {row['name']}"
            table.add_row(row["name"], split, f"{row['images'][split]:,}", where, row["credit"])
    _console().print(table)


def analyses(there: dict[str, str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"analyses": there}))
        return
    for name, text in there.items():
        click.echo(f"{name}\n\n{text}")


def verdicts(found: Sequence[Any], as_json: bool, written: Sequence[str]) -> None:
    if as_json:
        rows = [
            {
                "claim": v.claim,
                "target": v.target,
                "figure": v.figure,
                "verdict": v.verdict,
                "change": v.whole._asdict(),
                "against": v.against,
                "lowest_at": v.lowest_at,
            }
            for v in found
        ]
        click.echo(json.dumps({"verdicts": rows, "files": list(written)}))
        return
    console = _console()
    for claim in dict.fromkeys(v.claim for v in found):
        table = Table(box=box.SIMPLE_HEAD, title=claim, title_justify="left")
        for column in ("figure", "target law", "change, first to last [95 %]", "verdict"):
            table.add_column(column, no_wrap=column != "verdict")
        for v in (v for v in found if v.claim == claim):
            low, high = (_text(end) for end in v.whole[1:])
            table.add_row(v.figure, v.target, f"{v.whole.value:+.4g} \\[{low}, {high}]", v.words)
        console.print(table)
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def training(model: Any, out: str, as_json: bool) -> None:
    about = model.provenance
    last = {name: values[-1] for name, values in about["history"].items()}
    epochs = len(about["history"]["train_loss"])
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "epochs": epochs, **last, "seconds": about["seconds"]}))
        return
    click.echo(
        f"{epochs} epoch{'s' * (epochs > 1)} in {about['seconds']:.0f} s: validation loss {last['validation_loss']:.3f}"
        f" + KL {last['validation_kl']:.3f} nats per image"
        f" (training {last['train_loss']:.3f} + {last['train_kl']:.3f})"
    )
    click.echo(f"wrote {out}")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _points(ds: Any) -> Iterator[dict[str, Any]]:
    """One dict per point: its coordinates and {figure: {value, low, high}}; pairs not measured are left out."""
    dims = [dim for dim in POINT_DIMS if dim in ds.dims]
    names = [n for n in ds.data_vars if set(ds[n].dims) == set(dims) and not n.endswith(("_low", "_high"))]
    columns = {n: ds[n].transpose(*dims).values for n in ds.data_vars if set(ds[n].dims) == set(dims)}
    for at in itertools.product(*(range(ds.sizes[dim]) for dim in dims)):
        if math.isnan(float(columns["mean_norm"][at])):
            continue
        figures = {}
        for n in names:
            ends = {"value": n, "low": f"{n}_low", "high": f"{n}_high"}
            figures[n] = {key: _number(columns[of][at]) for key, of in ends.items() if of in columns}
        yield {dim: ds[dim].values[i].item() for dim, i in zip(dims, at, strict=True)} | {"figures": figures}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _centre(ds: Any, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points to show in full: those of the one pair of temperatures that was asked for, at one checkpoint."""
    wanted = [
        p
        for p in points
        if p["tf"] == ds.attrs.get("tf_fixed", p["tf"]) and p["tb"] == ds.attrs.get("tb_fixed", p["tb"])
    ]
    return wanted if len(wanted) <= 2 else []


def _sorted_lines(ds: Any, points: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """A cross as its two lines, anything else as it is."""
    if "tf_fixed" not in ds.attrs:
        return [points]
    along_tf = [p for p in points if p["tb"] == ds.attrs["tb_fixed"]]
    return [along_tf, [p for p in points if p["tf"] == ds.attrs["tf_fixed"]]]


def _headline(ds: Any) -> str:
    a = ds.attrs
    laws = {"sampled": "softmax(l/tf)", "model": "softmax(l)", "both": "both softmax(l/tf) and softmax(l)"}
    size = f"{a['latents']} latents x {a['categories']} categories"
    return (
        f"{a['checkpoint']}: {size}, {a['loss']} loss in {a['unit']}\n"
        f"{a['data']} ({a['examples']} examples); {int(a['draws']):,} draws of {a['estimator']}\n"
        f"target law {a['target']}: {laws.get(str(a['target']), '')}; norms over example, latent, category\n"
        f"intervals: {a['intervals']}"
    ).replace("[", r"\[")


def _all_figures(ds: Any, points: list[dict[str, Any]]) -> Table:
    first = points[0]
    table = Table(box=box.SIMPLE_HEAD, title=f"at tf = {first['tf']:g}, tb = {first['tb']:g}", title_justify="left")
    table.add_column("figure", no_wrap=True)
    for point in points:
        which = " ".join(str(point[d]) for d in POINT_DIMS[:3] if d in point)
        table.add_column(f"{which or 'value'} [dim]\\[95 %][/dim]", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name in first["figures"]:
        cells = [_value_and_interval(point["figures"][name]) for point in points]
        table.add_row(name, *cells, ds[name].attrs["units"])
    return table


def _lines(ds: Any, points: list[dict[str, Any]]) -> Table:
    """A line a point, in two columns of temperatures and some of figures."""
    dims = [dim for dim in POINT_DIMS if dim in points[0]]
    table = Table(box=box.SIMPLE_HEAD)
    for dim in dims:
        table.add_column(dim, justify="right" if dim in ("tf", "tb") else "left", overflow="fold")
    names = [name for name in LINE if name in ds.data_vars]
    for name in names:
        table.add_column(f"{name} [dim]\\[95 %][/dim]")
    for point in points:
        where = [f"{point[dim]:g}" if dim in ("tf", "tb") else str(point[dim]) for dim in dims]
        table.add_row(*where, *(_value_and_interval(point["figures"][name]) for name in names))
    return table


def _value_and_interval(figure: dict[str, float | None]) -> str:
    if "low" not in figure:
        return f"{_text(figure['value'])} [dim]exact[/dim]"
    return f"{_text(figure['value'])} [dim]\\[{_text(figure['low'])}, {_text(figure['high'])}][/dim]"


def _text(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")
