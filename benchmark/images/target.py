"""Ground truth of one image as detectors take it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Target:
    """Boxes (n, 4) float32 xyxy in pixels of the given image, labels (n,) int64 in ``0..C-1``, and masks
    (n, H, W) uint8, or None where nobody needs them."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None

    def to(self, device: torch.device) -> "Target":
        """The same on another device."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Target(
            self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), masks
        )
