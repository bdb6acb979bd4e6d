"""How `gradlab bias`, `gap` and `show` print a result: a point in full, many as a line each, or one JSON object."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from gradlab.rounding import plain, three

from .output import WIDTH, console

MOST_LINES, MOST_COLUMNS = 30, 12


def report(ds: Any, as_json: bool, written: Sequence[str]) -> None:
    """A result: one point as a table of all its figures, many as a line each."""
    from gradlab.attributes import plain
    from gradlab.cautions import cautions
    from gradlab.kinds import first_metrics
    from gradlab.reports.prose import headline, subject, sureness

    line = first_metrics(ds)
    points = list(_points(ds))
    if as_json:
        about = {name: plain(value) for name, value in ds.attrs.items()}
        found = {"attributes": about, "cautions": cautions(ds), "points": points, "files": list(written)}
        click.echo(json.dumps(found, allow_nan=False))
        return
    to = console()
    to.print(f"[bold]{escape(headline(ds))}[/bold]", highlight=False)
    for words in (*subject(ds), sureness(ds), *cautions(ds)):
        to.print(escape(words), highlight=False)
    if "parameter" in ds.dims:
        tensors = _at_fixed(ds, points)
        if len({(p["tf"], p["tb"]) for p in tensors}) == 1:
            to.print(_lines(ds, tensors, line))
        ds = ds.sel(parameter="all", drop=True)
        points = list(_points(ds))
    centre = _centre(ds, points)
    if centre:
        for table in _all_figures(ds, centre):
            to.print(table)
    if _is_grid(ds, points):
        for title, table in _grids(ds, points, line):
            to.print(title, highlight=False)
            to.print(table)
    elif len(points) > len(centre):
        for some in _sorted_lines(ds, points):
            to.print(_lines(ds, some, line))
    for words in _of_averages(ds):
        to.print(escape(words), highlight=False)
    for path in written:
        to.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _of_averages(ds: Any) -> list[str]:
    """Of a comparison at equal cost: which estimator averages best, as `gradlab recommend` says it."""
    if not ds.attrs.get("equal_cost"):
        return []
    from gradlab.recommending.from_bias import closing_sentences

    return closing_sentences(ds)


def provenance(ds: Any) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="how it was made", title_justify="left", show_header=False)
    for name, value in ds.attrs.items():
        table.add_row(escape(str(name)), escape(str(value)))
    console().print(table)


def _points(ds: Any) -> Iterator[dict[str, Any]]:
    """One dict per point: its coordinates and {metric: {value, low, high}}; pairs not measured are left out."""
    from gradlab.kinds import metric_names, point_dims
    from gradlab.reports.points import coordinates_at, estimates_at, places
    from gradlab.schema import ABOUT_SAMPLING

    names = metric_names(ds)
    at = places(ds, names)
    names += [name for name in ABOUT_SAMPLING if name in ds and set(ds[name].dims) == set(point_dims(ds))]
    columns = {name: estimates_at(ds, name, at) for name in names}
    for k, where in enumerate(coordinates_at(ds, at)):
        metrics = {
            name: _as_object(of[k], f"{name}_low" in ds, f"{name}_population_low" in ds) for name, of in columns.items()
        }
        yield where | {"metrics": metrics}


def _as_object(estimate: Any, with_ends: bool, with_population: bool) -> dict[str, float | None]:
    kept = estimate._asdict() if with_ends else {"value": estimate.value}
    if not with_population:
        kept = {key: value for key, value in kept.items() if not key.startswith("population")}
    return {key: value if math.isfinite(value) else None for key, value in kept.items()}


def _centre(ds: Any, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points to show in full: those of the one pair of temperatures that was asked for, at one checkpoint."""
    wanted = _at_fixed(ds, points)
    pairs = {(point["tf"], point["tb"]) for point in wanted}
    return wanted if len(wanted) <= 2 and len(pairs) == 1 else []


