"""Stages without gradients can use a plain pass, sampled images, boxes without images, and AP."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmark.annotations import AnnotationFile
from benchmark.detectors import build_detector
from benchmark.evaluation import evaluate_detections
from benchmark.inference.predict import predict_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Run, Sampler, Stage
from benchmark.statistics import ClassStatistics
from benchmark.steps import dataset_files
from benchmark.training import FitData, StageJob, run_stage
from benchmark.training.stages import read_training_data

CPU = torch.device("cpu")


@pytest.fixture
def run(inside: Path, tmp_path: Path) -> Run:
    row = {"id": "a", "method": "softmax", "dataset": "synthetic_tiny"}
    row["detector"] = "torchvision/tiny_faster_rcnn"
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"name": "e", "title": "E", "budget": "tiny", "rows": [row]}))
    return find_run(f"{path}:a")


def data_of(
    run: Run, sampler: Sampler | None = None, **settings: Any
) -> tuple[FitData, AnnotationFile, ClassStatistics]:
    annotations, statistics = read_training_data(run, dataset_files(run.dataset))
    stage = Stage(name="fit", kind="fit", function="a:b", sampler=sampler)
    images = settings.get("images", dataset_files(run.dataset).train_images)
    data = FitData(
        run, stage, annotations, images, settings.get("categories"), CPU, settings.get("workers", 0)
    )
    return data, annotations, statistics


def labels_of(batches: Any) -> list[list[int]]:
    return [target.labels.tolist() for _, targets in batches for target in targets]


def test_a_plain_pass_has_every_annotated_image_once_in_order(run: Run) -> None:
    data, annotations, statistics = data_of(run)
    label = {int(id_): number for number, id_ in enumerate(annotations.category_ids)}
    expected = [
        [label[item.category_id] for item in items]
        for items in annotations.annotations_by_image().values()
        if items
    ]
    assert labels_of(data.batches()) == expected
    assert [len(images) for images, _ in data.batches(size=7)][:2] == [7, 7]
    counts = np.bincount([label for labels in expected for label in labels], minlength=statistics.num_classes)
    assert counts.tolist() == statistics.instance_counts.tolist()


def test_drawn_images_follow_the_sampler_and_are_augmented(run: Run) -> None:
    sampler = Sampler(kind="repeat_factor_ceiling", threshold=0.5)
    data, _, _ = data_of(run, sampler)
    plain, drawn = labels_of(data.batches()), labels_of(data.drawn(1.0, size=2))
    assert len(drawn) > len(plain)  # rare categories come more than once
    assert {tuple(labels) for labels in drawn} == {tuple(labels) for labels in plain}
    assert drawn[: len(plain)] != plain
    assert labels_of(data.drawn(1.0, size=1)) == drawn
    assert len(labels_of(data.drawn(0.25, size=1))) == round(len(drawn) / 4)
    pixels = [image for images, _ in data.drawn(1.0, size=1) for image in images]
    unaugmented = [image for images, _ in data.batches(size=1) for image in images]
    flips = [not any(image.equal(other) for other in unaugmented) for image in pixels]
    assert 0.2 < sum(flips) / len(flips) < 0.8  # half of them are mirrored
    loaded = data_of(run, sampler, workers=2)[0]
    again = [image for images, _ in loaded.drawn(1.0, size=1) for image in images]
    assert all(a.equal(b) for a, b in zip(pixels, again, strict=True))


def test_boxes_come_from_the_annotations_alone(run: Run) -> None:
    data, annotations, statistics = data_of(run, images=Path("no such folder"))
    found = data.boxes()
    assert np.bincount(found.labels).tolist() == statistics.instance_counts.tolist()
    image = {image.id: image for image in annotations.images}
    first = annotations.annotations[0]
    width, height = image[first.image_id].width, image[first.image_id].height
    x, y, w, h = first.bbox
    np.testing.assert_allclose(found.boxes[0], [x / width, y / height, w / width, h / height])
    assert found.boxes.min() >= 0
    assert (found.boxes[:, :2] + found.boxes[:, 2:]).max() <= 1 + 1e-9
    only = {int(annotations.category_ids[0])}
    assert set(data_of(run, categories=only)[0].boxes().labels.tolist()) == {0}


def test_average_precision_is_that_of_predicting_and_evaluating(run: Run, tmp_path: Path) -> None:
    """On a dataset whose validation split is the training split."""
    checkpoint = tmp_path / "checkpoint.pt"
    files = dataset_files(run.dataset)
    run_stage(StageJob(run, "train", files, checkpoint, init=None), devices=1, workers=0)
    data, annotations, statistics = data_of(run)
    detector = build_detector(run, statistics, initial_weights=False).eval()
    detector.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    with torch.no_grad():
        found = data.average_precision(detector, images=len(annotations.images))
        part = data.average_precision(detector, images=len(annotations.images) // 2)
        assert part == data.average_precision(detector, images=len(annotations.images) // 2) != found
        assert data.average_precision(detector, images=10**6) == found
    same = replace(files, val=files.train, val_images=files.train_images)
    predict_dataset(run, same, checkpoint, tmp_path / "detections.parquet", workers=0, devices=1)
    metrics = evaluate_detections(files.train, tmp_path / "detections.parquet").metrics
    assert found is not None
    assert found == metrics["bbox"]["AP"]
