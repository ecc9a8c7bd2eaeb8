"""Retraining of a classifier: a step on ``box_features`` compared with a training step of the frozen
detector."""

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.annotations import read_annotations, synthesize_dataset
from benchmark.detectors.torchvision import TorchvisionDetector
from benchmark.images import TrainImages
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Synthetic, TestSettings
from benchmark.sampling import seeded
from methods.softmax.classifier import Softmax

from .measuring import alternately, measure, median_ratio, result_of, table
from .steps import DEVICES, clock, lvis_statistics, peak_tensor_megabytes

EQUAL, PROCESSES = 1e-5, 3
STEPS = ("box_features", "losses")


@dataclass(frozen=True)
class Size:
    """A detector, its categories, a batch of square images, and the number of timed steps."""

    preset: str
    categories: int
    images: int
    edge: int
    repetitions: int

    def __str__(self) -> str:
        images = f"{self.images} images of {self.edge} x {self.edge} pixels"
        return f"`{self.preset}` with {self.categories} categories, {images}"


SIZES = {
    "smoke": Size("torchvision/tiny_mask_rcnn", 40, images=4, edge=160, repetitions=30),
    "full": Size("torchvision/mask_rcnn_r50_fpn", 1230, images=2, edge=480, repetitions=5),
}

TEXT = """\
## Classifier retraining on `box_features`

A training step that changes the classifier only (`trainable: classifier`), from decoded images to SGD's
update. The benchmark takes RoI features from `box_features`: no gradient before the classifier, and no losses
of boxes, masks and proposals. The other way is a plain training step of the detector with everything but the
classifier frozen: all losses, then the gradient of the classifier alone. Both on the same random weights with
a softmax classifier, norm layers in evaluation mode, and the same synthetic images. Boxes near the objects
are added to the proposals, because the random weights propose hardly any; with them {foreground:.0%} of the
RoIs are foreground, the upper bound of the sampling. Loading images and masks is not included.

- smoke: {smoke}
- full: {full} (published trainings: 800 to 1333 pixels)

**Equal results.** In float32 with the same RoIs, the largest difference in any entry of the classifier's
gradient, divided by the largest entry: {equal}.

**Time and memory.** In float32, on one thread. Times are medians of CPU time (on a GPU: of wall time) over
{repetitions}, taken in turns; their ratio is the median ratio. "Tensors" is the most memory that tensors made
in the step take at once, without weights and images. "Whole process" is the peak resident memory, median of
{processes} processes that take one step each; "beyond set-up" is without the peak of a process that only
builds the detector and the images.

{costs}"""


