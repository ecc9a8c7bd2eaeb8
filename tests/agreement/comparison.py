"""The same detector in several back ends: the largest differences of losses, gradients and detections.

One back end's random weights are carried to the others by the layouts that importing uses. All see the same
images, ground truth and seeds of draws. What is not made equal, as it cannot be:

- Sums of float32 numbers in another order: differences of about 1e-6 of the largest entry.
- A decision that such a difference tips. Where two candidates for suppression have almost the same score, or
  an overlap is almost at the threshold, other boxes may be kept, and everything behind them differs. The
  comparison says so (``detections``, ``RoIs``) instead of taking the largest difference for an error.
"""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.detectors.checkpoints import is_counter
from benchmark.detectors.layouts import DETECTRON2, MMDET
from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.detectors.pixels import PIXELS
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.errors import BenchmarkError
from benchmark.images import InstanceMasks, Target
from benchmark.recipes import load_experiment
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.experiments import lineage
from benchmark.recipes.models import TestSettings
from benchmark.statistics import ClassStatistics
from methods.softmax.classifier import Softmax

EXPERIMENTS = ("balms", "bags", "simcal", "gol", "acsl", "bacl", "disalign", "ecm", "eqlv2", "seesaw")
CLASSES = {
    "torchvision": "benchmark.detectors.torchvision:TorchvisionDetector",
    "mmdet": "benchmark.detectors.mmdet:MMDetDetector",
    "detectron2": "benchmark.detectors.detectron2:Detectron2Detector",
}
LAYOUTS = {"mmdet": MMDET, "detectron2": DETECTRON2}
CATEGORIES = 30
# what does not change what a model computes from given weights and images
LEFT_OUT = {
    *(
        "init",
        "weights",
        "box_head_init",
        "fpn_init",
        "box_regressor_init",
        "mask_predictor_init",
        "framework",
    ),
    *("train_short_edges", "short_edge_sampling", "train_long_edge", "flip_probability", "aspect_grouping"),
    *("test_short_edge", "long_edge"),
}
TINY: dict[str, Any] = {
    "backbone": "resnet50",
    "width": 0.25,
    "fpn_channels": 16,
    "box_head_width": 32,
    "mask_channels": 16,
    "mask_layers": 2,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "rpn_samples": 64,
    "roi_samples": 48,
}
TEST = TestSettings(score_threshold=1e-4, nms_threshold=0.5, max_detections=50)


@dataclass(frozen=True)
class Case:
    """Settings of a detector, and the published rows that use it."""

    rows: tuple[str, ...]
    settings: DetectorSettings

    @property
    def title(self) -> str:
        """For tables."""
        more = f" and {len(self.rows) - 3} more" if len(self.rows) > 3 else ""
        return f"{self.settings.architecture} {self.settings.backbone}: {', '.join(self.rows[:3])}{more}"


def cases(size: str) -> list[Case]:
    """The distinct detectors of the published rows and their bases, made small (``tiny``) or as they are
    (``full``)."""
    found: dict[str, tuple[DetectorSettings, list[str]]] = {}
    for name in EXPERIMENTS:
        for row in load_experiment(name).rows:
            for run in lineage(row.runs[0]):
                settings = run.detector.model_copy(update={"init": "none", "weights": {}})
                if size == "tiny":
                    settings = tiny(settings)
                key = settings.model_dump_json(exclude=LEFT_OUT)
                found.setdefault(key, (settings, []))[1].append(f"{name}:{row.id}")
    return [Case(tuple(dict.fromkeys(rows)), settings) for settings, rows in found.values()]


def tiny(settings: DetectorSettings) -> DetectorSettings:
    """A narrow ResNet-50 with narrow heads, fewer proposals and RoIs, and unchanged rules."""
    counts = {
        name: getattr(settings, name) // 20
        for name in (
            "rpn_train_candidates",
            "rpn_train_proposals",
            "rpn_test_candidates",
            "rpn_test_proposals",
        )
    }
    stride = {"stride_in_1x1": settings.stride_in_1x1, "deformable": settings.deformable}
    return settings.model_copy(update=TINY | counts | stride)


def installed() -> list[str]:
    """The installed back ends."""
    return [name for name in CLASSES if importlib.util.find_spec(name) is not None]


