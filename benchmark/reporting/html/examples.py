"""A few validation images with the detections of every method, small enough for one page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as mask_utils

from benchmark.annotations import AnnotationFile, read_annotations
from benchmark.annotations.reading import Annotation
from benchmark.annotations.reading import Image as ImageRecord
from benchmark.errors import BenchmarkError
from benchmark.reporting.collect import RowResult, RunResult
from benchmark.steps import dataset_files

IMAGES = 6
DETECTIONS = 15
SIDE = 360
"""Images per dataset, detections per image and method, pixels of the longer side; they limit the size of the
page."""

MATCH_IOU = 0.5
_COLUMNS = ["image_id", "category_id", "score", "x", "y", "width", "height"]
_MASKS = ["mask_height", "mask_width", "mask_counts"]


@dataclass(frozen=True)
class _Chosen:
    """An image with its annotations: category ids (n,), boxes (n, 4) xywh, and the ids verified as absent."""

    record: ImageRecord
    annotations: list[Annotation]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    absent: frozenset[int]
    scale: float

    def path(self, mask: NDArray[np.uint8]) -> str:
        """Outlines of a mask (H, W) as an SVG path in pixels of the small image."""
        return _outlines(mask, self.scale)


def examples(rows: Sequence[RowResult], notes: list[str]) -> list[dict[str, Any]]:
    """Images of every dataset of rows with numbers, as JSON values.

    Each has ``src`` (a JPEG as data URL), ``width`` and ``height`` of it in pixels, ``truth`` (objects with
    ``name``, ``box`` as x, y, width, height and ``path``, all in these pixels), and ``found``: by row id the
    highest-scored detections of its first counted seed, with ``score`` and ``verdict``: ``right`` (box IoU of
    at least 0.5 with an annotation of the category that no better detection took), ``wrong``, or ``unjudged``
    if the category was not verified in the image.
    """
    found = []
    datasets: dict[str, list[tuple[RowResult, RunResult]]] = {}
    for row in rows:
        if row.counted:
            result = row.counted[0]
            datasets.setdefault(result.run.dataset_name, []).append((row, result))
    for members in datasets.values():
        files = dataset_files(members[0][1].run.dataset)
        try:
            chosen, truth = _choose(files.val)
        except BenchmarkError as error:
            notes.append(f"no example images: {str(error).splitlines()[0]}")
            continue
        names = {category.id: category.name for category in truth.categories}
        pictures = (_picture(image, files.val_images, names, notes) for image in chosen)
        shown = [{**item, "dataset": members[0][1].run.dataset_name} for item in pictures if item]
        by_id = {item["id"]: item for item in shown}
        kept = [image for image in chosen if image.record.id in by_id]
        for row, result in members:
            for image, detections in _detections(result, kept, names, notes):
                by_id[image.record.id]["found"][row.id] = detections
        found += shown
    return found


def _choose(annotations: Path) -> tuple[list[_Chosen], AnnotationFile]:
    """Equal numbers of images with rare, with common, and with only frequent categories; the most varied of
    each."""
    truth = read_annotations(annotations)
    letters = {category.id: category.frequency or "" for category in truth.categories}
    groups: dict[str, list[tuple[int, int]]] = {"r": [], "c": [], "f": []}
    by_image = truth.annotations_by_image()
    for number, image in enumerate(truth.images):
        categories = {item.category_id for item in by_image[image.id]}
        rarest = next((letter for letter in "rcf" if any(letters[i] == letter for i in categories)), None)
        if rarest and len(by_image[image.id]) <= DETECTIONS:
            groups[rarest].append((-len(categories), number))
    order = [[number for _, number in sorted(groups[letter])] for letter in "rcf"]
    numbers = [number for rank in range(IMAGES) for group in order for number in group[rank : rank + 1]]
    chosen = []
    for number in numbers[:IMAGES]:
        image = truth.images[number]
        objects = by_image[image.id]
        chosen.append(
            _Chosen(
                record=image,
                annotations=objects,
                category_ids=np.array([item.category_id for item in objects], np.int64),
                boxes=np.array([item.bbox for item in objects], np.float64).reshape(-1, 4),
                absent=frozenset(image.neg_category_ids or ()),
                scale=min(1.0, SIDE / max(image.width, image.height)),
            )
        )
    return chosen, truth


def _picture(image: _Chosen, folder: Path, names: dict[int, str], notes: list[str]) -> dict[str, Any] | None:
    record = image.record
    try:
        with Image.open(folder / record.relative_path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((SIDE, SIDE))
    except (OSError, UnidentifiedImageError, BenchmarkError) as error:
        notes.append(f"example image {record.id} of {folder} cannot be read: {error}".splitlines()[0])
        return None
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80, optimize=True)
    objects = []
    for annotation in image.annotations:
        objects.append(
            {
                "name": names[annotation.category_id],
                "box": _scaled(annotation.bbox, image.scale),
                "path": _annotated(annotation, image),
            }
        )
    return {
        "id": record.id,
        "width": small.width,
        "height": small.height,
        "src": f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}",
        "truth": objects,
        "found": {},
    }


def _annotated(annotation: Annotation, image: _Chosen) -> str:
    """Outline of an annotation; empty if it has none that can be read."""
    try:
        shape = annotation.shape()
    except BenchmarkError:
        return ""
    if isinstance(shape, list):
        corners = [np.array(polygon).reshape(-1, 2) * image.scale for polygon in shape]
        return "".join(_path(polygon) for polygon in corners)
    if shape is None:
        return ""
    code: Any = {"size": list(shape.size), "counts": shape.counts}
    if isinstance(shape.counts, list):
        code = mask_utils.frPyObjects(code, *shape.size)
    return image.path(mask_utils.decode(code))


def _detections(
    result: RunResult, images: list[_Chosen], names: dict[int, str], notes: list[str]
) -> list[tuple[_Chosen, list[dict[str, Any]]]]:
    """The best detections in each image; reads only the parts of the file with these images."""
    path = result.file("predict", "detections.parquet")
    ids = [image.record.id for image in images]
    try:
        present = pq.read_schema(path).names
        columns = [name for name in _COLUMNS + _MASKS if name in present]
        table = pq.read_table(path, columns=columns, filters=[("image_id", "in", ids)])
        content = table.to_pydict()
        arrays = {name: np.array(content[name]) for name in _COLUMNS}
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        notes.append(f"no examples of {path}: {error}".splitlines()[0])
        return []
    found = []
    for image in images:
        rows = np.flatnonzero(arrays["image_id"] == image.record.id)
        rows = rows[np.argsort(-arrays["score"][rows], kind="stable")][:DETECTIONS]
        boxes = np.stack([arrays[name][rows] for name in ("x", "y", "width", "height")], axis=1)
        verdicts = _judge(image, arrays["category_id"][rows], boxes)
        detections = []
        for row, box, verdict in zip(rows.tolist(), boxes, verdicts, strict=True):
            outline = ""
            if _MASKS[-1] in content:
                size = [content["mask_height"][row], content["mask_width"][row]]
                outline = image.path(mask_utils.decode({"size": size, "counts": content["mask_counts"][row]}))
            detections.append(
                {
                    "name": names.get(int(arrays["category_id"][row]), "?"),
                    "score": round(float(arrays["score"][row]), 3),
                    "box": _scaled(box, image.scale),
                    "path": outline,
                    "verdict": verdict,
                }
            )
        found.append((image, detections))
    return found


def _judge(image: _Chosen, category_ids: NDArray[np.int64], boxes: NDArray[np.float64]) -> list[str]:
    """A verdict for each detection (n,) with boxes (n, 4) xywh, best score first."""
    if len(image.boxes) and len(boxes):
        overlaps = np.asarray(mask_utils.iou(boxes, image.boxes, [0] * len(image.boxes)))
    else:
        overlaps = np.zeros((len(boxes), len(image.boxes)))
    free = np.ones(len(image.boxes), bool)
    verdicts = []
    for category, overlap in zip(category_ids.tolist(), overlaps, strict=True):
        fits = (image.category_ids == category) & free & (overlap >= MATCH_IOU)
        if fits.any():
            free[np.argmax(np.where(fits, overlap, -1))] = False
            verdicts.append("right")
        elif category in image.absent or category in image.category_ids:
            verdicts.append("wrong")
        else:
            verdicts.append("unjudged")
    return verdicts


def _scaled(box: Sequence[float] | NDArray[np.float64], scale: float) -> list[float]:
    return [round(float(value) * scale, 1) for value in box]


def _outlines(mask: NDArray[np.uint8], scale: float) -> str:
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    small = np.asarray(Image.fromarray(mask * 255).resize((width, height)))
    padded = np.pad(small, 1)  # closes outlines at the border
    lines = contourpy.contour_generator(z=padded).lines(127.5)
    return "".join(_path(np.asarray(line)[:-1] - 0.5) for line in lines if len(line) > 6)


def _path(corners: NDArray[np.float64]) -> str:
    """A closed SVG path through corners (n, 2), simplified for this size."""
    step = max(1, len(corners) // 60)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners[::step])
    return f"M{points}Z"
