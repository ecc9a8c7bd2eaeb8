"""Masks in RoIs and in images: what a mask head learns, and what becomes of its probabilities."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

from benchmark.detectors.boxes import Size
from benchmark.images import Target


@torch.no_grad()
def mask_targets(target: Target, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """Masks (K, side, side) float32, 0 or 1, of an image's objects in boxes around them.

    As ``BitMasks.crop_and_resize`` of detectron2 and ``BitmapMasks`` of MMDetection: the mean of bilinear
    samples in each cell, cut at one half.

    Args:
        target: ground truth with masks.
        boxes: (K, 4).
        matched: (K,) index of each box's object.
        side: cells along a side.
    """
    assert target.masks is not None
    used, position = matched.unique(return_inverse=True)  # full-size masks in float32 are large
    numbered = torch.cat([position[:, None].to(boxes), boxes], dim=1)
    cells = roi_align(target.masks[used, None].float(), numbered, side, 1.0, 0, aligned=True)[:, 0]
    return (cells >= 0.5).float()


@torch.no_grad()
def paste_masks(
    masks: Tensor, boxes: Tensor, size: Size, threshold: float, pasting: str = "grid"
) -> list[dict[str, Any]]:
    """Compressed COCO RLE of the size of an image, of masks in their boxes.

    Args:
        masks: probabilities (n, M, M).
        boxes: (n, 4) in pixels of that image.
        size: of the image.
        threshold: probability from which a pixel is foreground.
        pasting: ``mask_pasting`` of the settings.
    """
    if pasting == "whole_pixels":  # the last pixel that a box includes is cut down too
        boxes = torch.cat([boxes[:, :2].floor(), (boxes[:, 2:] - 1).floor() + 1], dim=1)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    height, width = size
    rles: list[dict[str, Any]] = []
    corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).tolist()
    for mask, box, (x1, y1, x2, y2) in zip(masks, boxes, corners, strict=True):
        left, top = min(max(int(x1), 0), width), min(max(int(y1), 0), height)
        right, bottom = min(max(int(x2), left), width), min(max(int(y2), top), height)
        plane = np.zeros((height, width), np.uint8, order="F")
        if right > left and bottom > top:
            window = _sampled(mask, box, (left, top, right, bottom), pasting)
            plane[top:bottom, left:right] = (window >= threshold).cpu().numpy()
        rles.append(coco_mask.encode(plane))
    return rles


def _sampled(mask: Tensor, box: Tensor, window: tuple[int, int, int, int], pasting: str) -> Tensor:
    """Bilinear samples of a mask (M, M) at the middles of the pixels of a window.

    Outside the middles of its outermost cells a mask fades to 0 (grid), or goes on as it is.
    """
    left, top, right, bottom = window
    x = torch.arange(left, right, device=mask.device, dtype=torch.float32) + 0.5
    y = torch.arange(top, bottom, device=mask.device, dtype=torch.float32) + 0.5
    x, y = (x - box[0]) / (box[2] - box[0]) * 2 - 1, (y - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    outside = "zeros" if pasting == "grid" else "border"
    sampled = F.grid_sample(mask[None, None].float(), grid[None], padding_mode=outside, align_corners=False)
    return sampled[0, 0]