def build(backend: str, settings: DetectorSettings) -> TwoStageDetector:
    """A detector with softmax classifiers; raises ``BenchmarkError`` if the back end does not support it."""
    if backend == "mmdet":
        provide_operators()
    module, _, name = CLASSES[backend].partition(":")
    kind = cast(type[TwoStageDetector], getattr(importlib.import_module(module), name))
    counts = np.arange(1, CATEGORIES + 1)
    names = tuple(map(str, counts))
    statistics = ClassStatistics(counts, names, ("f",) * CATEGORIES, counts, counts, CATEGORIES)
    classifiers: list[Classifier] = [
        Softmax(settings.box_head_width, statistics) for _ in range(settings.box_head_count)
    ]
    return kind(settings, classifiers, TEST)


@torch.no_grad()
def make_lively(detector: TwoStageDetector) -> None:
    """Draw random weights that give different scores, boxes and masks everywhere."""
    for name, value in detector.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif re.search(r"(bn3|conv3\.norm)\.weight$", name):
            value.fill_(0.3)  # deep networks would grow beyond all bounds
    image = PIXELS[detector.settings.pixels].normalised(torch.rand(3, 64, 64))
    levels = detector.pyramid(image[None])
    for layer in _convolutions(detector.pyramid_modules):
        if layer.kernel_size == (3, 3):
            layer.weight.div_(levels[0].std())
    heads = [*_convolutions([detector.proposal_head, *detector.mask_heads]), *detector.box_regressors]
    for layer in (*heads, *(item for layers in detector.box_head_layers for item in layers)):
        nn.init.kaiming_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)
    for layer in detector.box_regressors:
        layer.weight.mul_(0.2)  # no box shrinks to a line
    for classifier in detector.classifiers:
        nn.init.normal_(cast(Tensor, cast(nn.Module, classifier.linear).weight), std=0.3)
    *_, objectness, deltas = [
        layer for layer in _convolutions([detector.proposal_head]) if layer.kernel_size == (1, 1)
    ]
    objectness.weight.mul_(2)
    deltas.weight.mul_(0.2)


def _convolutions(modules: Sequence[nn.Module]) -> list[Any]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return [layer for module in modules for layer in module.modules() if isinstance(layer, kinds)]


def carry(source: TwoStageDetector, target: TwoStageDetector) -> dict[str, str]:
    """Copy the weights of a torchvision detector to one of another back end; returns the names in the other
    by the names in torchvision."""
    layout, cascade = LAYOUTS[target.backend], " cascade" if source.settings.box_head_count > 1 else ""
    names = {
        name: name if name.startswith("classifiers.") else layout.theirs(name, f"torchvision{cascade}")
        for name in source.state_dict()
        if not is_counter(name)
    }
    assert all(names.values())
    state = {str(names[name]): value for name, value in source.state_dict().items() if name in names}
    missing, unexpected = target.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(is_counter(name) for name in missing)
    return {name: str(other) for name, other in names.items()}


