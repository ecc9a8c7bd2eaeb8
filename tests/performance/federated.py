"""A validation set and detections like those of LVIS v1 in any size, for measurements of the evaluation."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from benchmark.inference.detections import DetectionWriter

CATEGORIES = Path(__file__).parents[1] / "data" / "lvis_v1_categories.csv"
HEIGHT, WIDTH = 480, 640
SHAPES = 2048


def write_validation_set(path: Path, images: int, seed: int, federated: bool = True) -> None:
    """Write an LVIS v1 validation file: its categories, drawn as often as in LVIS, and polygons.

    An image has 3.6 annotated categories with 3.4 instances each on average, 8 that are known to be absent
    and one that is not annotated exhaustively: 19,809 images have about 245,000 annotations. Polygons are
    ellipses. The ids of the images are not in the order of the file.
    """
    generator = np.random.default_rng(seed)
    with CATEGORIES.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    weights = np.array([int(row["image_count"]) for row in table], float)
    weights /= weights.sum()
    ids = generator.permutation(10 * images)[:images] + 1
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in ids.tolist():
        present = np.unique(generator.choice(len(table), 1 + generator.poisson(2.7), p=weights)) + 1
        absent = np.setdiff1d(generator.integers(1, len(table) + 1, 8), present)
        record: dict[str, Any] = {"id": image, "width": WIDTH, "height": HEIGHT}
        record["coco_url"] = f"http://images.cocodataset.org/val2017/{image:012d}.jpg"
        if federated:
            rest = present[generator.random(len(present)) < 0.3]
            record |= {
                "neg_category_ids": absent.tolist(),
                "not_exhaustive_category_ids": rest.tolist(),
            }
        records.append(record)
        for category in np.repeat(present, generator.geometric(0.29, len(present))).tolist():
            x, y, width, height = _box(generator)
            angles = np.linspace(0, 2 * np.pi, 30)[:-1]
            outline = [x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": round(width * height * np.pi / 4, 2),
                    "segmentation": [np.stack(outline, axis=1).round(2).ravel().tolist()],
                }
            )
    categories = [{"id": int(row["id"]), "name": row["name"], "frequency": row["frequency"]} for row in table]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))


def write_detections(truth: Path, path: Path, per_image: int, masks: bool, seed: int) -> None:
    """Write Parquet detections for all images of ``truth``.

    Every object is found four times with growing error; the rest of an image's places go to boxes anywhere,
    of categories drawn as often as LVIS has them. Scores have many ties. Masks are of ``SHAPES`` forms.
    """
    generator = np.random.default_rng(seed)
    content = json.loads(truth.read_text())
    names = {item["id"]: item["name"] for item in content["categories"]}
    with CATEGORIES.open(newline="", encoding="utf-8") as file:
        weights = np.array([int(row["image_count"]) for row in csv.DictReader(file)], float)
    objects: dict[int, list[list[float]]] = {image["id"]: [] for image in content["images"]}
    for item in content["annotations"]:
        objects[item["image_id"]].append([item["category_id"], *item["bbox"]])
    shapes = [_shape(generator) for _ in range(SHAPES)] if masks else []
    order = np.argsort([box[2] * box[3] for _, box in shapes])
    sizes = np.array([box[2] * box[3] for _, box in shapes])[order]
    with DetectionWriter(path, names, {}, masks) as writer:
        for image, found in objects.items():
            near = np.array(found).reshape(-1, 5)[: per_image // 4].repeat(4, axis=0)
            noise = np.tile([0.02, 0.08, 0.2, 0.5], len(near) // 4)[:, None]
            boxes = near[:, 1:] * (1 + noise * generator.uniform(-0.5, 0.5, (len(near), 4)))
            near_scores = generator.beta(4, 2, len(near)) * (1 - noise[:, 0])
            rest = per_image - len(near)
            others = generator.choice(len(weights), rest, p=weights / weights.sum()) + 1
            corner = generator.uniform(0, [WIDTH - 20, HEIGHT - 20], (rest, 2))
            anywhere = np.hstack([corner, generator.uniform(4, 200, (rest, 2))])
            scores = np.concatenate([near_scores, generator.beta(1, 8, rest)]).round(4)
            categories = np.concatenate([near[:, 0], others]).astype(int)
            boxes = np.concatenate([boxes, anywhere])
            rles = None
            if masks:  # the form whose box is as large as this one
                drawn = order[np.minimum(np.searchsorted(sizes, boxes[:, 2] * boxes[:, 3]), SHAPES - 1)]
                rles = [shapes[shape][0] for shape in drawn]
            writer.add(image, categories, scores, boxes, rles)


def _box(generator: np.random.Generator) -> list[float]:
    width, height = np.exp(generator.uniform(np.log(8), np.log(200), 2))
    x, y = generator.uniform(0, [WIDTH - width, HEIGHT - height])
    return [round(float(value), 2) for value in (x, y, width, height)]


def _shape(generator: np.random.Generator) -> tuple[dict[str, Any], list[float]]:
    """An ellipse as compressed run lengths, and its box."""
    box = _box(generator)
    x, y, width, height = box
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    inside = ((columns - x - width / 2) / width * 2) ** 2 + ((rows - y - height / 2) / height * 2) ** 2 < 1
    return rle.encode(np.asfortranarray(inside.astype(np.uint8))), box
