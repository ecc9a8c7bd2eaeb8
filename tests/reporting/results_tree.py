"""Results in the real file formats: 3 rows, 40 categories, made-up but plausible numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from places import fabricate, made
from pycocotools import mask as mask_utils

from benchmark.files import write_json, write_text
from benchmark.inference.detections import DetectionWriter
from benchmark.recipes import LoadedExperiment, load_experiment
from benchmark.recipes.models import Dataset, Run
from benchmark.statistics import ClassStatistics, counted_groups, frequency_letter
from benchmark.statistics.intermediates import groups_csv
from benchmark.steps import Step, dataset_files, dataset_steps, steps_of
from benchmark.steps.listing import CHECK, INTERMEDIATES, PREDICT, STATISTICS, SYNTHESIZE, TRAIN

COUNTS = np.geomspace(600, 1, 40).round().astype(int)
NAMES = {i + 1: f"category_{i + 1}" for i in range(len(COUNTS))}

EXPERIMENT = """name: made_up
title: Made-up numbers
budget: smoke
rows:
  - {id: softmax, method: softmax, detector: torchvision/tiny_mask_rcnn, dataset: synthetic, seeds: [0, 1]}
  - {id: sigmoid, method: sigmoid, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}
  - {id: bags, method: bags, detector: torchvision/tiny_mask_rcnn, dataset: synthetic, reported: bags/20}
