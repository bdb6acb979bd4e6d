"""Fitting a drawn figure to another width: panels below each other, labels on several lines, fewer ticks."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

# attributes of a Figure, of Axes, of an Axis
_PANELS, _KEY, _HIDDEN = "_gradlab_panels", "_gradlab_key", "_gradlab_hidden"
IN_CELL = "value"  # what texts of cells are called
_LEAST_IN_CELL = 4.2  # points, below which numbers in cells are left out


def keep_panels(figure: Figure, axes: Any, width: float, height: float | Sequence[float]) -> None:
    """Allow a narrow figure to place its panels below each other.

    Parameters
    ----------
    axes : (rows, columns), as drawn
    width : inches that a panel needs at letters of a page; where a row has less, it becomes several
    height : inches of a row then, or of each panel of a row
    """
    axes = np.atleast_2d(axes)
    setattr(figure, _PANELS, (axes, width, np.broadcast_to(height, axes.shape[1])))


def stacked(figure: Figure, width: float, letters: float) -> float:
    """Places panels below each other where they need more than `width`. Returns the new height, 0 if all fit."""
    axes, least, heights = getattr(figure, _PANELS, (np.empty((0, 0)), 1.0, ()))
    rows, columns = axes.shape
    each = math.ceil(columns / max(1, min(columns, int(width / (least * letters)))))  # rows in place of one
    if not rows or (each == 1 and axes[0, 0].get_gridspec().ncols == columns):
        return 0.0
    fits = math.ceil(columns / each)
    tall = [float(max(heights[start : start + fits])) for start in range(0, columns, fits)] * rows
    grid = GridSpec(rows * each, fits, figure=figure, height_ratios=tall)
    for (row, column), ax in np.ndenumerate(axes):
        ax.set_subplotspec(grid[row * each + column // fits, column % fits])
        if column and ax.get_shared_y_axes().joined(ax, first := axes[row, 0]):
            leads = column % fits == 0
            ax.yaxis.set_tick_params(labelleft=leads)
            ax.set_ylabel(first.get_ylabel() if leads else "", fontsize=first.yaxis.label.get_fontsize())
    return sum(tall) * letters


def key_above(ax: Axes, entries: Sequence[Artist], columns: int, points: float) -> None:
    """A legend above the axes, in at most `columns`, for a panel that has entries of its own."""
    setattr(ax, _KEY, columns)
    _draw_key(ax, entries, columns, points)


def _draw_key(ax: Axes, entries: Sequence[Any], columns: int, points: float) -> Legend:
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    return ax.legend(
        handles=entries, ncols=columns, fontsize=points, frameon=False, handletextpad=0.4, columnspacing=1.0, **place
    )


def fit_keys(figure: Figure) -> None:
    """Fewer columns for legends that are wider than the panel below them."""
    keyed = [ax for ax in figure.axes if hasattr(ax, _KEY) and ax.get_legend()]
    if keyed:
        figure.draw_without_rendering()
    for ax in keyed:
        key: Any = ax.get_legend()
        entries, points = key.legend_handles, key.get_texts()[0].get_fontsize()
        room = ax.get_position().width * figure.bbox.width
        for columns in range(getattr(ax, _KEY), 0, -1):
            key = _draw_key(ax, entries, columns, points)
            if key.get_window_extent().width <= room:
                break


def scale_lines(figure: Figure, share: float) -> None:
    """Lines and markers as large beside the letters as before."""
    for line in figure.findobj(Line2D):
        line.set(linewidth=line.get_linewidth() * share, markersize=line.get_markersize() * share)
    for some in figure.findobj(LineCollection):
        some.set_linewidth([width * share for width in np.atleast_1d(some.get_linewidth())])


def wrap_labels(figure: Figure) -> None:
    """Labels and titles on lines that their axes have room for."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        box = ax.get_window_extent()
        across, up = (0.98 * side / figure.dpi * 72 for side in (box.width, box.height))
        for text, room in ((ax.xaxis.label, across), (ax.title, across), (ax.yaxis.label, up)):
            words = text.get_text().replace("\n", " ")
            width = max(8, int(room / (0.56 * _points(text))))
            text.set_text(textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False))


def fewer_ticks(figure: Figure) -> None:
    """Numbers at fixed ticks, without those that have no room: every second, every third, ... Names all stay."""
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    fixed = [axis for axis in axes if isinstance(axis.get_major_locator(), FixedLocator)]
    for label in (label for axis in fixed for label in getattr(axis, _HIDDEN, [])):
        label.set_visible(True)
    if fixed:
        figure.draw_without_rendering()
    for axis in fixed:
        labels = [label for label in shown_labels(axis) if label.get_text()]
        if not all(map(_is_number, labels)):
            continue
        step = 1
        while step < len(labels) and _crowded(labels[::step]):
            step += 1
        hidden = [label for k, label in enumerate(labels) if k % step]
        setattr(axis, _HIDDEN, hidden)
        for label in hidden:
            label.set_visible(False)


def shown_labels(axis: Axis) -> list[Text]:
    """Labels of the major ticks in sight, on whichever side they stand."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]


def _is_number(label: Text) -> bool:
    return label.get_text().replace(".", "", 1).isdigit()


def _crowded(labels: Sequence[Text]) -> bool:
    boxes = [one.get_window_extent().padded(1.0) for one in labels]
    return any(one.overlaps(two) for one, two in itertools.pairwise(boxes))


def fit_in_cells(figure: Figure) -> None:
    """Numbers as large as the smallest cells have room for; none where they could not be read."""
    written = {ax: [text for text in ax.texts if text.get_gid() == IN_CELL] for ax in figure.axes}
    longest = max((len(text.get_text()) for texts in written.values() for text in texts), default=0)
    if longest:
        figure.draw_without_rendering()
    for ax, texts in written.items():
        if not texts:
            continue
        columns = np.asarray(ax.images[0].get_array()).shape[1]
        across = ax.get_window_extent().width / figure.dpi * 72 / columns  # points
        room = 0.94 * across / (0.58 * max(longest, 3))
        for text in texts:
            text.set_visible(room >= _LEAST_IN_CELL)
            if text.get_visible():
                text.set_fontsize(min(_points(text), room))


def _points(text: Text) -> float:
    return float(text.get_fontsize())
