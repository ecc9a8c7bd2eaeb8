"""Boxes (..., 4) xyxy in pixels: anchors, deltas, clipping and suppression, the same for all back ends.

A box ends after its last pixel, so its width is x2 - x1. The setting ``coordinates`` selects the conventions
of other frameworks.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

STRIDES = (4, 8, 16, 32, 64)  # pixels, of the pyramid's levels
SIZE_DIVISOR = 32  # of padded images
ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height over width
RPN_STDS = (1.0, 1.0, 1.0, 1.0)
# A box may become that much larger or smaller. torchvision and detectron2 bound only how it grows; the deltas
# of a trained network never come near.
LARGEST_LOG_SCALE = math.log(1000 / 16)

Size = tuple[int, int]
"""Height and width."""


def padded(size: Size) -> Size:
    """The smallest size, at least the given one, that the backbone takes."""
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in size)
    return height, width


def anchors_of(
    base_sizes: list[int], grids: list[Size], canvas: Size, coordinates: str, device: torch.device
) -> list[Tensor]:
    """Anchors (height * width * 3, 4) of every level, float32; position after position, all shapes at each.

    ``aligned`` anchors are centred on the corner of a cell. Those of torchvision are too, but rounded, and
    the stride of a level is the size of the padded image divided by that of the level: 61 instead of 64 for
    the coarsest level of an 800-pixel side. MMDetection 1 centres them on the middle of a cell and rounds
    their first and last pixel.

    Args:
        base_sizes: square root of an anchor's area, of each level, pixels.
        grids: size of each level.
        canvas: size of the padded images.
        coordinates: see the settings.
        device: of the result.
    """
    found = []
    for base, stride, (rows, columns) in zip(base_sizes, STRIDES, grids, strict=True):
        heights = base * torch.tensor(ASPECT_RATIOS, dtype=torch.float64).sqrt()
        half = torch.stack([base**2 / heights, heights], dim=1) / 2
        cell = torch.cat([-half, half], dim=1)
        if coordinates == "torchvision":
            cell = cell.float().round()
        elif coordinates == "mmdet_v1":
            cell = torch.cat([(stride / 2 - half).round(), (stride / 2 + half - 1).round() + 1], dim=1)
        step = (canvas[0] // rows, canvas[1] // columns) if coordinates == "torchvision" else (stride, stride)
        sides = ((rows, step[0]), (columns, step[1]))
        y, x = (torch.arange(count, device=device) * pixels for count, pixels in sides)
        corner = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).repeat(1, 1, 2)
        found.append((corner[:, :, None] + cell.to(device)).reshape(-1, 4).float())
    return found


def usable(anchors: list[Tensor], grids: list[Size], size: Size, used: str) -> Tensor | None:
    """Which anchors of all levels are used for an image of ``size``, (A,) bool; None for all of them.

    An anchor that ends at the border is inside the image, as in MMDetection 1.

    Args:
        anchors: of every level.
        grids: size of each level.
        size: of the image without padding.
        used: ``anchors_used`` of the settings.
    """
    if used == "all":
        return None
    height, width = padded(size)
    flags = []
    for level, stride, (rows, columns) in zip(anchors, STRIDES, grids, strict=True):
        flag = level.new_zeros(rows, columns, len(level) // (rows * columns), dtype=torch.bool)
        flag[: math.ceil(height / stride), : math.ceil(width / stride)] = True
        flags.append(flag.flatten())
    found = torch.cat(flags)
    if used == "inside":
        boxes = torch.cat(anchors)
        found &= (boxes[:, :2] >= 0).all(dim=1) & (boxes[:, 2] <= size[1]) & (boxes[:, 3] <= size[0])
    return found


def encode(boxes: Tensor, truth: Tensor, stds: tuple[float, ...]) -> Tensor:
    """Deltas (n, 4) from which ``decode`` makes ``truth``: shift relative to the box's size, log of the
    scale."""
    size, goal = boxes[:, 2:] - boxes[:, :2], truth[:, 2:] - truth[:, :2]
    shift = ((truth[:, :2] + goal / 2) - (boxes[:, :2] + size / 2)) / size
    return torch.cat([shift, (goal / size).log()], dim=1) / boxes.new_tensor(stds)


def decode(boxes: Tensor, deltas: Tensor, stds: tuple[float, ...], framework: str) -> Tensor:
    """Boxes (n, K, 4) from boxes (n, 4) and deltas (n, K, 4).

    In all frameworks a box grows at most 62.5 times; in MMDetection it also shrinks at most 62.5 times.
    """
    deltas = deltas * deltas.new_tensor(stds)
    size = (boxes[:, 2:] - boxes[:, :2])[:, None]
    middle = boxes[:, None, :2] + size / 2 + deltas[..., :2] * size
    smallest = -LARGEST_LOG_SCALE if framework in ("mmdet", "mmdet_v1") else None
    half = size * deltas[..., 2:].clamp(smallest, LARGEST_LOG_SCALE).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def clipped(boxes: Tensor, size: Size, coordinates: str) -> Tensor:
    """Boxes (..., 4) clipped to an image; MMDetection 1 clips to whole pixels, so every box keeps at least
    one."""
    if coordinates == "mmdet_v1":
        x1, y1, x2, y2 = boxes.unbind(-1)
        height, width = size
        corners = [x1.clamp(max=width - 1), y1.clamp(max=height - 1), x2.clamp(min=1), y2.clamp(min=1)]
        boxes = torch.stack(corners, dim=-1)
    return clip_boxes_to_image(boxes, size)


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """Indices of at most ``most`` boxes that non-maximum suppression within each group keeps, best first.

    Looks at the best candidates first, because boxes with lower scores cannot suppress them.

    Args:
        boxes: (n, 4), not negative.
        scores: (n,).
        groups: (n,) int64.
        threshold: IoU from which the box with the lower score is removed.
        most: boxes that are needed.
    """
    order = scores.argsort(descending=True, stable=True)
    count = 4 * most
    while True:
        best = order[:count]
        # shift groups apart, so that they do not overlap; float64 keeps fractions of a pixel
        apart = boxes[best].double()
        apart = apart + (groups[best] * (boxes.max() + 1 if len(boxes) else 1))[:, None].double()
        keep = best[nms(apart, scores[best].double(), threshold)]
        if len(keep) >= most or count >= len(order):
            return keep[:most]
        count *= 4
