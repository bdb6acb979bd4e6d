"""One self-contained HTML page of several results: no request leaves it, and it reads without JavaScript."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import xarray as xr

from .. import __version__, errors, files, outputs, results
from ..cautions import cautions
from ..kinds import first_metrics, kind, metric_names
from ..schema import short_name, upgraded
from . import drawing, grids, prose
from .points import centre, coordinates_at, estimates_at, evenly, places

MOST_ROWS = 400  # of a table
LONG, WIDE = 15, 7  # rows and columns of a table from which it may scroll
MOST_LETTERS = 2_000  # of an attribute
MOST_FILES = 50


def report(found: str | Path | xr.Dataset | Sequence[str | Path | xr.Dataset], path: str | Path) -> None:
    """Write one HTML page that shows results: figures, sortable tables, a heatmap to explore, provenance.

    The page holds all it needs, asks for nothing elsewhere and reads without JavaScript. Its size is bounded: of
    large results it shows a part, and says which.

    Parameters
    ----------
    found : a results file or a Dataset of any kind of analysis (`gradlab.kinds`), or several of these
    path : of the page; written whole or not at all

    Raises
    ------
    ValueError
        Nothing or too much to show, another analysis; BadFile, a ValueError, for a file that is no results file.
    OSError
        FileNotFoundError for a file that is not there; where the page cannot be written.

    Examples
    --------
    >>> gradlab.report(["bias.h5", "gap.h5"], "page.html")
    """
    listed = [found] if isinstance(found, str | Path | xr.Dataset) else list(found)
    if not 1 <= len(listed) <= MOST_FILES:
        raise ValueError(f"found: expected 1 to {MOST_FILES} results, got {len(listed)}")
    parts = [part for number, one in enumerate(listed, 1) for part in _read(one, number)]
    content = _page([_section(*part, number) for number, part in enumerate(parts, 1)])
    outputs.check(path, outputs.PAGE)
    with files.written_aside(path) as aside:
        aside.write_text(content, encoding="utf-8")


def _read(one: Any, number: int) -> list[tuple[str, str, xr.Dataset]]:
    """Name, checksum and content of a result; of sweeps with several KL terms one for each."""
    if isinstance(one, xr.Dataset):
        name, digest, ds = f"result {number}", "", one
    elif isinstance(one, str | Path):
        ds, name, digest = results.open_results(one), Path(one).name, files.sha256(one)
    else:
        raise ValueError(f"found: expected a path or an xarray.Dataset, got {type(one).__name__}")
    try:
        ds = upgraded(ds)
        if kind(ds).of_trainings:
            from ..sweeps import with_means

            ds = with_means(ds)
        parts = [(name, digest, ds)]
        if "kl" in ds.dims:
            parts = [(f"{name}, KL term {kl}", digest, ds.sel(kl=kl)) for kl in ds["kl"].values]
        for _, _, part in parts:
            first_metrics(part)
    except (ValueError, KeyError, TypeError) as error:
        raise errors.BadFile(
            f"{name}: expected a result that can be shown, got another ({str(error).splitlines()[0]})"
        ) from None
    return parts


# --- a section per result ---


def _section(name: str, digest: str, ds: xr.Dataset, number: int) -> tuple[str, str, str]:
    """Title, headline and HTML of a result."""
    title = f"{kind(ds).title}: {name}"
    headline = prose.headline(ds)
    drawn, left_out = drawing.figures(ds)
    table, more = _table(ds, number)
    data, of_grid = grids.panels(ds)
    left_out += more + of_grid
    pieces = [
        f'<section id="result-{number}"><h2>{escape(title)}</h2>',
        f'<p class="headline">{escape(headline)}</p>',
        f"<p>{escape(prose.sureness(ds))}</p>",
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in prose.subject(ds))}</ul>",
        _cautions(ds),
        *(_figure(title, uri, caption, headline) for title, uri, caption in drawn),
        _heatmap(data, number) if data else "",
        table,
        _all_metrics(ds),
        _failures(ds),
        f"<h3>Left out of this page</h3><ul>{''.join(f'<li>{escape(t)}</li>' for t in left_out)}</ul>"
        if left_out
        else "",
        _provenance(ds, {"results file": name, "sha256 of the file": digest} if digest else {}),
        "</section>",
    ]
    return title, headline, "\n".join(piece for piece in pieces if piece)


def _figure(title: str, uri: str, caption: str, headline: str) -> str:
    alt = escape(f"{title}. {headline}", quote=True)
    told = f"<strong>{escape(title)}.</strong> {escape(caption)}"
    return f'<figure><img alt="{alt}" src="{uri}"><figcaption>{told}</figcaption></figure>'


def _table(ds: xr.Dataset, number: int) -> tuple[str, list[str]]:
    """The key figures, a row a point, and what was left out."""
    names = first_metrics(ds)
    at = places(ds, names)
    if not len(at):
        return "", []
    kept = at[evenly(len(at), MOST_ROWS)]
    points = coordinates_at(ds, kept)
    columns = [estimates_at(ds, name, kept) for name in names]
    heads = [(dim, "") for dim in points[0]] + [(short_name(ds, n), _in(ds, n)) for n in names]
    rows = [
        [_cell(value) for value in point.values()] + [_cell(of[k].value, prose.written(of[k])) for of in columns]
        for k, point in enumerate(points)
    ]
    short = [f"the table has {len(kept)} of {len(at):,} points, evenly spaced"] if len(kept) < len(at) else []
    caption = "Key figures, with intervals in brackets; activate a heading to sort"
    return _sortable(caption, heads, rows, f"table-{number}"), short


def _all_metrics(ds: xr.Dataset) -> str:
    """Every metric at the point that was asked for, if that is one or two."""
    around, names = centre(ds), metric_names(ds)
    if len(names) < 4 or not 1 <= len(at := places(around, names)) <= 2:
        return ""
    points = coordinates_at(around, at)
    columns = [", ".join(f"{k} = {prose.short(v)}" for k, v in p.items()) for p in points]
    over = [f"over examples{f', {c}' if len(columns) > 1 else ''}" for c in columns]
    heads = [("metric", ""), *((c, "") for c in columns), *((c, "") for c in over), ("unit", ""), ("what it is", "")]
    rows = [
        [
            _cell(name),
            *(_cell(estimate.value, prose.written(estimate)) for estimate in estimates_at(around, name, at)),
            *(_cell(prose.written_population(estimate)) for estimate in estimates_at(around, name, at)),
            _cell(prose.unit_of(ds, name)),
            _cell(str(ds[name].attrs.get("long_name", ""))),
        ]
        for name in names
    ]
    return _sortable("All metrics at the point asked for", heads, rows, "")


def _cautions(ds: xr.Dataset) -> str:
    found = "".join(f"<li>{escape(line)}</li>" for line in cautions(ds))
    return f'<ul class="cautions">{found}</ul>' if found else ""


def _failures(ds: xr.Dataset) -> str:
    if not kind(ds).of_trainings or "error" not in ds or "status" not in ds:
        return ""
    cells = ds[["status", "error"]].stack(cell=["tf", "tb", "seed"])
    failed = [
        [*(_cell(c) for c in at), _cell(str(error)[:300])]
        for at, status, error in zip(cells.cell.values.tolist(), cells.status.values, cells.error.values, strict=True)
        if status == "failed"
    ]
    shown = failed[:MOST_ROWS]
    caption = f"Trainings that failed: {len(failed):,}" + (f", {len(shown)} shown" if len(shown) < len(failed) else "")
    return _sortable(caption, [(n, "") for n in ("tf", "tb", "seed", "error")], shown, "") if failed else ""


def _provenance(ds: xr.Dataset, more: dict[str, str]) -> str:
    given = more | {str(name): _plain(value) for name, value in ds.attrs.items()}
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_cut(value))}</td></tr>'
        for name, value in list(given.items())[:MOST_ROWS]
    )
    return (
        "<details><summary>How it was made</summary>"
        f'<table class="provenance"><tbody>{rows}</tbody></table></details>{_along(ds)}'
    )


def _along(ds: xr.Dataset) -> str:
    """Further facts about each checkpoint or parameter."""
    found = []
    for dim in ("checkpoint", "parameter"):
        names = [str(n) for n in ds.coords if n != dim and ds[n].dims == (dim,)]
        if dim in ds.dims and names:
            kept = evenly(ds.sizes[dim], MOST_ROWS)
            rows = [[_cell(ds[n].values[k].item()) for n in (dim, *names)] for k in kept]
            found.append(_sortable(f"Each {dim}", [(n, "") for n in (dim, *names)], rows, ""))
    return "".join(found)


# --- pieces of HTML; what comes from a file passes through escape ---


def _heatmap(data: dict[str, Any], number: int) -> str:
    """An empty place that the script fills; hidden without it, as the figure above shows the same."""
    return (
        f'<div class="heatmap" id="heatmap-{number}" hidden><h3>Over the temperatures</h3>'
        '<p class="hint">Point at a cell, or go to it with the arrow keys, to read its value and interval.</p></div>'
        f'<script type="application/json" class="grid" data-for="heatmap-{number}">{_json(data)}</script>'
    )


def _sortable(caption: str, heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], name: str) -> str:
    units = [f" <small>{escape(unit)}</small>" if unit else "" for _, unit in heads]
    top = "".join(f'<th scope="col">{escape(head)}{unit}</th>' for (head, _), unit in zip(heads, units, strict=True))
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    identity = f' id="{name}"' if name else ""
    hint = '<p class="hint scrolls">This table scrolls.</p>' if len(rows) > LONG or len(heads) > WIDE else ""
    return (
        f'{hint}<div class="wide" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}">'
        f'<table class="sortable"{identity}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any, shown: str | None = None) -> str:
    """A cell; numbers carry their value, to sort by."""
    if isinstance(value, int | float):
        text = shown if shown is not None else f"{value:.4g}" if isinstance(value, float) else str(value)
        return f'<td class="number" data-value="{value!r}">{escape(text)}</td>'
    return f"<td>{escape(_cut(shown if shown is not None else str(value)))}</td>"


def _in(ds: xr.Dataset, name: str) -> str:
    unit = prose.unit_of(ds, name)
    return f"({unit})" if unit else ""


def _plain(value: Any) -> str:
    return str(value.tolist() if hasattr(value, "tolist") else value)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} … ({len(text):,} letters in all)"


def _json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    plain = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(sections: Sequence[tuple[str, str, str]]) -> str:
    style, script = (resources.files(__package__).joinpath(f"page.{end}").read_text("utf-8") for end in ("css", "js"))
    entries = "".join(
        f'<li><a href="#result-{k}">{escape(title)}</a><br>{escape(headline)}</li>'
        for k, (title, headline, _) in enumerate(sections, 1)
    )
    contents = f'<nav aria-label="Contents"><ol>{entries}</ol></nav>' if len(sections) > 1 else ""
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="{outputs.PROGRAM}">',
            f"<title>gradlab: {escape('; '.join(title for title, _, _ in sections)[:200])}</title>",
            f"<style>{style}</style></head><body>",
            "<header><h1>How faithful are these gradients?</h1>",
            f"<p>Made by gradlab {escape(__version__)} on {made}. The page holds all its data.</p>",
            f"{contents}</header><main>",
            *(body for _, _, body in sections),
            f"</main><script>{script}</script></body></html>",
        ]
    )
