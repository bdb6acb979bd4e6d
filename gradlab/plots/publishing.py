"""What a figure needs to be published: a size with letters to match, and its caption, kept apart from the axes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from .. import errors, files, outputs
from .fitting import fewer_ticks, fit_in_cells, fit_keys, scale_lines, stacked, wrap_labels

FORMATS = tuple(suffix.removeprefix(".") for suffix in outputs.FIGURE.suffixes)
WIDTH, FONT, SMALL = 5.5, 9, 7.5  # inches of a page's text; points
_CAPTION, _SIZE, _KEYS = "_gradlab_caption", "_gradlab_letters", "_gradlab_keys"  # attributes of a Figure
_IN_METADATA = {"png": "Description", "svg": "Description", "pdf": "Subject"}
_PROGRAM = {"png": "Software", "svg": "Creator", "pdf": "Creator"}


class Size(NamedTuple):
    """Inches of width, and letters relative to those of a page."""

    width: float
    letters: float


SIZES = {"column": Size(3.35, 0.9), "page": Size(WIDTH, 1.0), "slide": Size(10.0, 1.75)}


def keep_caption(figure: Figure, text: str) -> None:
    """Keep what was measured, and how, beside the figure."""
    setattr(figure, _CAPTION, text)


def caption_of(figure: Figure) -> str:
    """The caption of a figure of this package: what was measured, and how. "" where it has none.

    Examples
    --------
    >>> figure = gradlab.plots.auto(gradlab.open_results("bias.h5"))
    >>> "decoupled-st-gs" in gradlab.plots.caption_of(figure)
    True
    """
    return str(getattr(figure, _CAPTION, ""))


def save(figure: Figure, path: str | Path, *, size: str | None = None, caption: bool = False) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, whole or not at all.

    The file's metadata hold the caption: "Description" of a PNG or SVG, "Subject" of a PDF. They also name gradlab,
    without which a later call does not replace the file.

    Parameters
    ----------
    figure : Figure
        Its size and letters become those of `size`.
    path : str or Path
    size : "column", "page" or "slide"
        3.35, 5.5 or 10 inches wide. By default the figure stays as it is.
    caption : bool
        Whether the caption is also drawn under the figure.

    Raises
    ------
    ValueError
        Another suffix or size.
    OSError
        Where it cannot be written: a file of another program is not replaced.

    Examples
    --------
    >>> figure = gradlab.plots.auto(gradlab.open_results("bias.h5"))
    >>> gradlab.plots.save(figure, "bias.png", size="column")
    """
    suffix = PurePath(path).suffix.lower().removeprefix(".")
    outputs.check(path, outputs.FIGURE)
    if size is not None:
        resize(figure, size)
    if caption:
        draw_caption(figure)
        wrap_labels(figure)
    content = io.BytesIO()  # what Matplotlib raises where the disk is full does not say so
    figure.savefig(content, format=suffix, dpi=200, metadata=metadata(figure, suffix))
    with files.written_aside(path) as aside:
        aside.write_bytes(content.getbuffer())


def metadata(figure: Figure, suffix: str) -> dict[str, Any]:
    """What a file says of itself: its programs, by which it may be replaced later, and its caption."""
    text = " ".join(caption_of(figure).split())
    of_program = {_PROGRAM[suffix]: f"{outputs.PROGRAM}, Matplotlib {matplotlib.__version__}"}
    return of_program | ({_IN_METADATA[suffix]: text} if text else {})


def draw_caption(figure: Figure) -> None:
    """Small text across the figure, below it."""
    if not (text := caption_of(figure)):
        return
    small = SMALL * _letters(figure)
    across = int(0.96 * figure.get_figwidth() * 72 / (0.53 * small))  # letters are about half as wide as high
    lines = textwrap.fill(text, across, break_on_hyphens=False)
    if figure.get_layout_engine() is None:  # which makes room by itself
        _make_room(figure, 0.1 + (lines.count("\n") + 1) * 1.25 * small / 72)
    figure.supxlabel(lines, x=0.02, ha="left", fontsize=small, color="0.25")


def _make_room(figure: Figure, inches: float) -> None:
    """Inches below the axes, which keep their size."""
    width, height = figure.get_size_inches()
    places = [ax.get_position() for ax in figure.axes]
    figure.set_size_inches(width, height + inches)
    for ax, place in zip(figure.axes, places, strict=True):
        up = (place.y0 * height + inches) / (height + inches)
        ax.set_position((place.x0, up, place.width, place.height * height / (height + inches)))


def resize(figure: Figure, size: str) -> None:
    """Give a figure the width and the letters of a size. Raises ValueError for an unknown one."""
    wanted = SIZES[errors.choice("size", size, tuple(SIZES))]
    width, height = figure.get_size_inches()
    letters = wanted.letters / _letters(figure)
    share = wanted.width / width
    height = stacked(figure, wanted.width, wanted.letters) or height * max(share, 0.85 * letters)
    figure.set_size_inches(wanted.width, height)
    for text in figure.findobj(Text):
        text.set_fontsize(_points(text) * letters)
    setattr(figure, _SIZE, wanted.letters)
    for old in list(figure.legends):
        old.remove()
    legend(figure, getattr(figure, _KEYS, []))
    scale_lines(figure, letters)
    for ax in figure.axes:
        ax.tick_params(labelsize=SMALL * wanted.letters)
    wrap_labels(figure)
    fit_keys(figure)
    fewer_ticks(figure)
    fit_in_cells(figure)


def legend(figure: Figure, entries: Sequence[Line2D]) -> None:
    """Names of colours, markers and lines above the axes, in columns that the width has room for."""
    if not entries:
        return
    setattr(figure, _KEYS, entries)
    letters = _letters(figure)
    widest = max(len(str(key.get_label())) for key in entries)
    room = int(96 * figure.get_figwidth() / WIDTH / letters)
    columns = max(1, min(len(entries), room // (widest + 9)))
    figure.legend(handles=entries, loc="outside upper center", ncols=columns, fontsize=SMALL * letters, frameon=False)


def _letters(figure: Figure) -> float:
    return float(getattr(figure, _SIZE, 1.0))


def _points(text: Text) -> float:
    return float(text.get_fontsize())
