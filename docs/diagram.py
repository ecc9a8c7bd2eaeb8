"""Mermaid's flowcharts of plain edges (``a --> b``, ``a -.-> b``) as SVG: Mermaid itself needs a network.

Nodes lie in columns, each right of all that lead to it.
"""

import re
from html import escape
from typing import Any

_EDGE = re.compile(r"^\s*([\w.]+) (-->|-\.->) ([\w.]+)\s*$", re.MULTILINE)
_WIDTH, _HEIGHT, _ACROSS, _DOWN = 116, 30, 160, 48  # of a box, and from one to the next
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
)


def fence(source: str, *_: Any, **__: Any) -> str:
    """What superfences puts in the place of a ```mermaid block; ``ValueError`` for any other diagram."""
    lines = [line for line in source.splitlines() if line.strip()]
    edges = _EDGE.findall(source)
    if not lines or not lines[0].startswith("flowchart") or len(edges) != len(lines) - 1:
        raise ValueError(f"only flowcharts with one edge in a line can be drawn:\n{source}")
    places = _places([(first, last) for first, _, last in edges])
    width = max(column for column, _ in places.values()) * _ACROSS + _WIDTH + 4
    height = max(row for _, row in places.values()) * _DOWN + _HEIGHT + 4
    parts = [_path(places[first], places[last], arrow) for first, arrow, last in edges]
    parts += [_box(name, place) for name, place in places.items()]
    return (
        f'<div class="diagram"><svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img">'
        f"{_ARROW}{''.join(parts)}</svg></div>"
    )


def _places(edges: list[tuple[str, str]]) -> dict[str, tuple[int, float]]:
    """Column and row of every node; the columns are centred on one another."""
    columns = dict.fromkeys([name for edge in edges for name in edge], 0)
    for _ in columns:  # the longest way to a node has fewer edges than there are nodes
        for first, last in edges:
            columns[last] = max(columns[last], columns[first] + 1)
    if max(columns.values()) >= len(columns):
        raise ValueError(f"the edges go in a circle: {edges}")
    by_column: dict[int, list[str]] = {}
    for name, column in columns.items():
        by_column.setdefault(column, []).append(name)
    most = max(len(names) for names in by_column.values())
    return {
        name: (column, row + (most - len(names)) / 2)
        for column, names in by_column.items()
        for row, name in enumerate(names)
    }


def _box(name: str, place: tuple[int, float]) -> str:
    left, top = place[0] * _ACROSS + 2, place[1] * _DOWN + 2
    return (
        f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="4"/>'
        f'<text x="{left + _WIDTH / 2}" y="{top + _HEIGHT / 2}">{escape(name)}</text>'
    )


def _path(first: tuple[int, float], last: tuple[int, float], arrow: str) -> str:
    x, y = first[0] * _ACROSS + _WIDTH + 2, first[1] * _DOWN + _HEIGHT / 2 + 2
    to_x, to_y = last[0] * _ACROSS + 2, last[1] * _DOWN + _HEIGHT / 2 + 2
    bend = (to_x - x) / 2
    dashes = ' stroke-dasharray="4 3"' if arrow == "-.->" else ""
    curve = f"M{x} {y} C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"
    return f'<path d="{curve}"{dashes} marker-end="url(#arrow)"/>'
