"""Rules for the records of an annotation file, one function for each.

``evaluation_problems`` and ``mask_problems`` find what the evaluation refuses; it uses the same functions.

Not every wrong count can be detected: LVIS's validation files and most subsets correctly have the training
set's letters, and some have its counts, and a file does not state which set its fields describe. So a count
field is only checked if at least half of the categories with instances agree with it, which means that it
describes this file and some records are wrong; letters are only checked if three quarters of the categories
agree that are not rare by their letter or count. ``longtail stats`` shows all differences.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

from benchmark.annotations.problems import Problem
from benchmark.annotations.reading import (
    MOST_PIXELS,
    Annotation,
    AnnotationError,
    Category,
    Image,
    Rle,
    frequency_letter,
    shape_defects,
)

# Polygons and boxes of real files are rounded to hundredths, but some converters round to whole pixels and
# include the last one: up to two pixels outside the image are not a defect.
SLACK = 2.0

WRONG_FORMAT = 0.1
"""If this fraction of at least ``MANY`` boxes is not at their polygons, the whole file is wrong."""

MANY = 20

_VAST = Image(0, 100_000, 100_000)

ELSEWHERE = "box elsewhere than its polygons"

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

TABLES = {1230: ("LVIS v0.5", "acorn"), 1203: ("LVIS v1", "aerosol_can")}
"""LVIS versions by number of categories: name, and the category with id 1."""


def protocol_of(images: Iterable[Image]) -> Literal["lvis", "coco"]:
    """``lvis`` if an image lists the categories that were verified in it, else ``coco``."""
    federated = any(getattr(image, field) is not None for image in images for field in FEDERATED)
    return "lvis" if federated else "coco"


def evaluation_problems(
    categories: Sequence[Category],
    images: Sequence[Image],
    annotations: Sequence[Annotation],
    *,
    letters: bool = False,
) -> Iterator[Problem]:
    """Problems on which the official APIs crash, or which they and their reimplementations handle
    differently.

    ``letters``: the frequency groups have another source.
    """
    protocol = protocol_of(images)
    if protocol == "lvis":
        yield from _federated(categories, images)
        if not letters:
            yield from _letters(categories)
    seen: set[int] = set()
    for item in annotations:
        problem = partial(Problem, record="annotation", id=item.id)
        if item.id < 1:  # the official APIs use 0 for "not matched"
            yield problem(
                "annotation id below 1",
                field="id",
                found=str(item.id),
                expected="ids from 1",
                remedy="number the annotations from 1",
            )
        if item.id in seen:
            yield problem("repeated annotation id", field="id", found=str(item.id), expected="unique ids")
        seen.add(item.id)
        _, _, width, height = item.bbox
        if width < 0 or height < 0:
            yield problem(
                "box of negative size", field="bbox", found=box_text(item), expected="x, y, width, height"
            )
        if item.area is not None and item.area < 0:
            yield problem(
                "negative area", field="area", found=f"{item.area:g}", expected="a number of square pixels"
            )
        if item.ignore or (item.iscrowd and protocol == "lvis"):
            yield _flagged(item, protocol)


def _flagged(item: Annotation, protocol: str) -> Problem:
    """Crowd and ignored annotations: lvis-api uses only ``ignore``, others only ``iscrowd``; cocoapi
    overwrites ``ignore`` with ``iscrowd``, and detectron2 refuses ``ignore``."""
    lvis = protocol == "lvis"
    return Problem(
        "crowd or ignored annotation, which LVIS evaluation has not"
        if lvis
        else "ignored annotation, which COCO evaluation does not define",
        "annotation",
        item.id,
        "iscrowd, ignore",
        f"iscrowd {item.iscrowd}, ignore {item.ignore}",
        "0 and 0" if lvis else "ignore 0; regions of many objects have iscrowd 1",
        remedy="remove these annotations, which training leaves out, "
        + ("or list the category in not_exhaustive_category_ids" if lvis else "or mark them as crowd"),
    )


def _federated(categories: Sequence[Category], images: Sequence[Image]) -> Iterator[Problem]:
    known = {category.id for category in categories}
    for image in images:
        for field in FEDERATED:
            listed = getattr(image, field)
            if listed is None:
                yield Problem(
                    "only a part of the images is federated, so neither LVIS nor COCO AP is defined",
                    "image",
                    image.id,
                    field,
                    f"no field {field}",
                    "the LVIS format, both lists in every image; or the COCO format, in none",
                    remedy="for images with exhaustive annotations list in neg_category_ids every category "
                    "that is not in the image, and give an empty not_exhaustive_category_ids",
                )
            elif not known.issuperset(listed):
                for value in sorted(set(listed) - known):
                    yield dangling_reference("image", image.id, field, value, len(known))


def _letters(categories: Sequence[Category]) -> Iterator[Problem]:
    for category in categories:
        if category.frequency is None:
            yield Problem(
                "category without a frequency group",
                "category",
                category.id,
                "frequency",
                "nothing",
                "frequency r, c or f",
                remedy="evaluate with the class statistics of the training split (--statistics), or add the "
                "groups by training image counts: r 1-10, c 11-100, f over 100",
            )


def mask_problems(images: Sequence[Image], annotations: Iterable[Annotation]) -> Iterator[Problem]:
    """Annotations without a mask, or with an invalid mask for their image.

    Coordinates may be outside the image by its length; the outside part is cut off. Annotations of unknown
    images are skipped.
    """
    known = {image.id: image for image in images}
    for item in annotations:
        image = known.get(item.image_id)
        if image is None:
            continue
        shape = _shape(item)
        if isinstance(shape, Problem):
            yield shape
        elif shape is None:
            yield _no_mask(item)
        elif defects := shape_defects(shape, image.height, image.width, max(image.height, image.width)):
            yield _not_a_mask(item, image, defects)


def _shape(item: Annotation) -> list[list[float]] | Rle | Problem | None:
    """The decoded segmentation, None if there is none, or the problem of one that cannot be read."""
    try:
        return item.shape()
    except AnnotationError as error:
        return Problem(
            "segmentation that cannot be read",
            "annotation",
            item.id,
            "segmentation",
            " ".join(str(error.found).split())[:160],
            "a list of polygons [[x, y, x, y, ...], ...], or {size: [height, width], counts}",
        )


def _no_mask(item: Annotation) -> Problem:
    return Problem(
        "annotation without a mask",
        "annotation",
        item.id,
        "segmentation",
        "nothing",
        "polygons or a run-length code, as other annotations have",
        remedy="add the masks or remove these annotations; in a file without any mask boxes are trained on "
        "and evaluated",
    )


def _not_a_mask(item: Annotation, image: Image, defects: list[str]) -> Problem:
    return Problem(
        "segmentation that is no mask of its image",
        "annotation",
        item.id,
        "segmentation",
        "; ".join(defects),
        f"polygons of three points or more, or run lengths of an image of {image.height} x {image.width}",
    )


def annotation_problems(item: Annotation, image: Image | None, masks: bool) -> Iterator[Problem]:
    """Problems of box, area and mask of an annotation; ``masks``: whether it should have one.

    In an unknown image (None), any box and polygon is inside.
    """
    shape = _shape(item)
    if image is None:
        image, shape = _VAST, None if isinstance(shape, Rle) else shape
    yield from _box_problems(item, image)
    if isinstance(shape, Problem):
        yield shape
    elif shape is None:
        if masks and not item.has_segmentation:
            yield _no_mask(item)
    elif defects := shape_defects(shape, image.height, image.width, SLACK):
        if beyond := shape_defects(shape, image.height, image.width, max(image.height, image.width)):
            yield _not_a_mask(item, image, beyond)
        else:
            yield Problem(
                "mask that leaves its image",
                "annotation",
                item.id,
                "segmentation",
                "; ".join(defects),
                "a shape inside the image; the rest is cut off",
                severity="warning",
            )
    elif min(item.bbox[2:]) > 0 and not isinstance(shape, Rle):
        yield from _displaced_box(item, image, shape)


def _box_problems(item: Annotation, image: Image) -> Iterator[Problem]:
    """Oddities of box and area that training and evaluation tolerate."""
    x, y, width, height = item.bbox
    warning = partial(Problem, record="annotation", id=item.id, severity="warning")
    if width == 0 or height == 0:
        yield warning(
            "box without area",
            field="bbox",
            found=box_text(item),
            expected="positive width and height; left out of training",
        )
    elif x < -SLACK or y < -SLACK or x + width > image.width + SLACK or y + height > image.height + SLACK:
        yield warning(
            "box that leaves its image",
            field="bbox",
            found=box_text(item),
            expected=f"x, y, width, height in an image of {image.width} x {image.height}",
        )
    if item.area is None:
        yield warning(
            "annotation without area",
            field="area",
            found="nothing",
            expected="square pixels; evaluated with the area of its mask, or else of its box",
        )
    elif item.area == 0:
        yield warning("area of zero", field="area", found="0", expected="a positive number of square pixels")
    elif item.area > 1.1 * (width + SLACK) * (height + SLACK) and min(width, height) > 0:
        yield warning(
            "area larger than the box",
            field="area",
            found=f"{item.area:g}",
            expected=f"at most the box's {width * height:g}",
        )


def _displaced_box(item: Annotation, image: Image, shape: list[list[float]]) -> Iterator[Problem]:
    """A box that is not at the polygons of its annotation."""
    outline = _outline(shape)
    if not _far_apart(item.bbox, outline):
        return
    turned = any(not _far_apart(item.bbox, box) for box in _rotated(outline, image.width, image.height))
    yield Problem(
        "box turned against its polygons by a right angle" if turned else ELSEWHERE,
        "annotation",
        item.id,
        "bbox",
        box_text(item),
        f"about {_text(outline)}, the (x, y, width, height) of its polygons",
        remedy="LVIS itself has such boxes, in photographs with an EXIF orientation: they are trained on and "
        "evaluated as they stand, as in detectron2 and lvis-api"
        if turned
        else None,
        severity="warning",
    )


def _outline(shape: list[list[float]]) -> tuple[float, float, float, float]:
    xs = [value for polygon in shape for value in polygon[::2]]
    ys = [value for polygon in shape for value in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _rotated(
    box: tuple[float, float, float, float], width: int, height: int
) -> list[tuple[float, float, float, float]]:
    """The box in the image rotated by a right angle, in both directions, and resized to its original size."""
    x, y, w, h = box
    across, down = width / height, height / width
    return [
        ((height - y - h) * across, x * down, h * across, w * down),
        (y * across, (width - x - w) * down, h * across, w * down),
    ]


def _far_apart(box: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes differ by more than rounding, and overlap by less than half."""
    (x, y, w, h), (left, top, width, height) = box, other
    farthest = max(abs(left - x), abs(top - y), abs(left + width - x - w), abs(top + height - y - h))
    across = min(left + width, x + w) - max(left, x)
    down = min(top + height, y + h) - max(top, y)
    common = max(0.0, across) * max(0.0, down)
    return farthest > 2 * SLACK and common < 0.5 * (width * height + w * h - common)


