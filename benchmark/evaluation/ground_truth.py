"""The parts of an annotation file that the evaluation needs, checked for errors that would make numbers
wrong."""

from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.annotations import Annotation, AnnotationFile, read_annotations
from benchmark.annotations.reading import Rle, run_lengths
from benchmark.annotations.rules import FEDERATED, evaluation_problems, mask_problems, protocol_of
from benchmark.evaluation.errors import EvaluationError


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth as columns: I images and C categories in ascending id, N annotations in file order.

    ``protocol`` is ``lvis`` if the images list the categories that were verified in them, else ``coco``.
    ``images`` are the records for the engine; ``image_ids`` int64 (I,), ``sizes`` int64 (I, 2) as height and
    width in pixels; ``names`` is category id to name, ascending; ``frequencies`` (C,) r, c or f, or empty;
    ``instances`` int64 (C,) counts annotations. ``verified`` bool (I, C): whether a detection can change a
    number. Of the annotations: ``ids``, ``image_positions``, ``category_positions``, ``crowd`` int64 (N,),
    ``boxes`` float64 (N, 4) x, y, width, height and ``areas`` (N,) in pixels; ``measured`` bool (N,): whether
    the area is not from the file. ``masks``: whether any annotation has a segmentation, or there are no
    annotations.
    """

    path: Path
    protocol: Literal["lvis", "coco"]
    images: list[dict[str, Any]]
    image_ids: np.ndarray
    sizes: np.ndarray
    names: dict[int, str]
    frequencies: np.ndarray
    instances: np.ndarray
    verified: np.ndarray
    ids: np.ndarray
    image_positions: np.ndarray
    category_positions: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    measured: np.ndarray
    masks: bool

    def check_masks(self) -> None:
        """Raise ``EvaluationError`` for an annotation whose mask is missing or does not fit its image.

        Coordinates may be outside the image by at most its length, as everywhere; run lengths must add up to
        the image.
        """
        content = read_annotations(self.path)
        for problem in mask_problems(content.images, content.annotations):
            raise problem.as_error(EvaluationError, self.path)


def read_ground_truth(path: Path, letters: bool = False) -> GroundTruth:
    """Read an annotation file in LVIS or COCO format; ``letters``: frequency groups have another source.

    An annotation without ``area`` gets the area of its polygons, of its run lengths, or else of its box, as
    in detectron2's ``convert_to_coco_dict``.
    Raises ``AnnotationError`` for an invalid file, ``EvaluationError`` if its evaluation is not defined.
    """
    content = read_annotations(path)
    _refuse(content, letters)
    records = sorted(content.images, key=lambda image: image.id)
    protocol = protocol_of(records)
    categories, count = content.category_ids, len(content.annotations)
    image_ids = np.array([image.id for image in records], np.int64)
    columns = {
        field: np.fromiter(map(attrgetter(field), content.annotations), np.int64, count)
        for field in ("id", "image_id", "category_id")
    }
    crowd = np.fromiter((item.iscrowd != 0 for item in content.annotations), np.int64, count)
    image_positions = np.searchsorted(image_ids, columns["image_id"])
    category_positions = np.searchsorted(categories, columns["category_id"])
    instances = np.bincount(category_positions, minlength=len(categories))
    images: list[dict[str, Any]] = [
        {"id": image.id, "width": image.width, "height": image.height} for image in records
    ]
    if protocol == "lvis":
        for position, image in enumerate(records):
            images[position] |= {field: list(getattr(image, field)) for field in FEDERATED}
    verified = _verified(content, protocol, (image_positions, category_positions))
    verified[:, instances == 0] = False  # such a category has no AP
    return GroundTruth(
        path=content.path,
        protocol=protocol,
        images=images,
        image_ids=image_ids,
        sizes=np.array([(image.height, image.width) for image in records], np.int64).reshape(-1, 2),
        names={category.id: category.name for category in content.categories},
        frequencies=np.array([category.frequency or "" for category in content.categories]),
        instances=instances,
        verified=verified,
        ids=columns["id"],
        image_positions=image_positions,
        category_positions=category_positions,
        crowd=crowd,
        boxes=np.array([item.bbox for item in content.annotations], np.float64).reshape(-1, 4),
        areas=np.fromiter(map(_area, content.annotations), np.float64, count),
        measured=np.fromiter((item.area is None for item in content.annotations), bool, count),
        masks=count == 0 or any(item.has_segmentation for item in content.annotations),
    )


def _refuse(content: AnnotationFile, letters: bool) -> None:
    """Raise ``EvaluationError`` for the first problem of a file that cannot be evaluated."""
    to_measure = [item for item in content.annotations if item.area is None and item.has_segmentation]
    for problem in chain(
        evaluation_problems(content.categories, content.images, content.annotations, letters=letters),
        mask_problems(content.images, to_measure),
    ):
        raise problem.as_error(EvaluationError, content.path)


def _verified(content: AnnotationFile, protocol: str, present: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Whether a detection of a category in an image can change a number, bool (I, C)."""
    records = sorted(content.images, key=lambda image: image.id)
    verified = np.full((len(records), len(content.categories)), protocol == "coco")
    if protocol == "lvis":
        verified[present] = True
        for position, image in enumerate(records):
            absent = np.searchsorted(content.category_ids, image.neg_category_ids or ())
            verified[position, absent] = True
    return verified


def _area(item: Annotation) -> float:
    """Square pixels of an annotation."""
    if item.area is not None:
        return item.area
    shape = item.shape()
    if isinstance(shape, Rle):
        return float(sum(run_lengths(shape)[1::2]))
    if shape:
        return sum(map(_polygon_area, shape))
    return item.bbox[2] * item.bbox[3]


def _polygon_area(polygon: list[float]) -> float:
    x, y = np.array(polygon[::2]), np.array(polygon[1::2])
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
