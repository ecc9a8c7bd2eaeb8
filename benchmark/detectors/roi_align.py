"""RoIAlign, which on a CPU is matrix products where feature maps are small."""

import torch
import torchvision.ops
from torch import Tensor

SMALL = 4096
"""Positions of a feature map up to which products are faster than torchvision's loops, whose backward pass
visits four positions for each sample of each channel."""


def roi_align(features: Tensor, rois: Tensor, side: int, scale: float, samples: int, aligned: bool) -> Tensor:
    """torchvision's ``roi_align``, up to rounding.

    Args:
        features: (N, C, H, W).
        rois: (n, 5): number of the image, ascending, and x1, y1, x2, y2 in pixels of the image.
        side: cells along each side of a RoI.
        scale: positions per pixel.
        samples: along each side of a cell; 0: as many as there are positions in it.
        aligned: position i is at the pixel (i + 0.5) / scale, not i / scale.

    Returns:
        (n, C, side, side).
    """
    height, width = features.shape[2:]
    if features.device.type != "cpu" or samples == 0 or height * width > SMALL:
        found: Tensor = torchvision.ops.roi_align(features, rois, side, scale, samples, aligned)
        return found
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sizes = sizes.clamp(min=1)
    columns, rows = (
        _weights(corners[:, axis], sizes[:, axis], side, samples, extent)
        for axis, extent in enumerate((width, height))
    )
    counts = rois[:, 0].long().bincount(minlength=len(features)).tolist()
    parts = zip(features, rows.split(counts), columns.split(counts), strict=True)
    return torch.cat([_of_image(*part) for part in parts])


def _of_image(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values (n, C, side, side) from (C, H, W) and weights (n, side, H) and (n, side, W)."""
    channels, height, width = features.shape
    side = rows.shape[1]
    above = rows.flatten(0, 1) @ features.transpose(0, 1).reshape(height, -1)
    cells = above.view(-1, side * channels, width) @ columns.transpose(1, 2)
    return cells.view(-1, side, channels, side).transpose(1, 2)


def _weights(first: Tensor, size: Tensor, side: int, samples: int, extent: int) -> Tensor:
    """Weights (n, side, extent) of the positions along an axis: the mean of bilinear interpolation at the
    samples of each cell. Samples more than one position outside are 0, others are moved to the border."""
    cell = (size / side)[:, None, None]
    number, sample = torch.arange(side, dtype=size.dtype), torch.arange(samples, dtype=size.dtype)
    place = first[:, None, None] + number[:, None] * cell + (sample + 0.5) * cell / samples
    inside = (place >= -1) & (place <= extent)
    distance = (place.clamp(0, extent - 1)[..., None] - torch.arange(extent)).abs()
    return ((1 - distance).clamp(min=0) * inside[..., None]).mean(dim=2)