class Retraining:
    """A frozen detector with a batch of images, for both kinds of step."""

    def __init__(self, size: Size, device: str = "cpu") -> None:
        changes = {"train_short_edges": [size.edge], "long_edge": size.edge, "init": "none"}
        settings = DetectorSettings(**{**detector_presets()[size.preset].settings, **changes})
        with seeded(0):
            classifier = Softmax(settings.box_head_width, lvis_statistics(size.categories))
            self.detector = TorchvisionDetector(settings, [classifier], TestSettings())
        self.detector.requires_grad_(False)
        self.detector.classifiers.requires_grad_(True)
        self.detector.to(device)
        self.classifier = classifier
        self.sgd = torch.optim.SGD(classifier.parameters(), lr=0.001, momentum=0.9)
        with tempfile.TemporaryDirectory() as folder:
            options = Synthetic(train_images=24, val_images=12, image_size=160, categories=40, seed=0)
            synthesize_dataset(options, folder)
            annotations = read_annotations(Path(folder) / "train.json")
            data = TrainImages(annotations, Path(folder) / "images", settings, seed=0, masks=True)
            samples = [data[index, index] for index in range(size.images)]
        pairs = [sample.on(torch.device(device)) for sample in samples]
        self.images = [image for image, _ in pairs]
        self.targets = [target for _, target in pairs if target is not None]
        propose = self.detector._proposals

        def proposed(*arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
            boxes, objectness = propose(*arguments)
            near = [boxes_proposed_near(target.boxes, settings.roi_samples) for target in self.targets]
            return [torch.cat(pair) for pair in zip(boxes, near, strict=True)], objectness

        self.detector._proposals = proposed  # type: ignore[assignment, method-assign]

    def loss(self, how: str) -> Tensor:
        """The classifier's loss, or the sum of all losses."""
        if how == "box_features":
            self.detector.eval()
            (rois,) = self.detector.box_features(self.images, self.targets)
            self.labels = rois.labels
            losses = self.classifier.loss(self.classifier(rois.features).float(), rois.labels)
        else:
            self.detector.train()
            for module in self.detector.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            losses = self.detector.losses(self.images, self.targets)
        return torch.stack(list(losses.values())).sum()

    def step(self, how: str) -> None:
        """One training step."""
        loss = self.loss(how)
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()


def boxes_proposed_near(boxes: Tensor, number: int) -> Tensor:
    """Boxes (number, 4) that overlap ``boxes``, like those of a trained proposal network; always the same."""
    some = boxes[torch.arange(number, device=boxes.device) % len(boxes)]
    size = (some[:, 2:] - some[:, :2]).repeat(1, 2)
    with seeded(0):
        return some + 0.05 * size * torch.randn(some.shape).to(some)


def comparison(size: Size) -> dict[str, float]:
    """Fraction of foreground RoIs, and the largest relative difference of the classifier's gradient."""
    retraining = Retraining(size)
    gradients = []
    for how in STEPS:
        retraining.sgd.zero_grad()
        retraining.loss(how).backward()
        gradient = [p.grad.flatten() for p in retraining.classifier.parameters() if p.grad is not None]
        gradients.append(torch.cat(gradient))
    difference = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
    foreground = (retraining.labels < size.categories).float().mean()
    return {"difference": float(difference), "foreground": float(foreground)}


def costs(size: Size, device: str) -> dict[str, list[Any]]:
    """Seconds of each repetition, and megabytes, of both kinds of step."""
    retraining = Retraining(size, device)
    works = [partial(retraining.step, how) for how in STEPS]
    seconds = alternately(*works, repetitions=size.repetitions, clock=clock(device))
    megabytes = []
    for work in works:
        retraining.sgd.zero_grad()
        megabytes.append(peak_tensor_megabytes(work, device))
    return {"seconds": seconds, "megabytes": megabytes}


def take_step(size: Size, how: str) -> None:
    """Run steps to measure the memory of a whole process; none if ``how`` is empty."""
    retraining = Retraining(size)
    if how:
        retraining.step(how)


def _peak(name: str, how: str) -> float:
    code = (
        "import sys; from tests.performance.retraining import *; take_step(SIZES[sys.argv[1]], sys.argv[2])"
    )
    return statistics.median(measure(code, name, how).peak_megabytes for _ in range(PROCESSES))


def _row(what: str, unit: str, values: list[float], ratio: float | None = None) -> list[str]:
    """Features first, then losses."""
    ratio = values[1] / values[0] if ratio is None else ratio
    return [what, *(f"{value:,.{0 if value >= 100 else 1}f} {unit}" for value in values), f"{ratio:.2f}"]


def section() -> str:
    """The section as Markdown."""
    rows, equal, shares = [], [], []
    for name in SIZES:
        compared = result_of("retraining", f"comparison(SIZES['{name}'])")
        shares.append(compared["foreground"])
        relative = compared["difference"]
        if relative > EQUAL:
            raise RuntimeError(f"the classifier's gradients differ ({name}): {relative}")
        equal.append(f"{relative:.0e} ({name})" if relative else f"0 ({name})")
        for device in DEVICES:
            found = result_of("retraining", f"costs(SIZES['{name}'], '{device}')")
            of = f"{name}{', GPU' if device == 'cuda' else ''}"
            features, losses = found["seconds"]
            medians = [1000 * statistics.median(of_one) for of_one in (features, losses)]
            rows.append(_row(f"{of}: time", "ms", medians, median_ratio(losses, features)))
            rows.append(_row(f"{of}: tensors", "MB", found["megabytes"]))
        set_up, *peaks = (_peak(name, how) for how in ("", *STEPS))
        rows.append(_row(f"{name}: whole process", "MB", peaks))
        rows.append(_row(f"{name}: beyond set-up", "MB", [peak - set_up for peak in peaks]))
    return TEXT.format(
        foreground=min(shares),
        smoke=SIZES["smoke"],
        full=SIZES["full"],
        equal=", ".join(equal),
        repetitions=" or ".join(f"{size.repetitions} repetitions ({name})" for name, size in SIZES.items()),
        processes=PROCESSES,
        costs=table(["", "through `box_features`", "plain step", "plain / `box_features`"], rows),
    )
