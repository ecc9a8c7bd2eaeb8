"""Exactly the pixels that pycocotools counts to polygons, computed on any device for all polygons
together."""

import torch
from torch import Tensor

COCO_SCALE = 5  # pycocotools follows outlines in fifths of a pixel


def spread(first: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
    """The items of ranges, one after the other: the range's number, and the item.

    Args:
        first: (N,) int64, first item of each range.
        behind: (N,) int64, the one after the last.
    """
    counts = (behind - first).clamp(min=0)
    owners = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return owners, torch.arange(len(owners), device=owners.device) + (first - before)[owners]


def pixels_inside(start: Tensor, end: Tensor, polygon: Tensor, count: int, side: int) -> Tensor:
    """Pixels (count, side, side) bool of a square grid that pycocotools counts to each polygon.

    Args:
        start, end: (E, 2) float64 x, y of every edge, in pixels.
        polygon: (E,) int64, the edge's polygon.
        count: number of polygons.
        side: pixels along each side.
    """
    edge, column, row = _crossings(start, end, side)
    size = (count, side + 1, side)
    place = (polygon[edge] * size[1] + row) * size[2] + column
    crossed = torch.bincount(place, minlength=count * size[1] * size[2]).view(size)
    return crossed[:, :side].cumsum(1) % 2 == 1


def _crossings(start: Tensor, end: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crossings of outlines with the middle of the grid's columns, as computed by ``rleFrPoly`` of
    pycocotools.

    A pixel is inside if an odd number of crossings is in its column at or above it.

    Returns:
        The edge, column and row of every crossing, rows in ``0..side`` (all int64).
    """
    # the same operations as in maskApi.c, in float64: whole numbers of fifths, rounded towards 0
    p, q = ((COCO_SCALE * point + 0.5).trunc() for point in (start, end))
    middle = COCO_SCALE // 2
    left, right = torch.minimum(p[:, 0], q[:, 0]), torch.maximum(p[:, 0], q[:, 0])
    first = ((left - middle) / COCO_SCALE).ceil().clamp(0, side)
    behind = ((right - middle - 1) / COCO_SCALE).floor().clamp(-1, side - 1) + 1
    edge, column = spread(first.long(), behind.long())
    p, q = p[edge], q[edge]
    dx, dy = (q - p).abs().unbind(1)
    flat = dx >= dy
    swap = torch.where(flat, p[:, 0] > q[:, 0], p[:, 1] > q[:, 1])[:, None]
    (xs, ys), (xe, ye) = torch.where(swap, q, p).unbind(1), torch.where(swap, p, q).unbind(1)
    at = (COCO_SCALE * column + middle).to(xs)  # an outline crosses from here to the next fifth
    # along x: y of the two steps
    slope = (ye - ys) / dx
    y = torch.minimum(_rounded(ys, slope, at - xs), _rounded(ys, slope, at - xs + 1))
    # along y: the step after which x is beyond the middle
    steep = (xe - xs) / dy
    step = _first_step(xs, steep, at)
    y = torch.where(flat, y, step - 1 + ys)
    row = ((y + 0.5) / COCO_SCALE - 0.5).clamp(0, side).ceil()
    return edge, column, row.long()


def _rounded(origin: Tensor, slope: Tensor, step: Tensor) -> Tensor:
    return (origin + slope * step + 0.5).trunc()


def _first_step(origin: Tensor, slope: Tensor, at: Tensor) -> Tensor:
    """The first step after which the rounded coordinate is on the other side of ``at`` to ``at + 1``."""
    guess = ((at + 0.5 - origin) / slope).ceil()
    # float64 may be off by one, so check the neighbours too
    beyond = [
        torch.where(slope > 0, _rounded(origin, slope, step) > at, _rounded(origin, slope, step) <= at)
        for step in (guess - 1, guess)
    ]
    return torch.where(beyond[0], guess - 1, torch.where(beyond[1], guess, guess + 1))
