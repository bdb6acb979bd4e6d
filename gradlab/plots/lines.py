"""Values along an axis: one colour and marker per series, bands or bars for intervals, and the legend."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, Transform

from .selection import picks

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX*"


class Style(NamedTuple):
    line: str
    thin: str = "--"  # of a second, thin line
    hollow: bool = False  # the markers


class Series(NamedTuple):
    """What is drawn in one look: `label` names its colour and marker, `variant` its style."""

    label: str
    variant: str
    data: xr.Dataset
    colour: str
    marker: str
    style: Style

    def marks(self, **changes: Any) -> dict[str, Any]:
        face = "white" if self.style.hollow else self.colour
        return {"marker": self.marker, "ms": 4, "color": self.colour, "mfc": face, "ls": ""} | changes


def series(ds: xr.Dataset, coloured: Sequence[str], styled: str, styles: Iterable[Style]) -> list[Series]:
    """A colour for every combination along the dims `coloured`; one of `styles` for each coordinate of `styled`."""
    styles = list(styles)
    return [
        Series(label, variant, data, colour, marker, style)
        for (label, one), colour, marker in zip(
            picks(ds, coloured), itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False
        )
        for (variant, data), style in zip(picks(one, [styled]), itertools.cycle(styles), strict=False)
    ]


def trend(
    ax: Axes,
    one: Series,
    x: np.ndarray,
    drawn: np.ndarray,
    thin: np.ndarray | None = None,
    shift: float = 0.0,
    bars: bool = False,
    outer: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a series against x; `drawn` as `with_interval` gives it. Returns what was drawn of it, NaN left out.

    A point alone is a marker with its interval, `shift` points aside; with `bars`, each point is. `outer` are the ends
    of a second interval, drawn thinner or lighter.
    """
    keep = np.isfinite(drawn[0])
    x, drawn = x[keep], drawn[:, keep]
    value, low, high = drawn
    if outer is not None:
        outer = outer[:, keep]
    if bars or len(x) == 1:
        # several series would stand on each other
        there = aside(ax, shift)
        ax.vlines(x, low, high, color=one.colour, lw=1.2, transform=there)
        if outer is not None:
            ax.vlines(x, *outer, color=one.colour, lw=0.5, transform=there)
        ax.plot(x, value, **one.marks(ls=one.style.line if len(x) > 1 else "", lw=0.8), transform=there)
        return drawn if outer is None else np.vstack([drawn, outer])
    ax.fill_between(x, low, high, color=one.colour, alpha=0.25, lw=0)
    if outer is not None:
        ax.fill_between(x, *outer, color=one.colour, alpha=0.1, lw=0)
    ax.plot(x, value, **one.marks(ls=one.style.line, lw=1.4, ms=3.5 if len(x) <= 24 else 0))
    if thin is not None:
        ax.plot(x, thin[keep], color=one.colour, lw=0.8, ls=one.style.thin)
    return drawn if outer is None else np.vstack([drawn, outer])


def aside(ax: Axes, shift: float) -> Transform:
    """Data coordinates, `shift` points to the right."""
    return ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans)


def shifts(count: int) -> list[float]:
    """Points by which each of `count` series goes aside."""
    return [5 * (position - (count - 1) / 2) for position in range(count)]


def keys(drawn: Sequence[Series]) -> list[Line2D]:
    """Legend entries: colour and marker of each label, line style of each variant."""
    labels = {one.label: one for one in drawn if one.label}
    variants = {one.variant: one for one in drawn if one.variant}
    plain = {"color": "0.4", "marker": "o"} if labels else {}
    entries = [Line2D([], [], **one.marks(mfc=one.colour, ls="-"), label=name) for name, one in labels.items()]
    for name, one in variants.items():
        key = Line2D([], [], **one.marks(ls=one.style.line, **plain), label=name)
        key.set_markerfacecolor("white" if one.style.hollow else key.get_color())
        entries.append(key)
    return entries