"""


def made_up_experiment(folder: Path, text: str = EXPERIMENT) -> LoadedExperiment:
    path = folder / "made_up.yaml"
    path.write_text(text)
    return load_experiment(str(path))


def statistics() -> ClassStatistics:
    counts = np.asarray(COUNTS, np.int64)
    return ClassStatistics(
        category_ids=np.array(list(NAMES), np.int64),
        names=tuple(NAMES.values()),
        frequencies=tuple(frequency_letter(int(count)) for count in counts),
        image_counts=counts,
        instance_counts=counts * 2,
        num_annotated_images=int(counts.sum()),
    )


def complete_run(
    run: Run, level: float, tail: float, masks: bool = True, until: Sequence[Step] | None = None
) -> None:
    """Make all missing steps of a run; AP falls from ``level`` by ``tail`` over the categories."""
    for step in until if until is not None else steps_of(run):
        if not step.finished:
            if step.kind in (SYNTHESIZE, CHECK):
                fabricate(step)
            elif step.kind is STATISTICS:
                with made(step) as folder:
                    statistics().write(folder / "class_statistics.csv")
            elif step.kind is INTERMEDIATES:
                groups = counted_groups(statistics().instance_counts, step.reads["edges"])
                with made(step) as folder:
                    (folder / "groups.csv").write_bytes(groups_csv(statistics(), groups))
            elif step.kind.trains:
                complete_stage(step)
            elif step.kind is PREDICT:
                detect(step)
            else:
                evaluate(step, level, tail, masks)


def complete_stage(step: Step) -> None:
    run = step.run
    with made(step) as folder:
        (folder / "checkpoint.pt").write_text("weights")
        generator = np.random.default_rng(sum(map(ord, run.method)) + run.seed)
        lines = []
        for iteration in range(10, 460 if step.kind is TRAIN else 160, 10):
            loss = 1.2 + 3 * np.exp(-iteration / 120) + generator.normal(0, 0.15)
            lines.append(
                json.dumps({"iteration": iteration, "loss": loss, "learning_rate": 0.1, "losses": {}})
            )
        write_text(folder / "progress.jsonl", "\n".join(lines) + "\n")


def write_images(dataset: Dataset) -> None:
    """Make a dataset: eight validation images of coloured rectangles, each an object, as an LVIS file."""
    with made(dataset_steps(dataset)[0]) as folder:
        (folder / "train.json").write_text("{}")
        _write_images(folder)


def _write_images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {"info": {}, "licenses": [], "images": [], "annotations": []}
    letters = {id_: frequency_letter(int(count)) for id_, count in zip(NAMES, COUNTS, strict=True)}
    content["categories"] = [{"id": i, "name": NAMES[i], "frequency": letters[i]} for i in NAMES]
    for image in range(1, 9):
        record = {"id": image, "width": 120, "height": 90, "file_name": f"val_{image}.png"}
        picture = Image.new("RGB", (120, 90), (90, 110, 130))
        ids = generator.choice(list(NAMES), 4, replace=False)
        content["images"].append(
            {**record, "neg_category_ids": [1 if 1 not in ids else 2], "not_exhaustive_category_ids": []}
        )
        for place, category in enumerate(ids.tolist()):
            x, y = 8 + 56 * (place % 2), 6 + 42 * (place // 2)
            ImageDraw.Draw(picture).rectangle(
                (x, y, x + 40, y + 30), fill=(6 * category, 255 - 6 * category, 90)
            )
            corners = [x, y, x + 40, y, x + 40, y + 30, x, y + 30]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, 40, 30],
                    "area": 1200,
                    "segmentation": [corners],
                }
            )
        (folder / "images").mkdir(exist_ok=True)
        picture.save(folder / "images" / f"val_{image}.png")
    write_json(folder / "val.json", content)


def detect(step: Step) -> None:
    """One box in image 1; with ``write_images`` before, every object, some of them as another category."""
    run, truth = step.run, dataset_files(step.dataset).val
    masks = truth.exists() and truth.read_text().startswith("{")
    with (
        made(step) as folder,
        DetectionWriter(folder / "detections.parquet", NAMES, {}, masks=masks) as writer,
    ):
        norms = pd.DataFrame({"id": list(NAMES), "norm": 1 + COUNTS**0.2})
        norms.to_csv(folder / "weight_norms.csv", index=False)
        if not masks:
            writer.add(1, [1], [0.5], [[0, 0, 1, 1]])
            return
        generator = np.random.default_rng(sum(map(ord, run.method)) + run.seed)
        annotations = json.loads(truth.read_text())["annotations"]
        for image in range(1, 9):
            objects = [item for item in annotations if item["image_id"] == image]
            wrong = generator.random(len(objects)) < 0.4
            ids = [1 if bad else item["category_id"] for item, bad in zip(objects, wrong, strict=True)]
            found = np.array([item["bbox"] for item in objects]) + generator.normal(0, 2, (len(objects), 4))
            pixels = np.zeros((90, 120, len(objects)), np.uint8, order="F")
            for number, (x, y, width, height) in enumerate(found.astype(int)):
                pixels[y : y + height, x : x + width, number] = 1
            writer.add(image, ids, generator.random(len(objects)), found, mask_utils.encode(pixels))


def detect_objects(step: Step, wrong: int) -> None:
    """Every object, or with ``wrong`` boxes only the first of an image that is another one for each seed,
    behind these."""
    annotations = json.loads(dataset_files(step.dataset).val.read_text())["annotations"]
    with made(step) as folder, DetectionWriter(folder / "detections.parquet", NAMES, {}, False) as writer:
        for image in range(1, 9):
            objects = [item for item in annotations if item["image_id"] == image]
            objects = objects[: int(image == step.run.seed + 1)] if wrong else objects
            boxes = [[0, 0, 1, 1]] * wrong * len(objects) + [item["bbox"] for item in objects]
            ids = [objects[0]["category_id"]] * (len(boxes) - len(objects)) if objects else []
            ids += [item["category_id"] for item in objects]
            if boxes:
                writer.add(image, ids, np.linspace(0.9, 0.1, len(boxes)), boxes)


def evaluate(step: Step, level: float, tail: float, masks: bool = True) -> None:
    generator = np.random.default_rng(int(level * 1000) + step.run.seed)
    slope = np.log(COUNTS / COUNTS.max()) / np.log(COUNTS.max())
    ap = np.clip(level + tail * slope + generator.normal(0, 0.06, len(COUNTS)), 0, 1)
    ap[5] = np.nan
    letters = np.array([frequency_letter(int(count)) for count in COUNTS])
    numbers: dict[str, float | None] = {"AP": float(np.nanmean(ap))}
    numbers |= {f"AP{letter}": float(np.nanmean(ap[letters == letter])) for letter in "rcf"}
    numbers |= {"AP-fixed": float(np.nanmean(ap)) + 0.01, "ECE": level / 4}
    kinds = ["bbox", "segm"] if masks else ["bbox"]
    bins = pd.DataFrame({"iou": "segm", "score": np.arange(0.05, 1, 0.1), "count": np.geomspace(900, 9, 10)})
    bins["precision"] = bins["score"] ** (1 + level)
    table = pd.DataFrame(
        {"id": list(NAMES), "name": list(NAMES.values())} | {f"{kind}_AP": ap for kind in kinds}
    )
    with made(step) as folder:
        write_json(folder / "metrics.json", dict.fromkeys(kinds, numbers))
        bins.to_csv(folder / "calibration.csv", index=False)
        table.to_csv(folder / "per_class.csv", index=False)
