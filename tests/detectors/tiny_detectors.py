"""Detectors of all installed back ends that take a second, and images for them."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from helpers import instance_masks, statistics_of
from torch import Tensor

from benchmark.classifiers import Classifier
from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings, MaskTargets
from benchmark.recipes.models import TestSettings
from methods.softmax.classifier import Softmax

CLASSES = {"torchvision": "TorchvisionDetector", "mmdet": "MMDetDetector", "detectron2": "Detectron2Detector"}
BACKENDS = [name for name in CLASSES if importlib.util.find_spec(name) is not None]

COUNTS = [3, 50, 400]
TINY: dict[str, Any] = {
    "architecture": "mask_rcnn",
    "backbone": "resnet18",
    "init": "none",
    "width": 0.25,
    "norm": "batch",
    "trainable_layers": 5,
    "fpn_channels": 16,
    "box_head_width": 32,
    "mask_channels": 16,
    "mask_layers": 1,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "rpn_samples": 32,
    "rpn_train_candidates": 60,
    "rpn_train_proposals": 60,
    "rpn_test_candidates": 30,
    "rpn_test_proposals": 30,
    "roi_samples": 16,
}
# Everything is taken, so that nothing depends on a draw
UNDRAWN = {"rpn_samples": 10**5, "roi_samples": 4000}
FORMS: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"architecture": "faster_rcnn"},
    "mask_rcnn": {},
    "agnostic": {"class_agnostic_boxes": True, "class_agnostic_masks": True},
    "cascade_rcnn": {"architecture": "cascade_rcnn", "class_agnostic_boxes": True},
    "cascade with class-specific boxes": {"architecture": "cascade_rcnn"},
    "cascade_mask_rcnn": {"architecture": "cascade_mask_rcnn", "class_agnostic_boxes": True},
    "cascade of detectron2": {
        "architecture": "cascade_mask_rcnn",
        "class_agnostic_boxes": True,
        "cascade": "detectron2",
    },
    "htc": {"architecture": "htc", "class_agnostic_boxes": True},
    "htc with stuff": {"architecture": "htc", "class_agnostic_boxes": True, "semantic_branch": True},
}
REFUSED = {
    ("torchvision", "htc"): "neither hybrid task cascades",
    ("torchvision", "htc with stuff"): "neither hybrid task cascades",
    ("detectron2", "htc"): "no hybrid task cascade",
    ("detectron2", "htc with stuff"): "no hybrid task cascade",
    ("mmdet", "cascade of detectron2"): "a mask head for each box head",
}
COMBINATIONS = [(backend, form) for backend in BACKENDS for form in FORMS if (backend, form) not in REFUSED]
MASK_COMBINATIONS = [
    item for item in COMBINATIONS if item[1] in ("mask_rcnn", "cascade_mask_rcnn", "htc with stuff")
]


def class_of(backend: str) -> type[TwoStageDetector]:
    if backend == "mmdet":
        provide_operators()
    module = importlib.import_module(f"benchmark.detectors.{backend}")
    return cast(type[TwoStageDetector], getattr(module, CLASSES[backend]))


def detector(
    backend: str,
    classifier: Callable[..., Classifier] = Softmax,
    test: TestSettings | None = None,
    **changes: Any,
) -> TwoStageDetector:
    """A tiny detector; ``changes`` are settings."""
    torch.manual_seed(0)
    settings = DetectorSettings(**(TINY | changes))
    classifiers = [
        classifier(settings.box_head_width, statistics_of(COUNTS)) for _ in range(settings.box_head_count)
    ]
    return class_of(backend)(settings, classifiers, test or TestSettings())


def batch(
    stuff: bool = False,
    sizes: Sequence[tuple[int, int]] = ((64, 64), (48, 72)),
    way: MaskTargets = "coverage",
) -> tuple[list[Tensor], list[Target]]:
    """Two images of different sizes, with two objects and one."""
    torch.manual_seed(1)
    images = [torch.rand(3, *size) for size in sizes]
    boxes = [torch.tensor([[4.0, 4, 30, 30], [20, 20, 60, 50]]), torch.tensor([[10.0, 8, 40, 40]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    targets = []
    for image, box, label in zip(images, boxes, labels, strict=True):
        masks = instance_masks(bitmaps(box, *image.shape[1:]), way)
        map_ = torch.randint(0, 183, image.shape[1:], dtype=torch.uint8) if stuff else None
        targets.append(Target(box, label, masks, map_))
    return images, targets


def bitmaps(boxes: Tensor, height: int, width: int) -> Tensor:
    """(n, height, width) uint8 of objects that fill their boxes."""
    found = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for plane, (x1, y1, x2, y2) in zip(found, boxes.long().tolist(), strict=True):
        plane[y1:y2, x1:x2] = 1
    return found


def batch_for(model: TwoStageDetector) -> tuple[list[Tensor], list[Target]]:
    """With stuff maps where the model learns from them."""
    return batch(model.settings.semantic_branch)


def without_objects(targets: list[Target]) -> list[Target]:
    """The same images' ground truth, if nothing were in them."""
    return [
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), target.masks[:0], target.stuff)
        for target in targets
        if target.masks is not None
    ]