def _at_fixed(ds: Any, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points at the temperatures through which a cross goes; all where there is none."""
    return [p for p in points if all(p[t] == ds.attrs.get(f"{t}_fixed", p[t]) for t in ("tf", "tb"))]


def _sorted_lines(ds: Any, points: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """A cross as its two lines, anything else as it is."""
    if "tf_fixed" not in ds.attrs:
        return [points]
    along_tf = [p for p in points if p["tb"] == ds.attrs["tb_fixed"]]
    return [along_tf, [p for p in points if p["tf"] == ds.attrs["tf_fixed"]]]


def _all_figures(ds: Any, points: list[dict[str, Any]]) -> Iterator[Table]:
    """Every figure of one or two points; those that include sampling noise apart."""
    from gradlab.schema import ABOUT_SAMPLING, includes_noise

    first = points[0]
    noisy = [name for name in first["metrics"] if includes_noise(ds, name)]
    noise = "sampling noise included: of this number of draws"
    free = [name for name in first["metrics"] if name not in (*noisy, *ABOUT_SAMPLING)]
    for title, names in ((f"at tf = {first['tf']:g}, tb = {first['tb']:g}", free), (noise, noisy)):
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        table.add_column("figure", no_wrap=True)
        for point in points:
            which = escape(" ".join(str(point[d]) for d in _dims(point)[:-2]))
            table.add_column(f"{which or 'value'} {_ends(ds)}", no_wrap=True)
        over_examples = [[_over_examples(point["metrics"][name]) for name in names] for point in points]
        with_examples = any(map(any, over_examples))
        for _ in points if with_examples else ():
            table.add_column("[dim]\\[over examples][/dim]", no_wrap=True)
        table.add_column("unit", overflow="fold")
        for k, name in enumerate(names):
            cells = [_value_and_interval(point["metrics"][name]) for point in points]
            cells += [of[k] for of in over_examples] if with_examples else []
            table.add_row(escape(name), *cells, str(ds[name].attrs.get("units", "")))
        if names:
            yield table


def _lines(ds: Any, points: list[dict[str, Any]], names: Sequence[str]) -> Table:
    """A line a point: what tells the points apart, and some of the figures."""
    dims = _dims(points[0])
    alone = [dim for dim in dims if dim in ("tf", "tb") and len({p[dim] for p in points}) == 1]
    dims = [dim for dim in dims if dim not in alone or len(alone) == len(dims)]
    at = ", ".join(f"{dim} = {points[0][dim]:g}" for dim in alone)
    table = Table(box=box.SIMPLE_HEAD, title=f"at {at}" if at else None, title_justify="left")
    for dim in dims:
        table.add_column(dim, justify="right" if dim in ("tf", "tb") else "left", overflow="fold")
    units = {name: _power(p["metrics"][name]["value"] for p in points) for name in names}
    for name in names:
        unit = f" in 1e{units[name]}" if units[name] else ""
        table.add_column(f"{name}{unit} {_ends(ds)}", no_wrap=len(names) * 24 + 14 * len(dims) < WIDTH)
    shown = _short_names([str(p["checkpoint"]) for p in points]) if "checkpoint" in dims else {}
    for point in points:
        where = [f"{point[d]:g}" if d in ("tf", "tb") else shown.get(str(point[d]), str(point[d])) for d in dims]
        figures = [_value_and_interval(point["metrics"][name], 10.0 ** units[name]) for name in names]
        table.add_row(*map(escape, where), *figures)
    return table


def _power(values: Iterable[float | None]) -> int:
    """The power of ten in which a column is printed: 0 unless all its values are small, or some very large."""
    largest = max((abs(v) for v in values if v), default=1.0)
    return 0 if 1e-2 < largest < 1e4 else math.floor(math.log10(largest))


def _short_names(paths: list[str]) -> dict[str, str]:
    """Checkpoints without folder and suffix, where that tells them apart."""
    stems = {path: PurePath(path).stem for path in paths}
    return stems if len(set(stems.values())) == len(stems) else {}


def _dims(point: dict[str, Any]) -> list[str]:
    return [name for name in point if name != "metrics"]


def _is_grid(ds: Any, points: list[dict[str, Any]]) -> bool:
    """Whether the points are every pair of many temperatures, and their table fits the width."""
    of_tf, of_tb = ds.sizes.get("tf", 1), ds.sizes.get("tb", 1)
    full = len(points) == math.prod(ds.sizes[dim] for dim in _dims(points[0]) if dim in ds.dims)
    return full and of_tf * of_tb > MOST_LINES and min(of_tf, of_tb) > 1 and of_tf <= MOST_COLUMNS


def _grids(ds: Any, points: list[dict[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, Table]]:
    """Title and table of one figure each, tf to the right and tb downwards; the title has the widest interval."""
    outer = [dim for dim in _dims(points[0]) if dim in ds.dims and dim not in ("tf", "tb")]
    tfs, tbs = ([f"{t:g}" for t in ds[dim].values] for dim in ("tf", "tb"))
    for _, group in itertools.groupby(points, key=lambda p: [p[dim] for dim in outer]):
        rows = list(group)
        for name in names:
            of = {(f"{p['tf']:g}", f"{p['tb']:g}"): p["metrics"][name] for p in rows}
            power = _power(f["value"] for f in of.values())
            ends = [(f["high"] - f["low"]) / 2 for f in of.values() if None not in (f["high"], f["low"])]
            what = "numerical error" if ds.attrs.get("moments") == "exact" else "95 % intervals"
            widest = f"{what} at most ±{plain(max(ends, default=None), 2)}"
            which = ", ".join([name, *(str(rows[0][dim]) for dim in outer), *[f"in units of 1e{power}"] * bool(power)])
            table = Table(box=box.SIMPLE_HEAD)
            table.add_column("tb \\ tf", justify="right", no_wrap=True)
            for tf in tfs:
                table.add_column(tf, justify="right", no_wrap=True)
            for tb in tbs:
                table.add_row(tb, *(_short(of[tf, tb]["value"], 10.0**power) for tf in tfs))
            yield f"{which}; {widest}", table


def _short(value: float | None, unit: float) -> str:
    """Three significant digits."""
    return "-" if value is None else f"{value / unit:.3g}"


def _ends(ds: Any) -> str:
    return f"[dim]\\[{'numerical error' if ds.attrs.get('moments') == 'exact' else '95 %'}][/dim]"


def _value_and_interval(figure: dict[str, float | None], unit: float = 1.0) -> str:
    value, low, high = (None if (v := figure.get(key)) is None else v / unit for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return plain(value)
    shown, *ends = three(value, low, high)
    return f"{shown} [dim]\\[{', '.join(ends)}][/dim]"


def _over_examples(figure: dict[str, float | None]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "population_low", "population_high"))
    if value is None or low is None or high is None:
        return ""
    return f"[dim]\\[{', '.join(three(value, low, high)[1:])}][/dim]"
