"""Ground truth of one image as detectors take it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Target:
    """Boxes (n, 4) float32 xyxy in pixels of the given image, labels (n,) int64 in ``0..C-1``, and masks
    (n, H, W) uint8, or None where nobody needs them; stuff (H, W) uint8, category of every pixel with 255 for
    unknown, or None where there is no map.

    ``seed`` is of the random draws for this image (which anchors and RoIs are sampled), so that they do not
    depend on the other images of a batch and the process that draws; None: PyTorch's default generator.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None
    stuff: Tensor | None = None
    seed: int | None = None

    def to(self, device: torch.device) -> "Target":
        """The same on another device; copies from pinned memory do not wait."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Target":
        """The same in pinned memory."""
        return self._each(Tensor.pin_memory)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """A fresh generator of the image's draws."""
        return None if self.seed is None else torch.Generator(device).manual_seed(self.seed)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Target":
        masks, stuff = (None if part is None else change(part) for part in (self.masks, self.stuff))
        boxes, labels = change(self.boxes), change(self.labels)
        return replace(self, boxes=boxes, labels=labels, masks=masks, stuff=stuff)
