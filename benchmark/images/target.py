"""Ground truth of one image in the form that detectors take."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.images.masks import InstanceMasks


@dataclass
class Target:
    """Boxes (n, 4) float32 xyxy in pixels of the given image, labels (n,) int64 in ``0..C-1``, n masks or
    None if they are not needed, and stuff (H, W) uint8, the category of every pixel with 255 for unknown, or
    None.

    ``seed`` is the seed of the random draws for this image (sampled anchors and RoIs), so that they do not
    depend on the other images of a batch or on the process; None: PyTorch's default generator.
    """

    boxes: Tensor
    labels: Tensor
    masks: InstanceMasks | None
    stuff: Tensor | None = None
    seed: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        # between processes: a tensor would take shared memory and an open file each
        return vars(self) | {"boxes": self.boxes.numpy(), "labels": self.labels.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = {name: torch.from_numpy(state[name]) for name in ("boxes", "labels")}
        vars(self).update(state | parts)

    def to(self, device: torch.device) -> "Target":
        """The target on another device; copies from pinned memory are asynchronous."""
        masks = None if self.masks is None else self.masks.to(device)
        stuff = None if self.stuff is None else self.stuff.to(device, non_blocking=True)
        boxes, labels = (part.to(device, non_blocking=True) for part in (self.boxes, self.labels))
        return replace(self, boxes=boxes, labels=labels, masks=masks, stuff=stuff)

    def pin_memory(self) -> "Target":
        """The target in pinned memory."""
        masks = None if self.masks is None else self.masks.pin_memory()
        stuff = None if self.stuff is None else self.stuff.pin_memory()
        boxes, labels = self.boxes.pin_memory(), self.labels.pin_memory()
        return replace(self, boxes=boxes, labels=labels, masks=masks, stuff=stuff)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """A new generator for the image's draws."""
        return None if self.seed is None else torch.Generator(device).manual_seed(self.seed)
