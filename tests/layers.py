"""The picture of the layers in docs/development.md, drawn from the imports that tests/test_layout.py checks.

    python -m tests.layers    draw docs/assets/layers.svg

A box is a package or a module of `gradlab`. It stands one row above the highest box that it imports. An arrow is an
import; an import that a chain of other arrows implies is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from html import escape

from .imports import CONFORMANCE, EVERYTHING, ROOT, imports, within

PICTURE = ROOT / "docs" / "assets" / "layers.svg"
WIDTH, BOX_HEIGHT, ROW, MARGIN = 960, 24, 62, 12
LETTER, APART = 6.6, 14  # width of a letter, and between boxes
# of packages, what stands on a level of its own
PARTS = {
    "gradlab.estimators: conformance": CONFORMANCE,
}
COLOURS = {"package": "#dce6f5", "module": "#f4f4f4"}

Edges = Mapping[str, set[str]]


def unit(name: str) -> str:
    """The package or module directly below `gradlab` that a module belongs to, or its part in PARTS."""
    part = next((part for part, modules in PARTS.items() if within(name, *modules)), None)
    return part or ".".join(name.split(".")[:2])


def units() -> dict[str, set[str]]:
    """The other boxes that each box imports from.

    `gradlab` itself, which looks names up, and boxes without an import either way are left out.
    """
    names = [name for name in EVERYTHING if name not in ("gradlab", "gradlab.__main__")]
    edges: dict[str, set[str]] = {unit(name): set() for name in names}
    for name in names:
        edges[unit(name)] |= {unit(other) for other in imports(name) if other in edges or unit(other) in edges}
    edges = {name: below - {name} for name, below in edges.items()}
    imported = set().union(*edges.values())
    return {name: below for name, below in edges.items() if below or name in imported}


def rows(edges: Edges) -> list[list[str]]:
    """Boxes by row, from the bottom: each in the row above the highest that it imports. ValueError for a circle."""
    found: list[list[str]] = []
    left = dict(edges)
    while left:
        ready = sorted(name for name, below in left.items() if not below & left.keys())
        if not ready:
            raise ValueError(f"imports: expected no circle, got one in {sorted(left)}; PARTS sets apart what breaks it")
        found.append(ready)
        left = {name: below for name, below in left.items() if name not in ready}
    return found


def reduced(edges: Edges) -> dict[str, set[str]]:
    """The edges that no chain of other edges implies."""
    reached: dict[str, set[str]] = {}
    for row in rows(edges):
        for name in row:
            reached[name] = edges[name].union(*(reached[below] for below in edges[name]))
    return {
        name: {one for one in below if not any(one in reached[other] for other in below)}
        for name, below in edges.items()
    }


def drawn(edges: Edges) -> str:
    """The picture as SVG."""
    arrows, levels = reduced(edges), rows(edges)
    lines: list[list[str]] = []
    centre: dict[str, float] = {}
    for level in levels:
        level = sorted(level, key=lambda name: _wanted(name, arrows, centre))
        for line in _broken(level):
            centre |= _placed(line)
            lines.append(line)
    height = 2 * MARGIN + ROW * (len(lines) - 1) + BOX_HEIGHT
    top = {name: height - MARGIN - BOX_HEIGHT - ROW * i for i, line in enumerate(lines) for name in line}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for name in sorted(arrows):
        for below in sorted(arrows[name]):
            start, end = (centre[name], top[name] + BOX_HEIGHT), (centre[below], top[below])
            bend = (end[1] - start[1]) / 2
            parts.append(
                f'<path d="M{start[0]:.0f} {start[1]} C{start[0]:.0f} {start[1] + bend:.0f} '
                f'{end[0]:.0f} {end[1] - bend:.0f} {end[0]:.0f} {end[1]}" fill="none" '
                'stroke="#8a97ab" stroke-width="0.8"/>'
            )
    for name in sorted(centre):
        width = _width(name)
        parts.append(
            f'<g><title>{escape(_summary(name))}</title><rect x="{centre[name] - width / 2:.0f}" y="{top[name]}" '
            f'width="{width:.0f}" height="{BOX_HEIGHT}" rx="4" fill="{COLOURS[_kind(name)]}" stroke="#5a6a80"/>'
            f'<text x="{centre[name]:.0f}" y="{top[name] + 16}" text-anchor="middle">{_label(name)}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _wanted(name: str, arrows: Edges, centre: Mapping[str, float]) -> tuple[float, str]:
    """Boxes stand above what they import."""
    below = [centre[one] for one in arrows[name]]
    return (sum(below) / len(below) if below else 0.0, name)


def _broken(level: list[str]) -> list[list[str]]:
    """Lines that fit the picture."""
    lines: list[list[str]] = [[]]
    for name in level:
        if sum(_width(one) + APART for one in [*lines[-1], name]) > WIDTH - 2 * MARGIN:
            lines.append([])
        lines[-1].append(name)
    return lines


def _placed(line: list[str]) -> dict[str, float]:
    """Centres of boxes, spread over the width."""
    free = (WIDTH - 2 * MARGIN - sum(map(_width, line))) / (len(line) + 1)
    found, x = {}, float(MARGIN)
    for name in line:
        found[name] = x + free + _width(name) / 2
        x += free + _width(name)
    return found


def _label(name: str) -> str:
    return name.removeprefix("gradlab.")


def _width(name: str) -> float:
    return LETTER * len(_label(name)) + 16


def _kind(name: str) -> str:
    return "package" if name in PARTS or EVERYTHING[name].stem == "__init__" else "module"


def _summary(name: str) -> str:
    """What a module says it holds; of a part, its modules."""
    if name in PARTS:
        return ", ".join(map(_label, PARTS[name]))
    text = ast.get_docstring(ast.parse(EVERYTHING[name].read_text())) or ""
    return (text.splitlines() or [""])[0]


if __name__ == "__main__":
    PICTURE.write_text(drawn(units()))
    for row in reversed(rows(units())):
        print("  ".join(_label(name) for name in row))
