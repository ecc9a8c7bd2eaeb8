"""Mermaid's flowcharts of plain edges (``a --> b``, ``a -.-> b``) as SVG: Mermaid itself needs a network.

Nodes are in layers, each after all nodes that lead to it: columns (``LR``) or lines (``TD``).
"""

import re
from html import escape
from typing import Any

_EDGE = re.compile(r"^\s*([\w.]+) (-->|-\.->) ([\w.]+)\s*$", re.MULTILINE)
_WIDTH, _HEIGHT = 116, 30  # of a box
_STEPS = {"LR": ((160, 0), (0, 48)), "TD": ((0, 64), (136, 0))}  # to the next layer, and inside of one
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
)


def fence(source: str, *_: Any, **__: Any) -> str:
    """The replacement of a ```mermaid block for superfences; ``ValueError`` for any other diagram."""
    lines = [line for line in source.splitlines() if line.strip()]
    edges = _EDGE.findall(source)
    kind, _, direction = (lines or [""])[0].partition(" ")
    if kind != "flowchart" or direction not in _STEPS or len(edges) != len(lines) - 1:
        raise ValueError(f"only flowcharts with one edge in a line can be drawn:\n{source}")
    places = _places([(first, last) for first, _, last in edges], direction)
    width = max(x for x, _ in places.values()) + _WIDTH + 4
    height = max(y for _, y in places.values()) + _HEIGHT + 4
    parts = [_path(places[first], places[last], arrow, direction) for first, arrow, last in edges]
    parts += [_box(name, place) for name, place in places.items()]
    return (
        f'<div class="diagram"><svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img">'
        f"{_ARROW}{''.join(parts)}</svg></div>"
    )


def _places(edges: list[tuple[str, str]], direction: str) -> dict[str, tuple[float, float]]:
    """Left upper corner of every node's box; the layers are centred on one another."""
    layers = dict.fromkeys([name for edge in edges for name in edge], 0)
    for _ in range(len(layers)):  # the longest way to a node has fewer edges than there are nodes
        for first, last in edges:
            layers[last] = max(layers[last], layers[first] + 1)
    if max(layers.values()) >= len(layers):
        raise ValueError(f"the edges go in a circle: {edges}")
    by_layer: dict[int, list[str]] = {}
    for name, layer in layers.items():
        by_layer.setdefault(layer, []).append(name)
    most = max(len(names) for names in by_layer.values())
    (next_x, next_y), (beside_x, beside_y) = _STEPS[direction]
    places = {}
    for layer, names in by_layer.items():
        for number, name in enumerate(names):
            slot = number + (most - len(names)) / 2
            places[name] = (layer * next_x + slot * beside_x + 2, layer * next_y + slot * beside_y + 2)
    return places


def _box(name: str, place: tuple[float, float]) -> str:
    left, top = place
    return (
        f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="4"/>'
        f'<text x="{left + _WIDTH / 2}" y="{top + _HEIGHT / 2}">{escape(name)}</text>'
    )


def _path(first: tuple[float, float], last: tuple[float, float], arrow: str, direction: str) -> str:
    if direction == "LR":
        start, end = (first[0] + _WIDTH, first[1] + _HEIGHT / 2), (last[0], last[1] + _HEIGHT / 2)
        bend_x, bend_y = (end[0] - start[0]) / 2, 0.0
    else:
        start, end = (first[0] + _WIDTH / 2, first[1] + _HEIGHT), (last[0] + _WIDTH / 2, last[1])
        bend_x, bend_y = 0.0, (end[1] - start[1]) / 2
    bends = (start[0] + bend_x, start[1] + bend_y), (end[0] - bend_x, end[1] - bend_y)
    curve = "M{} {} C{} {} {} {} {} {}".format(*start, *bends[0], *bends[1], *end)
    dashes = ' stroke-dasharray="4 3"' if arrow == "-.->" else ""
    return f'<path d="{curve}"{dashes} marker-end="url(#arrow)"/>'
