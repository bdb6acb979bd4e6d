"""Prints the results of a sweep: a line per pair of temperatures or a grid, the best pair, and failures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from gradlab.rounding import plain, written

from .output import console, text
from .report import MOST_COLUMNS, MOST_LINES


def report(ds: Any, as_json: bool, written: Sequence[str]) -> None:
    """Means over seeds of the final validation loss, with their 95 % intervals."""
    if as_json:
        click.echo(json.dumps(_as_object(ds) | {"files": list(written)}, allow_nan=False))
        return
    from gradlab.sweeps.summary import COLLAPSED

    rows, found = _rows(ds), _best(ds)
    to = console()
    to.print(escape(_headline(ds)), highlight=False)
    if len(rows) > MOST_LINES and ds.sizes["tf"] <= MOST_COLUMNS:
        to.print(_grid(ds, rows))
    else:
        to.print(_lines(rows))
    for name, words in (("best", "lowest mean"), ("best_diagonal", "lowest with tf = tb")):
        if chosen := found[name]:
            where = f"tf {_short(chosen.tf)}, tb {_short(chosen.tb)}"
            to.print(f"{words}: {where}: {escape(_interval(_as_row(*chosen)))}", highlight=False)
    if count := sum(int(row["collapsed"]) for row in rows):
        level = f"{COLLAPSED:.0%} of {text(ds.attrs['loss_without_code'])}"
        to.print(
            f"collapsed: {count} of {sum(row['seeds'] for row in rows)}; they end at {level} or above, the loss"
            " without a code",
            highlight=False,
            soft_wrap=True,
        )
    if relations := _relations(ds):
        to.print(_relations_table(relations))
    failed = failures(ds)
    for one in failed[:MOST_LINES]:
        where = f"tf {one['tf']}, tb {one['tb']}, seed {one['seed']}"
        to.print(f"failed: {where}: {escape(one['error'])}", highlight=False, soft_wrap=True)
    if len(failed) > MOST_LINES:
        to.print(f"failed: {len(failed) - MOST_LINES} more", highlight=False)
    for path in written:
        to.print(f"wrote {path}", highlight=False, soft_wrap=True)


def report_each_kl(ds: Any, as_json: bool) -> None:
    """The same for each KL term of the training loss."""
    each = {str(kl): ds.sel(kl=kl) for kl in ds.kl.values}
    if as_json:
        click.echo(json.dumps({"kl": {kl: _as_object(one) for kl, one in each.items()}}, allow_nan=False))
        return
    for kl, one in each.items():
        console().print(f"[bold]KL term of the training loss: {kl}[/bold]", highlight=False)
        report(one, as_json, [])


def _best(ds: Any) -> dict[str, Any]:
    from gradlab.sweeps import best

    return {"best": best(ds), "best_diagonal": best(ds, diagonal=True)}


def _as_object(ds: Any) -> dict[str, Any]:
    from gradlab.attributes import plain

    about = {name: plain(value) for name, value in ds.attrs.items()}
    rows = {(row["tf"], row["tb"]): row for row in _rows(ds)}
    chosen = {name: rows[one.tf, one.tb] if one else None for name, one in _best(ds).items()}
    relations = {"fidelity_and_loss": found} if (found := _relations(ds)) else {}
    return {"attributes": about, "pairs": list(rows.values()), **chosen, **relations, "failed": failures(ds)}


def _relations(ds: Any) -> list[dict[str, Any]]:
    """Rank correlations of error and final loss, where fidelity was measured along the trainings."""
    names = [name for name in ("rank_correlation", "rank_correlation_along_tb") if name in ds]
    return [
        {"averaged": _known(n) or "inf", "epoch": epoch}
        | {
            name: {
                end or "value": _known(float(ds[f"{name}_{end}".rstrip("_")].sel(averaged=n, tracked_epoch=epoch)))
                for end in ("", "low", "high")
            }
            for name in names
        }
        for n in (ds.averaged.values.tolist() if names else [])
        for epoch in ds.tracked_epoch.values.tolist()
    ]


def _relations_table(relations: Sequence[dict[str, Any]]) -> Table:
    title = "rank correlation of the error of averaged estimates with the final loss"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("averaged", "epoch", "over all pairs", "along tb"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in relations:
        found = [escape(_interval(of)) for name, of in one.items() if name.startswith("rank")]
        averaged = one["averaged"] if isinstance(one["averaged"], str) else f"{one['averaged']:g}"
        table.add_row(averaged, str(one["epoch"]), *found)
    return table


def failures(ds: Any) -> list[dict[str, Any]]:
    """Where a training failed, and why."""
    cells = ds[["status", "error"]].stack(cell=["tf", "tb", "seed"])
    return [
        {"tf": tf, "tb": tb, "seed": seed, "error": str(error)}
        for (tf, tb, seed), status, error in zip(
            cells.cell.values.tolist(), cells.status.values, cells.error.values, strict=True
        )
        if status == "failed"
    ]


def _rows(ds: Any) -> list[dict[str, Any]]:
    """A row per pair that has a cell."""
    from gradlab.sweeps import collapsed, over_seeds

    means = over_seeds(ds).assign(median=ds.final_validation_loss.median("seed"), collapsed=collapsed(ds).sum("seed"))
    there = (ds.status != "missing").any("seed")
    return [
        _as_row(tf, tb, [float(means[part].sel(tf=tf, tb=tb)) for part in ("mean", "low", "high", "seeds")])
        | {part: _known(float(means[part].sel(tf=tf, tb=tb))) for part in ("median", "collapsed")}
        for tf in ds.tf.values.tolist()
        for tb in ds.tb.values.tolist()
        if bool(there.sel(tf=tf, tb=tb))
    ]


def _as_row(tf: Any, tb: Any, mean: Sequence[float]) -> dict[str, Any]:
    value, low, high = map(_known, mean[:3])
    return {"tf": tf, "tb": tb, "seeds": int(mean[3]), "value": value, "low": low, "high": high}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _headline(ds: Any) -> str:
    from gradlab.attributes import nested
    from gradlab.terminal import counted

    a, settings = ds.attrs, nested(ds.attrs, "settings")
    count = {status: int((ds.status == status).sum()) for status in ("done", "failed")}
    failed = f", {count['failed']} failed" if count["failed"] else ""
    return (
        f"{settings['architecture']}, {settings['estimator']}, {counted(settings['epochs'], 'epoch')}; {a['data']};"
        f" {counted(count['done'], 'cell')} done{failed}\n"
        f"validation loss ({a['loss']}, without KL) after the last epoch in {a['unit']}:"
        " mean over seeds [95 %, Student's t]"
    )


def _lines(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    lost = any(row["collapsed"] for row in rows)
    for column in ("tf", "tb", "seeds", "validation loss", *(("median", "collapsed") if lost else ())):
        table.add_column(column, justify="left" if column == "validation loss" else "right", no_wrap=True)
    for row in rows:
        more = (text(row["median"]), f"{row['collapsed']:.0f}") if lost else ()
        table.add_row(_short(row["tf"]), _short(row["tb"]), str(row["seeds"]), escape(_interval(row)), *more)
    return table


def _grid(ds: Any, rows: Sequence[dict[str, Any]]) -> Table:
    """tf to the right and tb downwards; the widest interval is in the title."""
    of = {(row["tf"], row["tb"]): row["value"] for row in rows}
    halves = [(row["high"] - row["low"]) / 2 for row in rows if None not in (row["low"], row["high"])]
    title = f"intervals at most ±{plain(max(halves), 2)}" if halves else None
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("tb \\ tf", *ds.tf.values.tolist()):
        table.add_column(_short(column), justify="right", no_wrap=True)
    for tb in ds.tb.values.tolist():
        table.add_row(_short(tb), *(text(of.get((tf, tb))) for tf in ds.tf.values.tolist()))
    return table


def _short(temperature: float | str) -> str:
    return temperature if isinstance(temperature, str) else f"{temperature:.4g}"


def _interval(row: dict[str, Any]) -> str:
    return written(*(math.nan if row[key] is None else row[key] for key in ("value", "low", "high")))
