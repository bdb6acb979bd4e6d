"""The figures of this package: Matplotlib's, which a notebook shows as pictures."""

from __future__ import annotations

import io

from matplotlib import figure

PIXELS = 110  # pixels an inch in a notebook; the picture has twice as many, for dense screens


class Figure(figure.Figure):
    """A Matplotlib figure that a notebook shows, although pyplot is not imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=2 * PIXELS)
        width, height = (round(PIXELS * inches) for inches in self.get_size_inches())
        return picture.getvalue(), {"width": width, "height": height}
