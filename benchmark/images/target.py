"""Ground truth of one image as detectors take it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Target:
    """Boxes (n, 4) float32 xyxy in pixels of the given image, labels (n,) int64 in ``0..C-1``, and masks
    (n, H, W) uint8, or None where nobody needs them; stuff (H, W) uint8, category of every pixel with 255 for
    unknown, or None where there is no map."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None
    stuff: Tensor | None = None

    def to(self, device: torch.device) -> "Target":
        """The same on another device."""
        masks, stuff = (
            None if part is None else part.to(device, non_blocking=True) for part in (self.masks, self.stuff)
        )
        boxes, labels = (part.to(device, non_blocking=True) for part in (self.boxes, self.labels))
        return Target(boxes, labels, masks, stuff)
