"""The official LVIS API as reference, and detections derived from real annotations."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

if not hasattr(np, "float"):  # lvis 0.5.3 was written for NumPy below 1.24
    np.float = float  # type: ignore[attr-defined]  # noqa: NPY001

import lvis
import lvis.results
from pycocotools import mask as rle

logging.getLogger("lvis").setLevel(logging.ERROR)
DATA = Path(__file__).parent.parent / "data" / "lvis_val_100.json"


def official(ground_truth: Path, results: list[dict[str, Any]], iou_type: str) -> lvis.LVISEval:
    """A finished ``LVISEval``. Mask results have no boxes, so that sizes come from the masks."""
    results = json.loads(json.dumps(results))
    for result in results:
        if iou_type == "segm":
            result.pop("bbox", None)
        else:
            result.pop("segmentation", None)
    truth = lvis.LVIS(str(ground_truth))
    evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, results), iou_type)
    evaluation.run()
    return evaluation


def official_metrics(evaluation: lvis.LVISEval) -> dict[str, float | None]:
    return {key: None if value == -1 else float(value) for key, value in evaluation.get_results().items()}


def derived_detections(seed: int, count: int = 2500) -> list[dict[str, Any]]:
    """Detections with masks: real objects shifted, dropped and duplicated, with tied scores and false
    positives.

    All numbers are float32 values, so Parquet stores them exactly.
    """
    generator = np.random.default_rng(seed)
    truth = json.loads(DATA.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = sorted({item["category_id"] for item in truth["annotations"]})
    results = []
    for _ in range(count):
        item = truth["annotations"][generator.integers(len(truth["annotations"]))]
        height, width = sizes[item["image_id"]]
        x, y, w, h = item["bbox"]
        x, y = x + generator.normal(0, 0.1 * w), y + generator.normal(0, 0.1 * h)
        w, h = w * generator.uniform(0.6, 1.3), h * generator.uniform(0.6, 1.3)
        box = [max(x, 0.0), max(y, 0.0), min(w, width), min(h, height)]
        polygon = rle.frPyObjects(item["segmentation"], height, width)
        mask = rle.decode(rle.merge(polygon))
        shifted = np.roll(mask, generator.integers(-4, 5, 2), (0, 1)) if generator.random() < 0.7 else mask
        if generator.random() < 0.03:
            shifted = np.zeros_like(mask)  # an empty mask
            box[2] = 0.0  # and a box without area
        encoded = rle.encode(np.asfortranarray(shifted))
        category = item["category_id"]
        if generator.random() < 0.3:
            category = categories[generator.integers(len(categories))]
        result = {
            "image_id": item["image_id"],
            "category_id": category,
            "score": float(np.float32(round(generator.random(), 1 if generator.random() < 0.5 else 6))),
            "bbox": [float(np.float32(value)) for value in box],
            "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
        }
        results += [result] * (2 if generator.random() < 0.1 else 1)
    return results
