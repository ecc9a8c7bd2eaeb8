"""The numbers that the canary measures: few numbers that represent all computations.

Arithmetic uses only instructions that every x86-64 processor has (``ENVIRONMENT``), and one thread, so the
numbers do not depend on the machine.
"""

import hashlib
import importlib.util
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from benchmark.detectors.build import build_classifier
from benchmark.detectors.checkpoints import load
from benchmark.evaluation import evaluate_detections
from benchmark.inference.detections import read_detections
from benchmark.recipes import find_run
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Run, Sampler, Schedule, Stage, Synthetic, TestSettings
from benchmark.recipes.plugins import find_plugins
from benchmark.sampling import seeded
from benchmark.statistics import ClassStatistics
from benchmark.steps import Means, dataset_files, make, steps_of
from benchmark.steps.listing import PREDICT

ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "default",
    "CUDA_VISIBLE_DEVICES": "",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}

Values = dict[str, Any]
"""Nested mappings, whose leaves are numbers, lists of numbers, or words."""

LVIS = Path(__file__).parents[1] / "data" / "lvis_val_100.json"
OTHER_DETECTORS = ("mmdet/tiny_mask_rcnn", "mmdet/tiny_htc", "detectron2/tiny_mask_rcnn")
"""Of back ends besides torchvision's."""

DATASET = {
    "name": "canary",
    "title": "Canary",
    "categories": 6,
    "synthetic": {"train_images": 16, "val_images": 4, "image_size": 64, "categories": 6},
}
SCHEDULE = {
    "iterations": 3,
    "batch_size": 2,
    "reference_batch_size": 2,
    "learning_rate": 0.001,
    "optimizer": "adamw",
    "checkpoint_every": 100,
}
BUDGET = {"name": "canary", "all": SCHEDULE, "classifier": SCHEDULE, "sampler": {"threshold": 0.1}}


def measure(names: list[str] | None = None) -> Values:
    """All values, or those of some sections."""
    sections: dict[str, Any] = {"defaults": _defaults, "evaluation": _evaluation}
    with place():
        for name in find_plugins([]):
            sections[f"method {name}"] = lambda name=name: _method(name)
        for detector in other_detectors():
            sections[f"detector {detector}"] = lambda detector=detector: pipeline("softmax", detector)
        chosen = [name for name in sections if names is None or name in names]
        with redirect_stderr(io.StringIO()):  # what trainings say
            return {name: sections[name]() for name in chosen}


def other_detectors() -> list[str]:
    """The detectors whose back ends are installed; only these have values."""
    return [name for name in OTHER_DETECTORS if importlib.util.find_spec(name.partition("/")[0]) is not None]


