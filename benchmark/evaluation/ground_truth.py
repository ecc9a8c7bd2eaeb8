"""What the evaluation needs of an annotation file, checked for what would falsify the numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from benchmark.annotations import AnnotationError, AnnotationFile, read_annotations
from benchmark.annotations.reading import shape_defects
from benchmark.evaluation.errors import EvaluationError

_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth as columns: I images and C categories in ascending id, N annotations in file order.

    ``protocol`` is ``lvis`` where the images say which categories were looked for in them, else ``coco``.
    ``images`` are the records for the engine; ``image_ids`` int64 (I,), ``sizes`` int64 (I, 2) as height and
    width in pixels; ``names`` is category id to name, ascending; ``frequencies`` (C,) r, c or f, or empty;
    ``instances`` int64 (C,) counts annotations. ``verified`` bool (I, C) tells where a detection can change a
    number. Of the annotations: ``ids``, ``image_positions``, ``category_positions``, ``crowd`` int64 (N,),
    ``boxes`` float64 (N, 4) x, y, width, height and ``areas`` (N,) in pixels. ``masks``: whether all have
    one.
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
    masks: bool

    def check_masks(self) -> None:
        """Raise ``EvaluationError`` for an annotation whose mask is malformed or does not fit its image.

        Coordinates may leave the image by its length, as everywhere; run lengths must make up the image.
        """
        content = read_annotations(self.path)
        sizes = {image.id: (image.height, image.width) for image in content.images}
        for item in content.annotations:
            height, width = sizes[item.image_id]
            try:
                shape = item.shape()
            except AnnotationError as error:
                raise EvaluationError(error.what, where=f"{self.path}, annotation {item.id}") from None
            defects = shape_defects(shape, height, width, max(height, width)) if shape else ["no mask"]
            if defects:
                _refuse(
                    self.path,
                    "a mask of the ground truth cannot be evaluated",
                    f"annotation {item.id}",
                    "; ".join(defects),
                    f"polygons or run lengths of an image of {height} x {width} pixels",
                    f"longtail check {self.path} shows every problem",
                )


def read_ground_truth(path: Path) -> GroundTruth:
    """Read an annotation file in LVIS or COCO format.

    Raises ``AnnotationError`` where it is not one, ``EvaluationError`` where its evaluation is not defined.
    """
    content = read_annotations(path)
    records = sorted(content.images, key=lambda image: image.id)
    protocol: Literal["lvis", "coco"] = "coco" if not any(map(_federated, records)) else "lvis"
    categories, count = content.category_ids, len(content.annotations)
    image_ids = np.array([image.id for image in records], np.int64)
    columns = {
        field: np.fromiter((getattr(item, field) for item in content.annotations), kind, count)
        for field, kind in (("id", np.int64), ("image_id", np.int64), ("category_id", np.int64))
    }
    crowd = np.fromiter((item.iscrowd != 0 for item in content.annotations), np.int64, count)
    ignore = np.fromiter((item.ignore != 0 for item in content.annotations), np.int64, count)
    areas = np.array([item.area for item in content.annotations], np.float64)  # None becomes NaN
    boxes = np.array([item.bbox for item in content.annotations], np.float64).reshape(-1, 4)
    _check_annotations(content, protocol, columns["id"], crowd, ignore, areas, boxes)
    image_positions = np.searchsorted(image_ids, columns["image_id"])
    category_positions = np.searchsorted(categories, columns["category_id"])
    verified = np.zeros((len(image_ids), len(categories)), bool)
    images: list[dict[str, Any]] = [
        {"id": image.id, "width": image.width, "height": image.height} for image in records
    ]
    if protocol == "lvis":
        _check_lists(content)
        verified[image_positions, category_positions] = True
        for position, image in enumerate(records):
            verified[position, np.searchsorted(categories, image.neg_category_ids or ())] = True
            images[position] |= {field: list(getattr(image, field)) for field in _LISTS}
    else:
        verified[:] = True
    instances = np.bincount(category_positions, minlength=len(categories))
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
        boxes=boxes,
        areas=areas,
        masks=all(bytes(item.segmentation) not in (b"", b"null") for item in content.annotations),
    )


def _federated(image: Any) -> bool:
    return any(getattr(image, field) is not None for field in _LISTS)


def _refuse(path: Path, what: str, record: str, found: object, expected: str, remedy: str) -> NoReturn:
    raise EvaluationError(what, where=f"{path}, {record}", found=found, expected=expected, remedy=remedy)


def _check_lists(content: AnnotationFile) -> None:
    """Refuse what the official API crashes on in the federated lists and the frequency groups."""
    categories = {category.id for category in content.categories}
    for image in content.images:
        for field in _LISTS:
            listed = getattr(image, field)
            if listed is None:
                _refuse(
                    content.path,
                    "only a part of the ground truth is federated, so neither LVIS nor COCO AP is defined",
                    f"image {image.id}",
                    f"no field {field}",
                    "the LVIS format: both lists in every image; or the COCO format: in none",
                    "for images with exhaustive annotations list in neg_category_ids every category that is "
                    "not in the image, and give an empty not_exhaustive_category_ids",
                )
            if not categories.issuperset(listed):
                _refuse(
                    content.path,
                    f"unknown category in {field}",
                    f"image {image.id}",
                    sorted(set(listed) - categories)[0],
                    "a category of the file",
                    f"longtail check {content.path} shows every problem",
                )
    for category in content.categories:
        if category.frequency is None:
            _refuse(
                content.path,
                "category without a frequency group",
                f"category {category.id}",
                category.frequency,
                "frequency r, c or f",
                "add the groups by training image counts: r 1-10, c 11-100, f over 100",
            )


def _check_annotations(
    content: AnnotationFile,
    protocol: str,
    ids: np.ndarray,
    crowd: np.ndarray,
    ignore: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
) -> None:
    """Refuse what the official APIs crash on, or what they and their reimplementations read differently."""
    check = f"longtail check {content.path} shows every problem"
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    # lvis-api honours only ignore, others only iscrowd; COCO's API only iscrowd
    flagged = ignore != 0 if protocol == "coco" else (crowd != 0) | (ignore != 0)
    for wrong, what, found, expected, remedy in (
        (repeated, "repeated annotation id", lambda item: item.id, "unique ids", check),
        (
            ~np.isfinite(areas),
            "annotation without an area",
            lambda item: item.area or "no field area",
            "square pixels",
            check,
        ),
        (
            ~np.isfinite(boxes).all(axis=1),
            "bad box",
            lambda item: item.bbox,
            "four finite numbers: x, y, width, height",
            check,
        ),
        (  # the official APIs use 0 for "not matched"
            ids < 1,
            "annotation id below 1",
            lambda item: item.id,
            "ids from 1",
            "number the annotations from 1",
        ),
        (
            flagged,
            "ignored annotations are not defined in COCO evaluation"
            if protocol == "coco"
            else "LVIS evaluation has no crowd or ignored annotations",
            lambda item: f"iscrowd {item.iscrowd}, ignore {item.ignore}",
            "ignore 0; regions of many objects have iscrowd 1" if protocol == "coco" else "0",
            "remove these annotations, or mark them as crowd"
            if protocol == "coco"
            else "remove these annotations, or list the category in the image's not_exhaustive_category_ids",
        ),
    ):
        if wrong.any():
            item = content.annotations[int(np.argmax(wrong))]
            _refuse(content.path, what, f"annotation {item.id}", found(item), expected, remedy)
