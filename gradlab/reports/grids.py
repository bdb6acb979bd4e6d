"""Values over (tf, tb), for the page's heatmap: one panel per metric and combination of the other dims, bounded."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import xarray as xr

from ..kinds import first_metrics, metric_names, point_dims
from ..schema import ends_of, short_name
from .points import evenly, of_all_points
from .prose import short

MOST_SIDE = 100  # temperatures a side
MOST_CELLS = 40_000  # of all panels of a file together; each is some 25 bytes of the page


def panels(ds: xr.Dataset) -> tuple[dict[str, Any] | None, list[str]]:
    """Panels as plain data, and what was left out; None where there is no grid.

    A panel has the values, low and high ends (tb, tf) of a metric; null where nothing was measured.
    """
    dims = point_dims(ds)
    first = first_metrics(ds)
    names = [*first, *(n for n in metric_names(ds) if n not in first)]
    if not {"tf", "tb"} <= set(dims) or min(ds.sizes["tf"], ds.sizes["tb"]) < 2:
        return None, []
    ds = ds.assign({n: of_all_points(ds, n) for name in names for n in (name, *ends_of(ds, name))})
    lead = ds[first[0]]
    if float(lead.notnull().any([d for d in dims if d not in ("tf", "tb")]).mean()) < 0.5:
        return None, []  # a cross: its lines say it all
    left_out = []
    at = {t: evenly(ds.sizes[t], MOST_SIDE) for t in ("tf", "tb")}
    for t, kept in at.items():
        if len(kept) < ds.sizes[t]:
            left_out.append(f"the heatmap has {len(kept)} of {ds.sizes[t]:,} {t}, evenly spaced")
    outer = [d for d in dims if d not in ("tf", "tb")]
    choices = list(itertools.product(*(range(ds.sizes[d]) for d in outer)))
    per_panel = len(at["tf"]) * len(at["tb"])
    room = max(1, MOST_CELLS // per_panel)
    kept_choices = [choices[k] for k in evenly(len(choices), room)]
    kept_names = names[: max(1, room // len(kept_choices))]
    if len(kept_choices) < len(choices):
        of = ", ".join(outer)
        left_out.append(f"the heatmap has {len(kept_choices)} of {len(choices):,} combinations of {of}")
    if len(kept_names) < len(names):
        others = ", ".join(names[len(kept_names) :])
        left_out.append(f"the heatmap has the metrics {', '.join(kept_names)}, not {others}")
    found = {
        "tf": [short(ds["tf"].values[k].item()) for k in at["tf"]],
        "tb": [short(ds["tb"].values[k].item()) for k in at["tb"]],
        "outer": outer,
        "figures": [_described(ds, n) for n in kept_names],
        "panels": [
            {
                "figure": k,
                "at": [str(ds[d].values[i].item()) for d, i in zip(outer, choice, strict=True)],
                **_values(ds.isel(dict(zip(outer, choice, strict=True)) | at), name),
            }
            for k, name in enumerate(kept_names)
            for choice in kept_choices
        ],
    }
    return found, left_out


def _described(ds: xr.Dataset, name: str) -> dict[str, str]:
    a = ds[name].attrs
    long, unit = str(a.get("long_name", "")), str(a.get("units", ""))
    return {"name": name, "words": short_name(ds, name), "long": long, "unit": unit}


def _values(ds: xr.Dataset, name: str) -> dict[str, Any]:
    ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {key: _plain(ds[of].transpose("tb", "tf").to_numpy()) for key, of in ends.items() if of in ds}


def _plain(values: np.ndarray) -> list[list[float | None]]:
    return [[float(f"{v:.6g}") if math.isfinite(v) else None for v in row] for row in values.astype(float).tolist()]
