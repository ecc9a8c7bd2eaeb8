"""Images with their training annotations, as arrays that loading processes share.

A forked process copies even Python objects that it only reads, because reading changes reference counts;
arrays are not copied.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.annotations import Annotation, AnnotationError, AnnotationFile, Image, annotation_rle
from benchmark.annotations.reading import CHECK_REMEDY, LONGEST_OUTLINE
from benchmark.images.files import ImageError, find_images
from benchmark.images.masks import Shape

AT_ONCE = 8192  # number of annotations whose segmentations are Python objects at the same time

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Segmentations:
    """Segmentations of A annotations, decoded and checked.

    Attributes:
        hundredths: (N,) x, y, x, y, ... of all polygons in 1/100 pixel, in the smallest type that holds them.
            They are whole numbers if the file has at most two decimals, as in LVIS and COCO.
        polygons: (P + 1,) int64, the first number of each polygon, annotation after annotation, and N.
        codes: (B,) uint8, COCO's compressed run-length codes of the segmentations that are no polygons.
        annotations: (A + 1, 2) int64, first polygon and first byte of its code of each, and P and B.
    """

    hundredths: NDArray[Any]
    polygons: Integers
    codes: NDArray[np.uint8]
    annotations: Integers

    @classmethod
    def of(cls, annotations: Sequence[Annotation], sizes: Integers, path: Path) -> "Segmentations":
        """The segmentations of annotations in file ``path``, in images of ``sizes`` (A, 2), height and width.

        Raises:
            ImageError: some cannot be turned into masks; the message names the first and gives their number.
        """
        hundredths: NDArray[Any] = np.zeros(0, np.uint16)
        lengths = [np.zeros(1, np.int64)]
        codes: list[bytes] = []
        counts = np.zeros((len(annotations) + 1, 2), np.int64)
        problems: list[AnnotationError] = []
        for start in range(0, len(annotations), AT_ONCE):
            polygons: list[list[float]] = []
            part = range(start, min(start + AT_ONCE, len(annotations)))
            for number in part:
                try:
                    shape = annotations[number].shape()
                    if isinstance(shape, list) and shape:
                        polygons += shape
                        counts[number + 1, 0] = len(shape)
                    else:
                        codes.append(annotation_rle(annotations[number], *sizes[number].tolist())["counts"])
                        counts[number + 1, 1] = len(codes[-1])
                except AnnotationError as error:
                    problems.append(error)
            own = np.fromiter(map(len, polygons), np.int64, len(polygons))
            numbers = np.fromiter(chain.from_iterable(polygons), np.float64, int(own.sum()))
            owners = np.repeat(part, counts[part.start + 1 : part.stop + 1, 0])
            for number in np.unique(owners[_maybe_defective(numbers, own, sizes[owners])]).tolist():
                try:
                    annotation_rle(annotations[number], *sizes[number].tolist())
                except AnnotationError as error:
                    problems.append(error)
            hundredths = _extend(hundredths, _hundredths(numbers))
            lengths.append(own)
        if problems:
            raise ImageError(
                f"{len(problems)} of {len(annotations)} segmentations cannot be turned into masks",
                where=path,
                found=f"first: {' '.join(str(problems[0]).split())}",
                remedy=CHECK_REMEDY,
            )
        content = np.frombuffer(b"".join(codes), np.uint8)
        stops = np.concatenate(lengths).cumsum()
        return cls(hundredths, stops, content, counts.cumsum(axis=0))

    def shapes(self, first: int, behind: int) -> list[Shape]:
        """The segmentations of the annotations from ``first`` to before ``behind``."""
        of_polygons, of_codes = self.annotations[first : behind + 1].T.tolist()
        places = self.polygons[of_polygons[0] : of_polygons[-1] + 1].tolist()
        numbers = self.hundredths[places[0] : places[-1]].astype(np.float64) / 100
        polygons = [numbers[start - places[0] : stop - places[0]] for start, stop in pairwise(places)]
        shapes: list[Shape] = []
        for number in range(behind - first):
            own = polygons[of_polygons[number] - of_polygons[0] : of_polygons[number + 1] - of_polygons[0]]
            shapes.append(own or self.codes[of_codes[number] : of_codes[number + 1]].tobytes())
        return shapes


def _maybe_defective(numbers: NDArray[np.float64], lengths: Integers, sizes: Integers) -> NDArray[np.bool_]:
    """Which polygons (P,) may be defective (``shape_defects``); a fast test that clears nearly all of them.

    Args:
        numbers: x, y, x, y, ... of all polygons.
        lengths: (P,) number of coordinates of each.
        sizes: (P, 2) height and width of the image of each.
    """
    if len(lengths) == 0 or (lengths < 6).any() or (lengths % 2).any():
        return np.ones(len(lengths), bool)
    firsts = (lengths.cumsum() - lengths) // 2
    low, high = (extreme.reduceat(numbers.reshape(-1, 2), firsts) for extreme in (np.minimum, np.maximum))
    inside = (low >= 0).all(axis=1) & (high <= sizes[:, ::-1]).all(axis=1)
    return ~(inside & (lengths * sizes.max(axis=1) <= LONGEST_OUTLINE))


def _hundredths(numbers: NDArray[np.float64]) -> NDArray[Any]:
    if len(numbers) == 0:
        return np.zeros(0, np.uint16)
    whole = np.rint(numbers * 100)
    if not np.array_equal(whole / 100, numbers):
        return numbers * 100
    limits = ((kind, np.iinfo(kind)) for kind in (np.uint16, np.int32))
    fitting = (kind for kind, limit in limits if limit.min <= whole.min() and whole.max() <= limit.max)
    return whole.astype(next(fitting, np.float64))


def _extend(array: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """Extend ``array`` in place: a second copy would be the peak of memory."""
    array = array.astype(np.promote_types(array.dtype, more.dtype), copy=False)
    array.resize(len(array) + len(more), refcheck=False)
    array[len(array) - len(more) :] = more
    return array


class AnnotatedImages:
    """The images of a file with training annotations, and these annotations.

    Crowd regions and annotations marked as ignored are left out, as in the evaluation, and so are boxes with
    less than one pixel inside the image.

    Attributes:
        ids: (I,) int64, of the images.
        sizes: (I, 2) int64, height and width in pixels.
        firsts: (I + 1,) int64, the first annotation of each image, and A.
        boxes: (A, 4) float32 xyxy in pixels.
        labels: (A,) int64, positions of the categories in the file's list of them.
        segmentations: segmentations of the annotations, or None if they are not needed.
    """

    def __init__(
        self,
        annotations: AnnotationFile,
        folder: Path,
        *,
        masks: bool,
        categories: Collection[int] | None = None,
    ) -> None:
        by_image = annotations.annotations_by_image()
        images: list[Image] = []
        used: list[Annotation] = []
        firsts = [0]
        for image in annotations.images:
            own = [
                item
                for item in by_image[image.id]
                if not (item.iscrowd or item.ignore)
                and _visible_side(item, image) >= 1
                and (categories is None or item.category_id in categories)
            ]
            if own:
                images.append(image)
                used += own
                firsts.append(len(used))
        if not images:
            raise ImageError("no image has an annotation to train on", where=annotations.path)
        bare = [item for item in used if not bytes(item.segmentation)] if masks else []
        if bare:
            raise ImageError(
                f"{len(bare)} annotations have no mask to train on",
                where=annotations.path,
                found=f"first: annotation {bare[0].id} without segmentation",
                remedy="train a Faster R-CNN, which needs boxes only, or take a file with segmentations",
            )
        self.ids = np.array([image.id for image in images], np.int64)
        self.sizes = np.array([(image.height, image.width) for image in images], np.int64)
        self.firsts = np.array(firsts, np.int64)
        corners = np.array([item.bbox for item in used], np.float64)
        corners[:, 2:] += corners[:, :2]
        self.boxes = corners.astype(np.float32)
        ids = np.array([item.category_id for item in used], np.int64)
        self.labels = np.searchsorted(annotations.category_ids, ids)
        paths = find_images(images, folder)
        self._paths = np.array([os.fsencode(path) for path in paths], np.bytes_)
        self.segmentations: Segmentations | None = None
        if masks:
            sizes = self.sizes.repeat(np.diff(self.firsts), axis=0)
            self.segmentations = Segmentations.of(used, sizes, annotations.path)

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return Path(os.fsdecode(self._paths[index]))

    def annotations(self, index: int) -> slice:
        """The slice of the annotations of an image."""
        return slice(*self.firsts[index : index + 2].tolist())


def _visible_side(annotation: Annotation, image: Image) -> float:
    """The shorter side, in pixels, of the part of a box inside its image; 0 or less if it is outside."""
    x, y, width, height = annotation.bbox
    return min(min(x + width, image.width) - max(x, 0.0), min(y + height, image.height) - max(y, 0.0))
