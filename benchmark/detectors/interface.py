"""The interface between detectors and all other code; no types of a framework cross it."""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.detectors.masks import PastedMasks
from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

POOLED_SIDE = 7  # RoIAlign before the box head gives 7 x 7 positions in all four papers

ChooseRoIs = Callable[[Tensor, Tensor], Tensor]
"""From labels (N,) in ``0..C`` and image numbers (N,) of sampled RoIs to the indices of those to keep."""

CASCADE_WEIGHTS = {"mmdet": (1.0, 0.5, 0.25), "detectron2": (1.0, 1.0, 1.0)}
"""Loss weights of a cascade's heads, by ``cascade`` of the settings."""

_HEAD = re.compile(r"s(\d)\.")


@dataclass
class RoIBatch:
    """Sampled RoIs of a batch for one classifier, image by image: features (N, D), or (N, D + P) if it also
    takes pooled features; labels (N,) in ``0..C``, proposals (N, 4) xyxy, and image numbers (N,)."""

    features: Tensor
    labels: Tensor
    proposals: Tensor
    image_numbers: Tensor

    def of_images(self, first: int, behind: int) -> "RoIBatch":
        """The RoIs of the images from ``first`` to before ``behind``, which are numbered from 0 again."""
        ends = torch.tensor([first, behind], device=self.image_numbers.device)
        start, end = torch.searchsorted(self.image_numbers, ends).tolist()
        parts = (self.features, self.labels, self.proposals, self.image_numbers - first)
        return RoIBatch(*(part[start:end] for part in parts))


@dataclass
class Detections:
    """Detections of one image, best first, on the CPU: boxes (n, 4) xyxy in pixels of the original image,
    labels (n,) in ``0..C-1``, scores (n,) float32, and masks of the original size, or None."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: PastedMasks | None

    @property
    def rles(self) -> list[dict[str, Any]] | None:
        """The masks as compressed COCO RLE, ``{"size": [height, width], "counts": bytes}`` each, or None."""
        return None if self.masks is None else self.masks.rles


class TestFeatures:
    """What a detector finds in images before its classifiers have a say: each back end's own."""

    __test__ = False  # not a test class for pytest


class TrainingPass(NamedTuple):
    """The contribution of some images to the losses of their worker.

    The loss of a classifier needs the RoIs of all images of the worker, so this has logits (N, L) float32 and
    labels (N,) in ``0..C`` for each head. Every other loss is a mean over items (RoIs, anchors, pixels), so
    this has the sum of their losses and the number of items, both scalars by the name of the loss.
    """

    logits: list[Tensor]
    labels: list[Tensor]
    sums: dict[str, Tensor]
    counts: dict[str, Tensor]


class Detector(nn.Module):
    """A detector of any back end. Images are float (3, H, W), RGB in [0, 1], of different sizes.

    It has one classifier, or one for each head of a cascade; methods return a list with an entry for each.
    ``canvas`` is the height and width that images are padded to; None for the smallest that holds all images.
    """

    backend: ClassVar[str]
    classifiers: nn.ModuleList
    initial_weights: dict[str, Any]
    """Facts for records: the file of the initial weights, and the fraction of tensors that came from it."""

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
        """A forward pass in training, under the name that data-parallel wrappers call."""
        raise NotImplementedError

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """All training losses by name, scalars. The images must be all those of one worker.

        Names of the losses of a cascade's heads begin with ``s0.``, ``s1.`` and ``s2.``.
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
        """The input of the classifiers in a training step, without gradient, mask losses or regression
        losses.

        ``choose`` picks among the sampled RoIs of each head; the RoIs of the next head are refined from all
        of them.
        """
        raise NotImplementedError

    @property
    def features_depend_on(self) -> Hashable:
        """The part of the classifiers that ``box_features`` depends on.

        Detectors that differ only in their classifiers give the same features if this is equal.
        """
        raise NotImplementedError

    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """The input of the classifiers for the ground-truth boxes, one RoI for each, without gradient."""
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
    """The image number (N,) of each RoI, from the labels of the RoIs of each image."""
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
    """The other losses of a worker: the mean over the items of all its passes; 0 without items."""
    return {
        name: torch.stack([found.sums[name] for found in passes]).sum()
        / torch.stack([found.counts[name] for found in passes]).sum().clamp(min=1)
        for name in passes[0].sums
    }


def head_prefix(number: int, heads: int) -> str:
    """Prefix of the names of a head's losses."""
    return f"s{number}." if heads > 1 else ""


def weighted(losses: dict[str, Tensor], weights: Sequence[float]) -> dict[str, Tensor]:
    """The losses with those of a cascade's heads multiplied by their weights."""
    return {
        name: value * weights[int(head[1])] if (head := _HEAD.match(name)) else value
        for name, value in losses.items()
    }
