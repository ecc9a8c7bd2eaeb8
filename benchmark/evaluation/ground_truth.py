"""What the evaluation needs of an LVIS annotation file, checked for what would falsify the numbers."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from benchmark.evaluation.errors import EvaluationError
from benchmark.files import read_bytes

FREQUENCIES = ("r", "c", "f")


class _Image(msgspec.Struct, gc=False):
    id: int
    height: int
    width: int
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    frequency: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    segmentation: msgspec.Raw = msgspec.Raw()
    iscrowd: int = 0
    ignore: int = 0


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


@dataclass(frozen=True)
class GroundTruth:
    """The federated ground truth: which categories were verified in which image.

    ``sizes`` is image id to (height, width) in pixels; ``names`` and ``frequencies`` are by category id, in
    ascending id; ``instances`` counts the annotations of each category in that order, int64 (C,);
    ``verified`` holds the (image, category) pairs that are evaluated, as sorted int64 keys of ``pair_keys``.
    """

    path: Path
    sizes: dict[int, tuple[int, int]]
    names: dict[int, str]
    frequencies: dict[int, str]
    instances: np.ndarray
    verified: np.ndarray
    masks: bool

    def pair_keys(self, image_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
        """One int64 for each (image, category); both must exist."""
        images = np.sort(np.fromiter(self.sizes, np.int64, len(self.sizes)))
        categories = np.fromiter(self.names, np.int64, len(self.names))
        columns = np.searchsorted(categories, category_ids)
        return np.searchsorted(images, image_ids) * len(categories) + columns

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
        return kept[np.isin(self.pair_keys(image_ids[kept], category_ids[kept]), self.verified)]


def read_ground_truth(path: Path) -> GroundTruth:
    """Read an LVIS annotation file; ``EvaluationError`` where LVIS evaluation is not defined for it."""
    path = Path(path)
    try:
        content = msgspec.json.decode(read_bytes(path), type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EvaluationError(
            "not an annotation file",
            where=path,
            found=error,
            remedy=f"longtail check {path} shows every problem",
        ) from None
    _check(path, content)
    categories = sorted(content.categories, key=lambda category: category.id)
    truth = GroundTruth(
        path=path,
        sizes={image.id: (image.height, image.width) for image in content.images},
        names={category.id: category.name for category in categories},
        frequencies={category.id: category.frequency or "" for category in categories},
        instances=np.zeros(len(categories), np.int64),
        verified=np.zeros(0, np.int64),
        masks=all(bytes(item.segmentation) not in (b"", b"null") for item in content.annotations),
    )
    pairs = [(item.image_id, item.category_id) for item in content.annotations]
    positive = np.array(pairs, np.int64).reshape(-1, 2)
    pairs = [(image.id, category) for image in content.images for category in image.neg_category_ids or ()]
    negative = np.array(pairs, np.int64).reshape(-1, 2)
    columns = np.searchsorted(np.fromiter(truth.names, np.int64, len(truth.names)), positive[:, 1])
    instances = np.bincount(columns, minlength=len(truth.names))
    verified = np.unique(truth.pair_keys(*np.concatenate([positive, negative]).T))
    return replace(truth, instances=instances, verified=verified)


def _check(path: Path, content: _File) -> None:
    """Refuse what the official API crashes on, or what it and its reimplementations read differently."""

    def refuse(what: str, record: str, found: object, expected: str, remedy: str) -> None:
        raise EvaluationError(what, where=f"{path}, {record}", found=found, expected=expected, remedy=remedy)

    images = {image.id for image in content.images}
    categories = {category.id for category in content.categories}
    check = f"longtail check {path} shows every problem"
    _unique(path, "image", images, len(content.images), check)
    _unique(path, "category", categories, len(content.categories), check)
    _unique(path, "annotation", {item.id for item in content.annotations}, len(content.annotations), check)
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
        if category.frequency not in FREQUENCIES:
            refuse(
                "category without a frequency group",
                f"category {category.id}",
                category.frequency,
                "frequency r, c or f",
                "add the groups by training image counts: r 1-10, c 11-100, f over 100",
            )
    for item in content.annotations:
        record = f"annotation {item.id}"
        if item.image_id not in images or item.category_id not in categories:
            found = f"image {item.image_id}, category {item.category_id}"
            refuse("annotation of an unknown image or category", record, found, "ids of the file", check)
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


def _unique(path: Path, kind: str, ids: Collection[int], records: int, remedy: str) -> None:
    if len(ids) != records:
        raise EvaluationError(
            f"repeated {kind} id", where=path, found=f"{records} records, {len(ids)} ids", remedy=remedy
        )
