"""Images as a model sees them and gives them back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .notebooks import Figure
from .publishing import SMALL, WIDTH, keep_caption

ACROSS = 10  # pairs a row, at most
LARGEST, LABELS, MARGIN = 0.9, 0.9, 0.05  # inches: width of a picture, at most; of the words beside them; around
APART, ROWS_APART = 0.06, 0.2  # between pictures and between rows of pairs, in widths of a picture


def reconstructions(images: Any, reconstructions: Any, caption: str = "") -> Figure:
    """Pairs of pictures, each image above its reconstruction, up to ten pairs a row.

    Parameters
    ----------
    images, reconstructions : arrays or tensors (n, channels, height, width) of floats, with one channel (grey)
        or three (red, green, blue); what lies outside [0, 1] is clipped for display
    caption : what `gradlab.plots.caption_of` returns

    Raises
    ------
    ValueError
        Other shapes, for integers, and for values that are not finite.

    Examples
    --------
    >>> from gradlab.setup import reconstruct
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(5).floats()
    >>> figure = gradlab.plots.reconstructions(x, reconstruct(model, x))
    """
    pairs = {"image": _pictures("images", images), "recon-\nstruction": _pictures("reconstructions", reconstructions)}
    shape, other = (pictures.shape for pictures in pairs.values())
    if other != shape:
        raise ValueError(f"reconstructions: expected shape {shape}, that of images, got {other}")
    count, _, high, wide = shape
    rows = math.ceil(count / ACROSS)
    across = math.ceil(count / rows)
    height = high / wide
    row_height = 2 * height + APART + ROWS_APART
    right, bottom = across * (1 + APART) - APART, rows * row_height - ROWS_APART
    width = min(LARGEST, (WIDTH - LABELS - MARGIN) / right)
    figure = Figure(figsize=(LABELS + right * width + MARGIN, 1))
    below = MARGIN
    if caption:
        keep_caption(figure, caption)
    figure.set_figheight(bottom * width + MARGIN + below)
    wide_all, high_all = figure.get_size_inches()
    ax = figure.add_axes((LABELS / wide_all, below / high_all, right * width / wide_all, bottom * width / high_all))
    for position, (word, pictures) in enumerate(pairs.items()):
        for k, picture in enumerate(np.moveaxis(pictures, 1, -1)):
            row, column = divmod(k, across)
            left, top = column * (1 + APART), row * row_height + position * (height + APART)
            # colours take three channels, a scale of grey takes none
            shown = np.clip(picture if picture.shape[-1] == 3 else picture[..., 0], 0, 1)
            extent = (left, left + 1, top + height, top)
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
            if column == 0:
                ax.text(left - 0.1, top + height / 2, word, ha="right", va="center", fontsize=SMALL)
    ax.set(xlim=(0, right), ylim=(bottom, 0), aspect="auto")
    ax.set_axis_off()
    return figure


def _pictures(argument: str, given: Any) -> np.ndarray:
    """As floats (n, channels, height, width), or ValueError."""
    found = np.asarray(given)
    if found.ndim != 4 or found.shape[1] not in (1, 3) or 0 in found.shape:
        wanted = "(n, channels, height, width) with 1 or 3 channels"
        raise ValueError(f"{argument}: expected shape {wanted}, got {found.shape}")
    if found.dtype.kind != "f":
        raise ValueError(f"{argument}: expected floats from 0 to 1, got {found.dtype} values")
    if not np.isfinite(found).all():
        raise ValueError(f"{argument}: expected floats from 0 to 1, got values that are not finite")
    return found
