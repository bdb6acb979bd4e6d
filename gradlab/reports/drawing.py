"""The figures of a result, as data URIs: SVG, or PNG where that is smaller."""

from __future__ import annotations

import base64
import io
from typing import Any

import xarray as xr

from .. import plots
from ..kinds import kind, point_dims
from ..schema import ALONG
from .points import evenly

MOST_SERIES = 24  # checkpoints times estimators times parameters of a figure
MOST_SVG = 250_000  # bytes; larger ones become pictures
DPI = 130


def figures(ds: xr.Dataset) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(title, data URI, caption) of each figure, and what was left out of them."""
    ds, left_out = _thinned(ds)
    found = []
    for drawing in kind(ds).drawings(ds):
        try:
            figure = plots.draw(ds, drawing)
            found.append((drawing.title, _uri(figure), plots.caption_of(figure)))
        except ValueError as error:  # a file that has other variables than gradlab's own
            left_out.append(f"no figure '{drawing.title}' ({str(error).splitlines()[0]})")
    return found, left_out


def _thinned(ds: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """`ds` with no more series than a figure has room for."""
    left_out = []
    for dim in ("checkpoint", "parameter", "estimator"):
        others = 1
        for d in point_dims(ds):
            others *= ds.sizes[d] if d not in ("tf", "tb", *ALONG, dim) else 1
        if dim in ds.dims and others * ds.sizes[dim] > MOST_SERIES:
            kept = evenly(ds.sizes[dim], max(2, MOST_SERIES // others))
            left_out.append(f"the figures have {len(kept)} of {ds.sizes[dim]:,} {dim}s, evenly spaced")
            ds = ds.isel({dim: kept})
    return ds, left_out


def _uri(figure: Any) -> str:
    kind, content = "svg+xml", _bytes(figure, "svg")
    if len(content) > MOST_SVG:
        kind, content = "png", _bytes(figure, "png")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _bytes(figure: Any, kind: str) -> bytes:
    into = io.BytesIO()
    more = {"metadata": {"Date": None}} if kind == "svg" else {}
    figure.savefig(into, format=kind, dpi=DPI, **more)
    return into.getvalue()
