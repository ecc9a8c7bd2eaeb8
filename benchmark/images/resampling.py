"""Crops of bitmaps, resized to a few cells, computed from the run lengths of the bitmap.

All methods here to crop and resize a bitmap are linear and separable in rows and columns: a run of foreground
contributes the product of the weight of its rows in a row of cells and the weight of its column in a column
of cells. So the bitmap is never built.

The functions return such weights along one side: (K, side, R) float32, for K RoIs with ``side`` cells and R
spans of pixels each.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """One side of RoIs in an image that is a resized bitmap, and spans of the bitmap's pixels along it.

    Attributes:
        begin, end: (K,) of the RoIs, in the image's pixels.
        first, behind: (K, R) int64, first pixel of each span and the one after its last, in the bitmap.
        pixels: of the image.
        length: pixels of the bitmap.
        mirrored: whether the image is the bitmap mirrored.
    """

    begin: Tensor
    end: Tensor
    first: Tensor
    behind: Tensor
    pixels: int
    length: int
    mirrored: bool = False

    def nearest(self, pixel: Tensor) -> Tensor:
        """The bitmap's pixel that OpenCV's nearest-neighbour resizing uses for a pixel of the image."""
        pixel = self.pixels - 1 - pixel if self.mirrored else pixel
        return (pixel.double() * (1 / (self.pixels / self.length))).floor().long().clamp(0, self.length - 1)


def covered(along: Side, side: int) -> Tensor:
    """Fraction of each cell that a span covers."""
    steps = torch.arange(side + 1, device=along.begin.device) / side
    borders = along.begin[:, None] + (along.end - along.begin)[:, None] * steps
    borders = (along.pixels - borders if along.mirrored else borders) * (along.length / along.pixels)
    first, behind = along.first[:, None].to(borders), along.behind[:, None].to(borders)
    before = borders[..., None].clamp(first, behind)
    widths = borders.diff(dim=1).abs()
    return before.diff(dim=1).abs() / widths[..., None]


def aligned(along: Side, side: int) -> Tensor:
    """Weight of a span in each cell of RoIAlign (aligned, adaptive sampling) on the resized bitmap."""
    cells = (along.end - along.begin) / side
    samples = cells.ceil().clamp(min=1)  # of each cell
    number = torch.arange(int(samples.max()), device=cells.device)
    cell = torch.arange(side, device=cells.device)
    inside = (number + 0.5) / samples[:, None]
    at = (along.begin - 0.5)[:, None, None] + (cell[:, None] + inside[:, None]) * cells[:, None, None]
    used = (number < samples[:, None])[:, None] & (at >= -1) & (at <= along.pixels)
    at = at.clamp(0, along.pixels - 1)
    low = at.floor()
    weights = at.new_zeros(len(cells), side, along.length)
    for tap, share in ((low, 1 - (at - low)), ((low + 1).clamp(max=along.pixels - 1), at - low)):
        weights.scatter_add_(2, along.nearest(tap.long()), share * used / samples[:, None, None])
    before = F.pad(weights.cumsum(2), (1, 0))
    first, behind = (span[:, None].expand(-1, side, -1) for span in (along.first, along.behind))
    return before.gather(2, behind) - before.gather(2, first)


def stretched(along: Side, side: int) -> tuple[Tensor, Tensor]:
    """OpenCV's resizing of whole pixels of the resized bitmap, from ``begin`` to before ``end``.

    Returns:
        Each cell is a weighted mean of two pixels: whether these are in a span, (K, side, 2, R) float32, and
        their weights (K, side, 2), in 1/2048.
    """
    first = along.begin.trunc()
    count = ((along.end - 1).trunc() - first + 1).clamp(min=1)
    first = first.clamp(0, along.pixels - 1)
    count = torch.minimum(count, along.pixels - first).double()[:, None]
    at = ((torch.arange(side, device=count.device) + 0.5) / (side / count) - 0.5).float()
    low = at.floor()
    share = at - low
    taps = torch.minimum(torch.stack([low, low + 1], dim=2).clamp(min=0), count[..., None] - 1)
    taps += first[:, None, None]
    pixel = along.nearest(taps.long())[..., None]
    inside = (pixel >= along.first[:, None, None]) & (pixel < along.behind[:, None, None])
    return inside.float(), (torch.stack([1 - share, share], dim=2) * 2048).round()
