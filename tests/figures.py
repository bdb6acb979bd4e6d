"""What a drawn figure holds, for the tests of plots."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection, LineCollection

from gradlab import plots


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
    assert boxes
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
