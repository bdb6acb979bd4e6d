"""The rows that are printed. Imports no torch: the process that starts the others stays small."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = ("row", "gradlab", "straightforward", "ratio", "difference", "peak", "remarks")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of gradlab and of the straightforward version, how far apart they are, and peak memory.

    `peak` is the process's peak memory in bytes, torch included, after gradlab's part and before the
    straightforward version's; `difference` is ||fast - straightforward|| / ||straightforward||.
    """

    name: str
    gradlab: float
    straightforward: float
    difference: float | None = None
    peak: int | None = None
    remarks: str = ""

    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            seconds(self.gradlab),
            seconds(self.straightforward),
            f"{self.straightforward / self.gradlab:.3g}",
            "" if self.difference is None else f"{self.difference:.1e}",
            "" if self.peak is None else f"{self.peak / 2**20:,.0f} MiB",
            self.remarks,
        )


def seconds(t: float) -> str:
    return f"{1000 * t:.3g} ms" if t < 0.1 else f"{t:,.3g} s" if t < 100 else f"{t:,.0f} s"


def lines(rows: list[Row]) -> list[str]:
    cells = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    text = {0, len(COLUMNS) - 1}
    return [
        "  ".join(row[i].ljust(w) if i in text else row[i].rjust(w) for i, w in enumerate(widths)).rstrip()
        for row in cells
    ]