def box_text(item: Annotation) -> str:
    """The box of an annotation as JSON, with six digits."""
    return _text(item.bbox)


def _text(values: Iterable[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def format_problems(annotations: int, elsewhere: int) -> Iterator[Problem]:
    """The problem of a file in which so many boxes are not at their polygons that all have another format."""
    if annotations >= MANY and elsewhere > WRONG_FORMAT * annotations:
        yield Problem(
            "boxes of another form",
            "file",
            None,
            "bbox",
            f"{elsewhere:,} of {annotations:,} boxes lie elsewhere than their polygons",
            "(x, y, width, height) in pixels of the image",
            remedy="convert corners (x1, y1, x2, y2), centres and fractions of the image",
        )


def dangling_reference(record: str, id_: int, field: str, value: int, categories: int) -> Problem:
    """A reference to a missing record; for a category, with a guess from the number of categories."""
    expected = "the id of a record in the file"
    table = TABLES.get(categories)
    if "category" in field and table:
        expected += f", whose categories are those of {table[0]} (annotations of another version?)"
    what = "unknown image" if field == "image_id" else f"unknown category in {field}"
    return Problem(what, record, id_, field, str(value), expected)


def contradictions(image: Image, present: set[tuple[int, int]]) -> Iterator[Problem]:
    """Categories that are verified to be absent from an image with annotations of them."""
    for value in image.neg_category_ids or ():
        if (image.id, value) in present:
            yield Problem(
                "category both present and verified to be absent",
                "image",
                image.id,
                "neg_category_ids",
                str(value),
                "categories without annotation in the image; evaluated as present, as lvis-api does",
                severity="warning",
            )


def name_problems(categories: Sequence[Category]) -> Iterator[Problem]:
    """Empty names, and names of several categories."""
    times = Counter(category.name for category in categories)
    for category in categories:
        warning = partial(Problem, record="category", id=category.id, field="name", severity="warning")
        if not category.name.strip():
            yield warning("category without a name", found=repr(category.name), expected="a name")
        elif times[category.name] > 1:
            yield warning(
                "category name that is not unique",
                found=f"{category.name!r}, {times[category.name]} times",
                expected="names that tell categories apart",
            )


def count_problems(
    categories: Sequence[Category], annotations: Iterable[Annotation], present: set[tuple[int, int]]
) -> Iterator[Problem]:
    """Count fields and letters that disagree with the file if most of them agree (see the module)."""
    instances = Counter(annotation.category_id for annotation in annotations)
    images = Counter(category_id for _, category_id in present)
    for field, trivial, agreement, count in (
        ("image_count", 0, 0.5, lambda id_: images[id_]),
        ("instance_count", 0, 0.5, lambda id_: instances[id_]),
        ("frequency", "r", 0.75, lambda id_: frequency_letter(images[id_])),
    ):
        pairs = [(category.id, getattr(category, field), count(category.id)) for category in categories]
        # Two zeros or two letters r agree in almost every file.
        telling = [
            (ours, theirs)
            for _, theirs, ours in pairs
            if theirs is not None and not ours == theirs == trivial
        ]
        agreeing = sum(ours == theirs for ours, theirs in telling)
        if telling and agreeing >= agreement * len(telling):
            for id_, theirs, ours in pairs:
                if theirs is not None and theirs != ours:
                    yield Problem(
                        f"{field} that is not the file's",
                        "category",
                        id_,
                        field,
                        str(theirs),
                        f"{ours}, counted in this file",
                        severity="warning",
                    )


def size_problems(images: Iterable[Image]) -> Iterator[Problem]:
    """Images too large for masks."""
    for image in images:
        if image.width * image.height > MOST_PIXELS:
            yield Problem(
                "image too large for masks",
                "image",
                image.id,
                "width, height",
                f"{image.width} x {image.height} pixels",
                f"at most {MOST_PIXELS} pixels",
            )


def version_problems(categories: Sequence[Category], images: Sequence[Image]) -> Iterator[Problem]:
    """Signs that LVIS v0.5 and v1, which number their categories differently, are mixed."""
    names = {category.id: category.name for category in categories}
    by_name = {name: version for version, name in TABLES.values()}
    table, named = TABLES.get(len(categories)), by_name.get(names.get(1, ""))
    mixed = partial(Problem, "LVIS versions mixed", "file", None)
    if table and named and table[0] != named:
        yield mixed(
            "categories",
            f"{len(categories)} of them, as in {table[0]}, but id 1 is {names[1]}, as in {named}",
            "the categories of one version",
        )
    prefixed = sum(bool(image.file_name and re.match(r"COCO_\w+2014_", image.file_name)) for image in images)
    if named == "LVIS v1" and prefixed:
        yield mixed(
            "images",
            f"{prefixed} with a COCO_..2014_ file name, as in LVIS v0.5, but the categories of {named}",
            "images and categories of one version",
        )
