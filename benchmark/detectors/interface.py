"""The border between detectors and everything else; no framework's own types cross it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

POOLED_SIDE = 7  # RoIAlign before the box head gives 7 x 7 positions in all four papers

ChooseRoIs = Callable[[Tensor, Tensor], Tensor]
"""From labels (N,) in ``0..C`` and image numbers (N,) of sampled RoIs to the indices of those to keep."""


STAGE_WEIGHTS = (1.0, 0.5, 0.25)
"""Of the losses of a cascade's stages (Cascade R-CNN, CVPR 2018)."""


@dataclass
class RoIBatch:
    """Sampled RoIs of a batch for one classifier, image after image: features (N, D), or (N, D + P) for one
    that takes the pooled ones too; labels (N,) in ``0..C``, proposals (N, 4) xyxy, and the image number (N,)
    of each."""

    features: Tensor
    labels: Tensor
    proposals: Tensor
    image_numbers: Tensor


@dataclass
class Detections:
    """Detections of one image, best first: boxes (n, 4) xyxy in pixels of the original image, labels (n,) in
    ``0..C-1``, scores (n,) float32, and masks of the original size as compressed COCO RLE
    (``{"size": [height, width], "counts": bytes}``), or None."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    rles: list[dict[str, Any]] | None


class Detector(nn.Module):
    """A detector of any back end. Images are float (3, H, W), RGB in [0, 1], of different sizes.

    It has one classifier, or one for each stage of a cascade: methods return a list with an entry for each.
    """

    backend: ClassVar[str]
    classifiers: nn.ModuleList

    def __init__(self, settings: Settings, test: TestSettings, num_classes: int) -> None:
        super().__init__()
        self.settings, self.test, self.num_classes = settings, test, num_classes

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The fully connected layers between the pooled features and each classifier, in order."""
        raise NotImplementedError

    def forward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """``losses``; the name that data-parallel wrappers call."""
        return self.losses(images, targets)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """All training losses by name, scalars; their sum is minimised."""
        raise NotImplementedError

    def box_features(
        self, images: list[Tensor], targets: list[Target], choose: ChooseRoIs | None = None
    ) -> list[RoIBatch]:
        """What the classifiers see in a training step, without gradient, mask or regression losses.

        ``choose`` picks among the sampled RoIs of each stage; those of the next are refined from all of them.
        """
        raise NotImplementedError

    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """What the classifiers would see at the ground-truth boxes, one RoI for each, without gradient."""
        raise NotImplementedError

    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections; ``sizes`` are the original (height, width) that boxes and masks refer to."""
        raise NotImplementedError


def image_numbers(labels: list[Tensor]) -> Tensor:
    """The number (N,) of the image that each of the RoIs belongs to, from the labels of each image's RoIs."""
    return torch.cat([torch.full_like(label, number) for number, label in enumerate(labels)])


def stage_losses(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The losses of all stages, weighted and with the stage before their names; of one stage as they are."""
    if len(losses) == 1:
        return losses[0]
    return {
        f"s{stage}.{name}": value * weight
        for stage, (weight, found) in enumerate(zip(STAGE_WEIGHTS, losses, strict=True))
        for name, value in found.items()
    }