def examples(
    edges: tuple[int, int], settings: DetectorSettings, seed: int = 0
) -> tuple[list[Tensor], list[Target]]:
    """Two smooth images of different sizes with elliptic objects, and their ground truth."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for number, (height, width) in enumerate([edges, (edges[1] * 3 // 4, edges[0])]):
        noise = torch.rand(1, 3, height // 8, width // 8, generator=generator)
        image = nn.functional.interpolate(noise, (height, width), mode="bicubic")[0].clamp(0, 1)
        sides = torch.rand(4, 2, generator=generator) * torch.tensor([width, height]) / 3 + 8
        corners = torch.rand(4, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        boxes = torch.cat([corners, corners + sides], dim=1)
        angle = torch.arange(48) / 48 * 2 * torch.pi
        circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
        outlines = (corners + sides / 2)[:, None] + circle * sides[:, None] / 2
        shapes = [[outline.flatten().double().numpy()] for outline in outlines]
        masks = InstanceMasks.of(shapes, height, width, settings.mask_targets)
        stuff = torch.zeros(height, width, dtype=torch.uint8) if settings.semantic_branch else None
        labels = torch.randint(CATEGORIES, (4,), generator=generator)
        images.append(image)
        targets.append(Target(boxes, labels, masks, stuff, seed=100 * seed + number))
    return images, targets


@dataclass
class Results:
    """Losses, gradients (by torchvision's names), RoIs and detections of a detector for the examples."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]
    rois: list[Tensor]
    detections: list[Any]


def results(
    detector: TwoStageDetector, images: list[Tensor], targets: list[Target], names: dict[str, str] | None
) -> Results:
    """Losses and gradients of a training step, the RoIs that a classifier sees, and detections."""
    detector.train()
    losses = detector.losses(images, targets)
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    own = dict(detector.named_parameters())
    gradients = {}
    for name in names or own:
        parameter = own.get(names[name] if names else name)
        if parameter is not None and parameter.grad is not None:
            gradients[name] = parameter.grad
    detector.eval()
    rois = [batch.proposals for batch in detector.box_features(images, targets)]
    sizes = [(image.shape[1] * 5 // 4, image.shape[2] * 5 // 4) for image in images]
    return Results(
        {name: value.item() for name, value in losses.items()},
        gradients,
        rois,
        detector.predict(images, sizes),
    )


@dataclass(frozen=True)
class Difference:
    """Largest differences between two back ends.

    Losses and gradients are relative to the largest entry of the tensor. RoIs and boxes are in pixels. Masks
    are the fraction of pixels that differ. Infinite if numbers of objects or labels differ.
    """

    losses: float
    gradients: float
    rois: float
    boxes: float
    scores: float
    mask_pixels: float
    detections: int

    def within(self, relative: float, pixels: float) -> bool:
        """Whether no difference exceeds a bound; one in ten thousand pixels of masks may differ."""
        return (
            max(self.losses, self.gradients, self.scores) <= relative
            and max(self.rois, self.boxes) <= pixels
            and self.mask_pixels <= 1e-4
        )


def difference(one: Results, two: Results) -> Difference:
    """The differences between the results of two back ends."""
    assert one.losses.keys() == two.losses.keys()
    assert one.gradients.keys() == two.gradients.keys()
    found = [(a, b) for a, b in zip(one.detections, two.detections, strict=True)]
    same = all(a.labels.equal(b.labels) for a, b in found)
    pixels = 0.0
    if same and one.detections[0].rles is not None:
        planes = [(coco_mask.decode(a.rles), coco_mask.decode(b.rles)) for a, b in found if len(a.labels)]
        union = sum(np.count_nonzero(a | b) for a, b in planes)
        pixels = sum(np.count_nonzero(a != b) for a, b in planes) / max(union, 1)
    return Difference(
        max(
            abs(one.losses[name] - two.losses[name]) / max(abs(one.losses[name]), 1e-6) for name in one.losses
        ),
        max(
            float((value - two.gradients[name]).abs().max() / value.abs().max().clamp(min=1e-12))
            for name, value in one.gradients.items()
        ),
        max(_apart(a, b) for a, b in zip(one.rois, two.rois, strict=True)),
        max(_apart(a.boxes, b.boxes) for a, b in found) if same else float("inf"),
        max(_apart(a.scores, b.scores) for a, b in found) if same else float("inf"),
        pixels if same else float("inf"),
        sum(len(a.labels) for a, _ in found),
    )


def _apart(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    return float((one - two).abs().max()) if len(one) else 0.0


def compare(case: Case, edges: tuple[int, int]) -> tuple[dict[tuple[str, str], Difference], dict[str, str]]:
    """The differences of all pairs of back ends, and for each other back end why it has no such detector."""
    refused, found, names = {}, {}, {}
    detectors: dict[str, TwoStageDetector] = {}
    for backend in installed():
        try:
            torch.manual_seed(0)
            detectors[backend] = build(backend, case.settings)
        except BenchmarkError as error:
            refused[backend] = error.what
    images, targets = examples(edges, case.settings)
    if "torchvision" in detectors:
        make_lively(detectors["torchvision"])
        for backend, detector in detectors.items():
            names[backend] = carry(detectors["torchvision"], detector) if backend != "torchvision" else None
            found[backend] = results(detector, images, targets, names[backend])
    order = list(found)
    pairs = [(a, b) for number, a in enumerate(order) for b in order[number + 1 :]]
    return {pair: difference(found[pair[0]], found[pair[1]]) for pair in pairs}, refused
