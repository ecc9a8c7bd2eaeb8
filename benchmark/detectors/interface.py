"""The border between detectors and everything else; no framework's own types cross it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from benchmark.images import Target

POOLED_SIDE = 7  # RoIAlign before the box head gives 7 x 7 positions in all four papers

ChooseRoIs = Callable[[Tensor, Tensor], Tensor]
"""From labels (N,) in ``0..C`` and image numbers (N,) of sampled RoIs to the indices of those to keep."""


@dataclass
class RoIBatch:
    """Sampled RoIs of a batch, image after image: features (N, D), or (N, D + P) for a classifier that takes
    the pooled ones too; labels (N,) in ``0..C``, proposals (N, 4) xyxy, and the image number (N,) of each."""

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


class Detector(Protocol):
    """A detector of any back end. Images are float (3, H, W), RGB in [0, 1], of different sizes."""

    classifiers: nn.ModuleList

    @property
    def box_head_layers(self) -> list[nn.Linear]:
        """The fully connected layers between the pooled features and the classifier, in order."""
        ...

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """All training losses by name, scalars; their sum is minimised."""
        ...

    def box_features(
        self, images: list[Tensor], targets: list[Target], choose: ChooseRoIs | None = None
    ) -> RoIBatch:
        """What the classifier sees in a training step, without gradient, mask or regression losses.

        ``choose`` picks among the sampled RoIs before their features are computed.
        """
        ...

    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> RoIBatch:
        """What the classifier would see at the ground-truth boxes, one RoI for each, without gradient."""
        ...

    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections; ``sizes`` are the original (height, width) that boxes and masks refer to."""
        ...
