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
LINE = ("relative_bias_debiased", "relative_std", "cosine", "matched_bias")  # columns of a table of many points
WIDTH = 110  # where standard output is no terminal


def report(ds: Any, as_json: bool, written: Sequence[str]) -> None:
    """A result: one point as a table of all its figures, many as a line each."""
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
        console.print(_lines(ds, points))
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
    for column in ("name", "split", "file", "credit"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        for split, path in row["files"].items():
            table.add_row(row["name"], split, path or f"not here: gradlab data fetch {row['name']}", row["credit"])
    _console().print(table)


def training(model: Any, out: str, as_json: bool) -> None:
    about = model.provenance
    last = {name: values[-1] for name, values in about["history"].items()}
    epochs = len(about["history"]["train_loss"])
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "epochs": epochs, **last, "seconds": about["seconds"]}))
        return
    click.echo(
        f"{epochs} epochs in {about['seconds']:.0f} s: validation loss {last['validation_loss']:.3f}"
        f" + KL {last['validation_kl']:.3f} nats per image"
        f" (training {last['train_loss']:.3f} + {last['train_kl']:.3f})"
    )
    click.echo(f"wrote {out}")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _points(ds: Any) -> Iterator[dict[str, Any]]:
    """One dict per measured point: its coordinates and {figure: {value, low, high}}; pairs not measured are left out."""
    dims = [dim for dim in POINT_DIMS if dim in ds.dims]
    names = [n for n in ds.data_vars if set(ds[n].dims) == set(dims) and not n.endswith(("_low", "_high"))]
    columns = {n: ds[n].transpose(*dims).values for n in ds.data_vars if set(ds[n].dims) == set(dims)}
    for at in itertools.product(*(range(ds.sizes[dim]) for dim in dims)):
        if math.isnan(float(columns[names[-1]][at])) and all(math.isnan(float(columns[n][at])) for n in names[1:]):
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
    wanted = [p for p in points if p["tf"] == ds.attrs.get("tf_fixed", p["tf"]) and p["tb"] == ds.attrs.get("tb_fixed", p["tb"])]
    return wanted if len(wanted) <= 2 else []


def _headline(ds: Any) -> str:
    a = ds.attrs
    laws = {"sampled": "softmax(l/tf)", "model": "softmax(l)", "both": "both softmax(l/tf) and softmax(l)"}
    size = f"{a['latents']} latents x {a['categories']} categories"
    return (
        f"{a['checkpoint']}: {size}; {a['data']} ({a['examples']} examples); loss {a['loss']} in {a['unit']}\n"
        f"{a['estimator']}: {int(a['draws']):,} draws; target law {a['target']}: {laws.get(str(a['target']), '')}\n"
        f"norms over example, latent, category; intervals {a['intervals']}"
    ).replace("[", r"\[")


def _all_figures(ds: Any, points: list[dict[str, Any]]) -> Table:
    first = points[0]
    table = Table(box=box.SIMPLE_HEAD, title=f"at tf = {first['tf']:g}, tb = {first['tb']:g}", title_justify="left")
    table.add_column("figure", no_wrap=True)
    for point in points:
        table.add_column(" ".join(str(point[d]) for d in POINT_DIMS[:3] if d in point) or "value", justify="right")
        table.add_column("95 % interval", justify="right")
    table.add_column("unit")
    table.add_column("", style="dim")
    for name in first["figures"]:
        cells = [cell for point in points for cell in _value_and_interval(point["figures"][name])]
        table.add_row(name, *cells, ds[name].attrs["units"], ds[name].attrs["long_name"])
    return table


def _lines(ds: Any, points: list[dict[str, Any]]) -> Table:
    dims = [dim for dim in POINT_DIMS if dim in points[0]]
    table = Table(box=box.SIMPLE_HEAD)
    for dim in dims:
        table.add_column(dim, justify="right" if dim in ("tf", "tb") else "left", no_wrap=True)
    names = [name for name in LINE if name in ds.data_vars]
    for name in names:
        table.add_column(name, justify="right")
        table.add_column("95 % interval", justify="right")
    for point in points:
        where = [f"{point[dim]:g}" if dim in ("tf", "tb") else str(point[dim]) for dim in dims]
        cells = [cell for name in names for cell in _value_and_interval(point["figures"][name])]
        table.add_row(*where, *cells)
    return table


def _value_and_interval(figure: dict[str, float | None]) -> tuple[str, str]:
    low, high = figure.get("low"), figure.get("high")
    interval = f"{_text(low)} to {_text(high)}" if "low" in figure else "exact"
    return _text(figure["value"]), interval


def _text(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:#.4g}".rstrip(".")
