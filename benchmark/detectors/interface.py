"""The border between detectors and everything else; no framework's own types cross it."""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

POOLED_SIDE = 7  # RoIAlign before the box head gives 7 x 7 positions in all four papers

ChooseRoIs = Callable[[Tensor, Tensor], Tensor]
"""From labels (N,) in ``0..C`` and image numbers (N,) of sampled RoIs to the indices of those to keep."""

CASCADE_WEIGHTS = {"mmdet": (1.0, 0.5, 0.25), "detectron2": (1.0, 1.0, 1.0)}
"""Of the losses of a cascade's heads, by ``cascade`` of the settings."""

_HEAD = re.compile(r"s(\d)\.")


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


class TestFeatures:
    """What a detector finds in images before its classifiers have a say: each back end's own."""

    __test__ = False  # not a test class for pytest


class TrainingPass(NamedTuple):
    """What images contribute to the losses of the worker that has them.

    A classifier's loss needs the RoIs of all images of the worker: of each head, logits (N, L) float32 and
    labels (N,) in ``0..C``. Every other loss is a mean over items (RoIs, anchors, pixels): the sum of their
    losses, and the number of the items, both scalars by the loss's name.
    """

    logits: list[Tensor]
    labels: list[Tensor]
    sums: dict[str, Tensor]
    counts: dict[str, Tensor]


class Detector(nn.Module):
    """A detector of any back end. Images are float (3, H, W), RGB in [0, 1], of different sizes.

    It has one classifier, or one for each stage of a cascade: methods return a list with an entry for each.
    ``canvas`` is the height and width that images are padded to; None: the least that holds them.
    """

    backend: ClassVar[str]
    classifiers: nn.ModuleList
    initial_weights: dict[str, Any]
    """Facts for records: the file that it starts from, and the share of tensors that came from it."""

    def __init__(self, settings: Settings, test: TestSettings, num_classes: int) -> None:
        super().__init__()
        self.settings, self.test, self.num_classes = settings, test, num_classes
        self.initial_weights = {}

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The fully connected layers between the pooled features and each classifier, in order."""
        raise NotImplementedError

    def forward(
        self, images: list[Tensor], targets: list[Target], canvas: tuple[int, int] | None = None
    ) -> TrainingPass:
        """A pass in training; the name that data-parallel wrappers call."""
        raise NotImplementedError

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """All training losses by name, scalars, of images that are all those of one worker.

        Those of a cascade's heads begin with ``s0.``, ``s1.`` and ``s2.``.
        """
        found = self(images, targets)
        weights = CASCADE_WEIGHTS[self.settings.cascade]
        return weighted(
            classifier_losses(self.classifiers, found.logits, found.labels) | mean_losses([found]), weights
        )

    def box_features(
        self,
        images: list[Tensor],
        targets: list[Target],
        choose: ChooseRoIs | None = None,
        canvas: tuple[int, int] | None = None,
    ) -> list[RoIBatch]:
        """What the classifiers see in a training step, without gradient, mask or regression losses.

        ``choose`` picks among the sampled RoIs of each stage; those of the next are refined from all of them.
        """
        raise NotImplementedError

    @property
    def features_depend_on(self) -> Hashable:
        """What ``box_features`` depend on in the classifiers.

        Detectors that are equal but for their classifiers give the same features where this is equal.
        """
        raise NotImplementedError

    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """What the classifiers would see at the ground-truth boxes, one RoI for each, without gradient."""
        raise NotImplementedError

    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections; ``sizes`` are the original (height, width) that boxes and masks refer to."""
        return self.detections(self.test_features(images), sizes)

    def test_features(self, images: list[Tensor]) -> TestFeatures:
        """The part of ``predict`` that does not depend on the classifiers or the test settings."""
        raise NotImplementedError

    def detections(self, features: TestFeatures, sizes: list[tuple[int, int]]) -> list[Detections]:
        """The rest of ``predict``, also on features of a detector that is equal but for its classifiers and
        test settings."""
        raise NotImplementedError


def image_numbers(labels: list[Tensor]) -> Tensor:
    """The number (N,) of the image that each of the RoIs belongs to, from the labels of each image's RoIs."""
    return torch.cat([torch.full_like(label, number) for number, label in enumerate(labels)])


def classifier_losses(
    classifiers: nn.ModuleList, logits: Sequence[Tensor], labels: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The losses of all heads' classifiers; those of a cascade begin with the head's number."""
    losses: dict[str, Tensor] = {}
    for number, (classifier, z, y) in enumerate(zip(classifiers, logits, labels, strict=True)):
        prefix = head_prefix(number, len(classifiers))
        found = cast(Classifier, classifier).loss(z, y)
        losses |= {f"{prefix}{name}": value for name, value in found.items()}
    return losses


def mean_losses(passes: Sequence[TrainingPass]) -> dict[str, Tensor]:
    """The other losses of a worker: means over the items of all its passes; 0 without items."""
    return {
        name: torch.stack([found.sums[name] for found in passes]).sum()
        / torch.stack([found.counts[name] for found in passes]).sum().clamp(min=1)
        for name in passes[0].sums
    }


def head_prefix(number: int, heads: int) -> str:
    """What stands before the names of a head's losses."""
    return f"s{number}." if heads > 1 else ""


def weighted(losses: dict[str, Tensor], weights: Sequence[float]) -> dict[str, Tensor]:
    """Losses of a cascade's heads multiplied by their weights; all others as they are."""
    return {
        name: value * weights[int(head[1])] if (head := _HEAD.match(name)) else value
        for name, value in losses.items()
    }