@contextmanager
def place() -> Iterator[None]:
    """An empty working directory with the smallest dataset and budget."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, content in (("canary", DATASET), ("budgets/canary", BUDGET)):
            path = Path(f"{name}.yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(content))
        yield


def _run_of(method: str, detector: str) -> Run:
    row = {"id": "a", "method": method, "detector": detector, "dataset": "canary"}
    content = {"name": "e", "title": "E", "budget": "budgets/canary.yaml", "dataset_paths": ["."]}
    Path("e.yaml").write_text(yaml.safe_dump(content | {"rows": [row]}))
    return find_run("e.yaml:a")


def _method(name: str) -> Values:
    """The main form of a method from initial weights to detections, and the classifiers of its variants."""
    variants = find_plugins([])[name].method.variants
    found = {"pipeline": pipeline(name, "torchvision/tiny_mask_rcnn")}
    for key in [name, *(f"{name}+{variant}" for variant in variants)]:
        found[key] = classifier(key)
    return found


def pipeline(method: str, detector: str, means: Means = Means()) -> Values:  # noqa: B008 (it is frozen)
    """Run a method from initial weights to detections, in ``place``."""
    run = _run_of(method, detector)
    found: Values = {}
    for step in steps_of(run)[:-1]:
        make(step, means)
        if step.kind.trains and step.owner is run:
            found[f"{step.name} weights"] = _weights(load(step.output())["model"])
            if step.progress.is_file():
                last = json.loads(step.progress.read_text().splitlines()[-1])
                found[f"{step.name} losses"] = last["losses"]
        if step.kind is PREDICT:
            found["detections"] = _detections(step.output())
    if method == "softmax":
        files = dataset_files(run.dataset)
        digest = hashlib.sha256(files.train.read_bytes() + files.val.read_bytes()).hexdigest()
        found["data"] = {"annotations": digest, "statistics": files.statistics.read_text()}
    return found


def _weights(state: Mapping[str, Tensor]) -> Values:
    """For every part of a model (``backbone``, ``rpn``...) the projection of its weights onto fixed
    directions."""
    parts: dict[str, float] = {}
    for name, value in state.items():
        flat = value.double().flatten()
        direction = torch.cos(torch.arange(len(flat), dtype=torch.float64) * 0.37 + len(name))
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0.0) + float((flat * direction).sum())
    return parts


def _detections(path: Path) -> Values:
    table = read_detections(path)
    found: Values = {"count": len(table), "scores": float(np.sum(table.scores, dtype=np.float64))}
    if table.boxes is not None:
        found["boxes"] = np.sum(table.boxes, axis=0, dtype=np.float64).tolist()
    sizes = np.full((len(table), 2), DATASET["synthetic"]["image_size"])  # type: ignore[index]
    masks = table.masks(np.arange(len(table)), sizes)
    found["mask bytes"] = hashlib.sha256(b"".join(bytes(counts) for counts in masks.counts)).hexdigest()
    return found


def classifier(method: str, device: str = "cpu") -> Values:
    """Losses, gradients and scores on fixed features, in double precision; in ``place``."""
    run = _run_of(method, "torchvision/tiny_mask_rcnn")
    counts = np.array([1, 8, 30, 90, 400, 5000])
    ids = np.arange(1, 7)
    names = tuple(f"category_{i}" for i in ids)
    letters = ("r", "r", "c", "c", "f", "f")
    sizes = {"num_images": 9000, "num_annotated_images": 6000}
    statistics = ClassStatistics(ids, names, letters, counts, counts, **sizes)
    with seeded(3):
        layer = build_classifier(run, statistics).double()
        features = torch.randn(24, layer.in_features + layer.pooled_features, dtype=torch.float64)
        labels = torch.randint(0, 7, (24,))
    layer, features, labels = layer.to(device), features.to(device), labels.to(device)
    logits = layer(features)
    with seeded(5):
        losses = layer.loss(logits, labels)
    torch.stack([value for value in losses.values() if value.requires_grad]).sum().backward()
    gradients = {name: p.grad.cpu() for name, p in layer.named_parameters() if p.grad is not None}
    scores = layer.scores(logits.detach()).double().cpu()
    return {
        "losses": {name: float(value.detach()) for name, value in losses.items()},
        "gradients": _weights({f"all.{name}": value for name, value in gradients.items()}),
        "scores": (scores * torch.cos(torch.arange(7, dtype=torch.float64))).sum(dim=1).tolist(),
    }


def _evaluation() -> Values:
    """The metrics of detections that are derived from real annotations by a fixed rule."""
    content = json.loads(LVIS.read_text())
    detections = []
    for number, item in enumerate(content["annotations"]):
        x, y, width, height = item["bbox"]
        moved = [x + width * 0.1 * (number % 3), y, width, height * (1 + 0.1 * (number % 2))]
        score = (number * 7919 % 1000) / 1000
        category = item["category_id"] if number % 5 else content["annotations"][0]["category_id"]
        detections.append(
            {"image_id": item["image_id"], "category_id": category, "bbox": moved, "score": score}
        )
    Path("dt.json").write_text(json.dumps(detections))
    evaluation = evaluate_detections(LVIS, Path("dt.json"), calibration=True)
    ap = np.nan_to_num(evaluation.columns["bbox_AP"])
    return {**evaluation.metrics["bbox"], "categories": float((ap * np.arange(len(ap))).sum())}


def _defaults() -> Values:
    """Default values of settings. Keys omit them, so a changed default changes results but not keys."""
    models = (DetectorSettings, Schedule, Sampler, Stage, TestSettings, Synthetic)
    return {
        model.__name__: {
            name: repr(field.default) for name, field in model.model_fields.items() if not field.is_required()
        }
        for model in models
    }
