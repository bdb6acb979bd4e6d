"""What a drawn figure holds, for the tests of plots."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection, LineCollection

from gradlab import plots
from gradlab.plots.fitting import shown_labels


def curves(ax):
    """The thick lines of a trend panel: those with markers."""
    return [line for line in ax.lines if line.get_marker() not in ("None", "", None)]


def thin(ax):
    return [line for line in ax.lines if line.get_linewidth() == 0.8]


def band(ax):
    return next(c for c in ax.collections if isinstance(c, FillBetweenPolyCollection))


def segments(ax):
    """Of intervals over draws; those over examples are thinner."""
    lines = (c for c in ax.collections if isinstance(c, LineCollection) and c.get_linewidth()[0] > 1)
    return [s for c in lines for s in c.get_segments()]


def caption(figure):
    return " ".join(plots.caption_of(figure).split())  # undoes no-break spaces


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def cell_texts(ax):
    return [text.get_text() for text in ax.texts]


def drawn_texts(figure):
    """Titles, labels, legend and caption with their bounding boxes, after layout."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = [t for ax in figure.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    entries = [t for legend in figure.legends for t in legend.get_texts()]
    texts = [t for t in [*axes, *entries, *figure.texts] if t.get_text()]
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts]


def misplaced_texts(figure):
    """Texts of `drawn_texts` that overlap another or leave the figure."""
    boxes = drawn_texts(figure)
    outside = [
        text
        for text, box in boxes
        if box.x0 < figure.bbox.x0 or box.x1 > figure.bbox.x1 or box.y0 < figure.bbox.y0 or box.y1 > figure.bbox.y1
    ]
    overlapping = [
        (text, other) for k, (text, box) in enumerate(boxes) for other, at in boxes[k + 1 :] if box.overlaps(at)
    ]
    return outside + overlapping


def ticks(axis):
    """Labels of an axis with their bounding boxes, after layout."""
    canvas = FigureCanvasAgg(axis.figure)
    canvas.draw()
    low, high = sorted(axis.get_view_interval())
    inside = [
        t for at, t in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True) if low <= at <= high
    ]
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in inside]


def overlaps(figure):
    """Texts that overlap each other or a panel, or leave the figure; those of ticks and of axes' legends too."""
    found = misplaced_texts(figure)  # lays the figure out
    renderer = figure.canvas.get_renderer()
    of_axes = [t for axis in axes_of(figure) for t in (*shown_labels(axis), axis.label, axis.get_offset_text())]
    of_axes += [text for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    of_axes += [text for ax in figure.axes if not ax.axison for text in ax.texts]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in of_axes if text.get_text()]
    panels = [(f"panel {k}", ax.bbox) for k, ax in enumerate(figure.axes)]
    found += [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]
    found += [(a, b) for a, one in boxes for b, two in panels if one.overlaps(two)]
    inside = figure.bbox.padded(0.5)
    return found + [text for text, box in boxes if not (inside.contains(*box.min) and inside.contains(*box.max))]


def axes_of(figure):
    return [axis for ax in figure.axes if ax.axison for axis in (ax.xaxis, ax.yaxis)]
