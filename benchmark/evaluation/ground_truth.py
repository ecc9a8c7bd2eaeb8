"""What the evaluation needs of an LVIS annotation file, checked for what would falsify the numbers."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.annotations import AnnotationFile, read_annotations
from benchmark.evaluation.errors import EvaluationError


@dataclass(frozen=True)
class GroundTruth:
    """The federated ground truth: which categories were verified in which image.

    ``sizes`` is image id to (height, width) in pixels; ``names`` and ``frequencies`` are by category id, in
    ascending id; ``instances`` counts the annotations of each category in that order, int64 (C,);
    ``verified`` holds the (image, category) pairs that are evaluated, as sorted int64 keys.
    """

    path: Path
    sizes: dict[int, tuple[int, int]]
    names: dict[int, str]
    frequencies: dict[int, str]
    instances: np.ndarray
    verified: np.ndarray
    masks: bool

    def counted_rows(
        self, image_ids: np.ndarray, category_ids: np.ndarray, scores: np.ndarray, max_detections: int
    ) -> np.ndarray:
        """Rows of the detections that can change a number, ascending.

        First the ``max_detections`` highest scores of each image over all categories are kept (of equal
        scores the first), as LVIS does; only then are categories dropped that nobody verified in the image,
        which LVIS ignores. That leaves a tenth of the detections on LVIS v1, so that memory stays small.
        """
        order = np.lexsort((-scores, image_ids))  # stable: file order breaks ties
        _, starts = np.unique(image_ids[order], return_index=True)
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        kept = np.sort(order[rank < max_detections])
        return kept[
            np.isin(_keys(self.sizes, self.names, image_ids[kept], category_ids[kept]), self.verified)
        ]


def read_ground_truth(path: Path) -> GroundTruth:
    """Read an LVIS annotation file.

    Raises ``AnnotationError`` where it is not one, ``EvaluationError`` where LVIS evaluation is not defined.
    """
    content = read_annotations(path)
    _check(content)
    sizes = {image.id: (image.height, image.width) for image in content.images}
    names = {category.id: category.name for category in content.categories}
    pairs = [(item.image_id, item.category_id) for item in content.annotations]
    positive = np.array(pairs, np.int64).reshape(-1, 2)
    pairs = [(image.id, category) for image in content.images for category in image.neg_category_ids or ()]
    negative = np.array(pairs, np.int64).reshape(-1, 2)
    columns = np.searchsorted(content.category_ids, positive[:, 1])
    return GroundTruth(
        path=content.path,
        sizes=sizes,
        names=names,
        frequencies={category.id: category.frequency or "" for category in content.categories},
        instances=np.bincount(columns, minlength=len(names)),
        verified=np.unique(_keys(sizes, names, *np.concatenate([positive, negative]).T)),
        masks=all(bytes(item.segmentation) not in (b"", b"null") for item in content.annotations),
    )


def _keys(
    images: Collection[int], categories: Collection[int], image_ids: np.ndarray, category_ids: np.ndarray
) -> np.ndarray:
    """One int64 for each (image, category) of the ground truth; ``categories`` ascend."""
    rows = np.searchsorted(np.sort(np.fromiter(images, np.int64, len(images))), image_ids)
    columns = np.searchsorted(np.fromiter(categories, np.int64, len(categories)), category_ids)
    return rows * len(categories) + columns


def _check(content: AnnotationFile) -> None:
    """Refuse what the official API crashes on, or what it and its reimplementations read differently."""

    def refuse(what: str, record: str, found: object, expected: str, remedy: str) -> None:
        where = f"{content.path}, {record}"
        raise EvaluationError(what, where=where, found=found, expected=expected, remedy=remedy)

    categories = {category.id for category in content.categories}
    check = f"longtail check {content.path} shows every problem"
    seen: set[int] = set()
    for image in content.images:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            listed = getattr(image, field)
            if listed is None:
                refuse(
                    "the ground truth is not federated, so LVIS AP is not defined",
                    f"image {image.id}",
                    f"no field {field}",
                    "the LVIS format",
                    "for exhaustive annotations (COCO) list in neg_category_ids every category that is not "
                    "in the image, and give an empty not_exhaustive_category_ids",
                )
            if not categories.issuperset(listed):
                unknown = sorted(set(listed) - categories)[0]
                refuse(
                    f"unknown category in {field}",
                    f"image {image.id}",
                    unknown,
                    "a category of the file",
                    check,
                )
    for category in content.categories:
        if category.frequency is None:
            refuse(
                "category without a frequency group",
                f"category {category.id}",
                category.frequency,
                "frequency r, c or f",
                "add the groups by training image counts: r 1-10, c 11-100, f over 100",
            )
    for item in content.annotations:
        record = f"annotation {item.id}"
        if item.id in seen:
            refuse("repeated annotation id", record, item.id, "unique ids", check)
        seen.add(item.id)
        if item.area is None:
            refuse("annotation without an area", record, "no field area", "square pixels", check)
        if item.id < 1:  # the official API uses 0 for "not matched"
            refuse("annotation id below 1", record, item.id, "ids from 1", "number the annotations from 1")
        if item.iscrowd or item.ignore:  # lvis-api honours only ignore, others only iscrowd
            refuse(
                "LVIS evaluation has no crowd or ignored annotations",
                record,
                f"iscrowd {item.iscrowd}, ignore {item.ignore}",
                "0",
                "remove these annotations, or list the category in the image's not_exhaustive_category_ids",
            )
