"""One step of several trainings, taken by as many processes as the environment says; see ``test_workers``.

``python steps_of_workers.py OUTPUT``: losses and gradients by case, written by the first process.
"""

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "detectors")]

from tiny_detectors import BACKENDS, FORMS, batch, detector
from torch import Tensor

from benchmark.classifiers import Classifier
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.images import Sample
from benchmark.processes import average
from benchmark.training.passes import Batch, Logits, Retraining, RoIFeatures, WholeDetector
from benchmark.training.workers import Gradients, Workers
from methods.bags.classifier import GroupSoftmax
from methods.gol.classifier import GumbelDropLoss
from methods.softmax.classifier import Softmax

CLASSIFIERS: dict[str, Any] = {
    "softmax": Softmax,
    # two groups, of which one is often inactive; draws among its others
    "bags": lambda *arguments: GroupSoftmax(*arguments, edges=(10,), others_ratio=1.0),
    "gol": lambda *arguments: GumbelDropLoss(*arguments, frequency_threshold=0.2),
}
IMAGES, ITERATION = 4, 3


@dataclass(frozen=True)
class Case:
    """What trains: all of a detector, or its classifier."""

    backend: str
    form: str
    classifier: str
    images_per_worker: int | None
    only_classifier: bool
    at_once: int | None = None

    def __str__(self) -> str:
        return "/".join(map(str, vars(self).values()))


CASES = [
    Case("torchvision", "mask_rcnn", classifier, size, only)
    for classifier, size, only in product(CLASSIFIERS, (1, 2, None), (False, True))
]
CASES += [
    Case("torchvision", "mask_rcnn", classifier, size, False, at_once)
    for classifier, size, at_once in (("bags", 2, 1), ("bags", None, 1), ("gol", None, 2))
]
CASES += [
    Case(backend, form, "bags", 2, only)
    for backend, form in (
        ("mmdet", "htc with stuff"),
        ("mmdet", "cascade with class-specific boxes"),
        ("detectron2", "mask_rcnn"),
    )
    if backend in BACKENDS
    for only in (False, True)
]
# Two workers of two processes each, where there are four. Fewer processes show everything else.
OF_FOUR = [
    case
    for case in CASES
    if case.backend == "torchvision" and (case.images_per_worker, case.at_once) == (2, None)
]


def samples(stuff: bool) -> list[Sample]:
    """Four images, all of different sizes, one without objects."""
    found = []
    for number, sizes in enumerate([((64, 64), (48, 72)), ((70, 60), (50, 100))]):
        images, targets = batch(stuff, sizes)
        for place, (image, target) in enumerate(zip(images, targets, strict=True)):
            target.seed = 10 * number + place
            found.append(Sample(0, image, sizes[place], target))
    empty = found[2].target
    assert empty is not None
    assert empty.masks is not None
    empty.boxes, empty.labels, empty.masks = empty.boxes[:0], empty.labels[:0], empty.masks[:0]
    return found


def model_of(case: Case) -> TwoStageDetector:
    changes: dict[str, Any] = {"norm": "frozen_statistics", "roi_background_min_iou": 0.05}
    model = detector(case.backend, CLASSIFIERS[case.classifier], **changes, **FORMS[case.form])
    with torch.no_grad():
        for classifier in model.classifiers:
            torch.nn.init.normal_(cast(Tensor, cast(Any, classifier).linear.weight), std=0.3)
    return model


def step(fabric: Fabric, case: Case) -> dict[str, Any]:
    """Losses and gradients of a step."""
    model = model_of(case).eval() if case.only_classifier else model_of(case).train()
    if case.only_classifier:
        model.requires_grad_(False)
        model.classifiers.requires_grad_(True)
    trained = Logits(model.classifiers) if case.only_classifier else model
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    module, _ = fabric.setup(trained, optimizer)
    workers = Workers(IMAGES, case.images_per_worker, fabric.global_rank, fabric.world_size)
    gradients = Gradients(fabric, module, model.classifiers, workers, (1, 0.5, 0.25), seed=7)
    own = IMAGES // fabric.world_size
    mine = samples(model.settings.semantic_branch)[fabric.global_rank * own :][:own]
    source: WholeDetector | Retraining
    if case.only_classifier:
        source = Retraining(module, RoIFeatures(fabric, model, workers), None)
    else:
        source = WholeDetector(fabric, module, workers, case.at_once)
    passes, _ = source.of(Batch(ITERATION, mine, []))
    found = [gradients.add(ITERATION, part, own) for part, own in zip(workers.parts, passes, strict=True)]
    losses = {name: average(torch.stack([item[name] for item in found]).mean()) for name in found[0]}
    return {
        "losses": losses,
        "gradients": {name: p.grad for name, p in trained.named_parameters() if p.grad is not None},
    }


def main() -> None:
    """The cases of as many processes as there are."""
    world = int(sys.argv[2])
    fabric = Fabric(accelerator="cpu", devices=world, plugins=[LightningEnvironment()])
    fabric.launch()
    found = {str(case): step(fabric, case) for case in (OF_FOUR if world == 4 else CASES)}
    if fabric.is_global_zero:
        torch.save(found, sys.argv[1])


if __name__ == "__main__":
    assert issubclass(GroupSoftmax, Classifier)
    main()
