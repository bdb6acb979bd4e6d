"""The figures of a result, as data URIs: SVG, or PNG where that is smaller."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import xarray as xr

from .. import plots
from .points import analysis_of, evenly, point_dims

MOST_SERIES = 24  # checkpoints times estimators times parameters of a figure
MOST_SVG = 250_000  # bytes; larger ones become pictures
DPI = 130


def figures(ds: xr.Dataset) -> tuple[list[tuple[str, str]], list[str]]:
    """(title, data URI) of each figure, and what was left out of them."""
    ds, left_out = _thinned(ds)
    found = []
    for title, draw in _drawings(ds):
        try:
            found.append((title, _uri(draw())))
        except ValueError as error:  # a file that has other variables than gradlab's own
            left_out.append(f"no figure '{title}' ({str(error).splitlines()[0]})")
    return found, left_out


def _drawings(ds: xr.Dataset) -> Iterator[tuple[str, Callable[[], Any]]]:
    analysis = analysis_of(ds)
    if analysis == "sweep":
        yield "Validation loss after training", lambda: plots.auto(ds)
        yield "Validation loss by epoch", lambda: plots.training_curves(ds)
    elif "epoch" in ds.dims:
        yield f"{analysis.capitalize()} along the training", lambda: plots.auto(ds)
    elif analysis == "gap":
        yield "Gradient gap", lambda: plots.auto(ds)
    elif "tf_fixed" not in ds.attrs and min(ds.sizes.get("tf", 1), ds.sizes.get("tb", 1)) >= 4:
        yield "Relative bias over the temperatures", lambda: plots.auto(ds)
        if "relative_bias" in ds:
            yield "Bias and standard deviation along each temperature", lambda: plots.bias_trends(ds)
    else:
        yield "Bias and standard deviation", lambda: plots.auto(ds)


def _thinned(ds: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """`ds` with no more series than a figure has room for."""
    left_out = []
    for dim in ("checkpoint", "parameter", "estimator"):
        others = 1
        for d in point_dims(ds):
            others *= ds.sizes[d] if d not in ("tf", "tb", "epoch", dim) else 1
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
