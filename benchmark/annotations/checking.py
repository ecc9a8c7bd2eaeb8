"""Every problem of an annotation file at once, each with record, field, found and expected.

Not every wrong count can be told: LVIS's validation files and most subsets rightly carry the training set's
letters, and some its counts, and nothing in a file says which set its fields describe. So a count field is
only held against the file where at least half of the categories that have instances agree with it, that is,
where it is meant for this file and some records are wrong; the letters where three quarters of the categories
agree that are more than rare by their letter or their count. ``longtail stats`` shows all differences.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from benchmark.annotations.reading import (
    MOST_PIXELS,
    Annotation,
    AnnotationError,
    Category,
    Image,
    decode_file,
    frequency_letter,
    map_file,
    resolve_image,
    shape_defects,
)

# Polygons and boxes of real files are rounded to hundredths, but some converters round to whole pixels and
# count the last one in: up to two pixels outside the image are no defect.
SLACK = 2.0

_TABLES = {1230: ("LVIS v0.5", "acorn"), 1203: ("LVIS v1", "aerosol_can")}

T = TypeVar("T", Annotation, Category, Image)


@dataclass(frozen=True)
class Problem:
    """One defect. ``record`` is annotation, image, category or file; ``id`` is None where there is none.

    A record without a readable id is named by its position, e.g. ``annotation[12]``.
    """

    record: str
    id: int | None
    field: str
    found: str
    expected: str

    def as_dict(self) -> dict[str, Any]:
        """The five fields, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        name = self.record if self.id is None else f"{self.record} {self.id}"
        return f"{name}, {self.field}: found {self.found}, expected {self.expected}"


class _Content(Struct, gc=False):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


def check_annotations(path: Path | str, images: Path | str | None = None) -> list[Problem]:
    """All problems of a file, in the order categories, images, annotations, file; empty if there is none.

    With an image folder, every image's file is looked for as well. Raises ``AnnotationError`` for a file that
    is no complete JSON or lacks one of the three lists, ``FileError`` if it cannot be read.
    """
    content, not_a_number = _content(Path(path))
    problems: list[Problem] = []
    categories = _records(content.categories, Category, "category", problems)
    image_records = _records(content.images, Image, "image", problems)
    annotations = _records(content.annotations, Annotation, "annotation", problems)
    known_images = {image.id: image for image in image_records}
    known_categories = {category.id for category in categories}
    # An id whose record could not be read is known all the same: one defect, one problem.
    defective = {(problem.record, problem.id) for problem in problems if problem.id is not None}
    mask_expected = any(bytes(annotation.segmentation) for annotation in annotations)
    present: set[tuple[int, int]] = set()
    for annotation in annotations:
        present.add((annotation.image_id, annotation.category_id))
        image = known_images.get(annotation.image_id)
        for field, value, known in (
            ("image_id", annotation.image_id, image is not None),
            ("category_id", annotation.category_id, annotation.category_id in known_categories),
        ):
            if not known and (field.removesuffix("_id"), value) not in defective:
                problems.append(_dangling("annotation", annotation.id, field, value, categories))
        problems += _geometry(annotation, image, mask_expected)
    for image in image_records:
        problems += _federated(image, known_categories, categories, present)
        problems += _file(image, images)
        if image.width * image.height > MOST_PIXELS:
            size = f"{image.width} x {image.height} pixels"
            problems.append(Problem("image", image.id, "width", size, f"at most {MOST_PIXELS} for masks"))
    if not content.categories:
        problems.append(Problem("file", None, "categories", "none", "at least one category"))
    problems += _counts(categories, annotations, present)
    problems += _version(categories, image_records)
    if not_a_number and not problems:
        problems.append(Problem("file", None, "content", "NaN or Infinity", "numbers that JSON knows"))
    order = ("category", "image", "annotation", "file")
    return sorted(problems, key=lambda problem: order.index(problem.record.split("[")[0]))


def _content(path: Path) -> tuple[_Content, bool]:
    """The undecoded records, and whether there are NaN or Infinity, which JSON does not know but Python
    writes: they become strings, so that they are defects of a record and not of the file."""
    try:
        return decode_file(path, _Content), False
    except AnnotationError:
        data = map_file(path)
        if re.search(rb"\bNaN\b|\bInfinity\b", data) is None:
            raise
        try:
            lenient = json.loads(data[:], parse_constant=str)
            return msgspec.json.decode(msgspec.json.encode(lenient), type=_Content), True
        # too deep, integers beyond 64 bits, half a surrogate pair, or no lists of records
        except (ValueError, RecursionError, OverflowError):
            pass
        raise


def _records(raws: list[Raw], type_: type[T], name: str, problems: list[Problem]) -> list[T]:
    """The records that can be read; the others and repeated ids are added to ``problems``."""
    decoder = msgspec.json.Decoder(type_)
    records: list[T] = []
    for position, raw in enumerate(raws):
        try:
            records.append(decoder.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problems.append(_unreadable(raw, f"{name}[{position}]", name, str(error)))
    repeated = Counter(record.id for record in records)
    problems.extend(
        Problem(name, id_, "id", f"{count} records with this id", "one")
        for id_, count in repeated.items()
        if count > 1
    )
    return records


def _unreadable(raw: Raw, position: str, name: str, message: str) -> Problem:
    """The problem of a record that does not have its type, from msgspec's message."""
    expected, _, place = message.partition(" - at ")
    keys = re.findall(r"\w+", place)
    try:
        record = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = None
    id_ = record.get("id") if isinstance(record, dict) else None
    value: Any = record
    for key in keys:
        value = (
            value[int(key)]
            if isinstance(value, list)
            else value.get(key)
            if isinstance(value, dict)
            else None
        )
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", expected):
        keys, value, expected = [missing[1]], "nothing", "this field"
    named = isinstance(id_, int) and not isinstance(id_, bool)
    return Problem(
        record=name if named else position,
        id=id_ if named else None,
        field=".".join(keys) or "record",
        found=str(value)[:80],
        expected=expected.removeprefix("Expected ").split(", got ")[0].replace("`", ""),
    )


def _dangling(record: str, id_: int, field: str, value: int, categories: list[Category]) -> Problem:
    """A reference to a record that is not there; for a category, with a guess why."""
    expected = "the id of a record in the file"
    table = _TABLES.get(len(categories))
    if "category" in field and table:
        expected += f", whose categories are those of {table[0]} (annotations of another version?)"
    return Problem(record, id_, field, str(value), expected)


def _geometry(annotation: Annotation, image: Image | None, mask_expected: bool) -> Iterable[Problem]:
    """Box, area and segmentation of one annotation; ``image`` is None where it is unknown."""
    x, y, width, height = annotation.bbox
    box = f"[{x:g}, {y:g}, {width:g}, {height:g}]"

    def problem(field: str, found: str, expected: str) -> Problem:
        return Problem("annotation", annotation.id, field, found, expected)

    if width <= 0 or height <= 0:
        yield problem("bbox", box, "positive width and height (x, y, width, height)")
    elif image is not None and (
        x < -SLACK or y < -SLACK or x + width > image.width + SLACK or y + height > image.height + SLACK
    ):
        yield problem(
            "bbox", box, f"a box (x, y, width, height) inside the image of {image.width} x {image.height}"
        )
    if annotation.area is not None and width > 0 and height > 0:
        if annotation.area <= 0:
            yield problem("area", f"{annotation.area:g}", "a positive number of square pixels")
        elif annotation.area > 1.1 * (width + SLACK) * (height + SLACK):
            yield problem("area", f"{annotation.area:g}", f"at most the box's {width * height:g}")
    yield from _segmentation(annotation, image, mask_expected, problem)


def _segmentation(
    annotation: Annotation,
    image: Image | None,
    mask_expected: bool,
    problem: Callable[[str, str, str], Problem],
) -> Iterable[Problem]:
    try:
        shape = annotation.shape()
    except AnnotationError as error:
        yield problem("segmentation", " ".join(str(error).split())[:160], "polygons or a run-length code")
        return
    if shape is None:
        if mask_expected:
            yield problem("segmentation", "nothing", "polygons or a run-length code, as in other annotations")
        return
    side = (image.height, image.width) if image is not None else (10**9, 10**9)
    if image is None and not isinstance(shape, list):
        return
    defects = shape_defects(shape, *side, slack=SLACK)
    for defect in defects:
        yield problem("segmentation", defect, "a shape inside the image, at least three points a polygon")
    if defects or not isinstance(shape, list):
        return
    xs = [value for polygon in shape for value in polygon[::2]]
    ys = [value for polygon in shape for value in polygon[1::2]]
    x, y, width, height = annotation.bbox
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    farthest = max(abs(left - x), abs(top - y), abs(right - x - width), abs(bottom - y - height))
    common = max(0.0, min(right, x + width) - max(left, x)) * max(0.0, min(bottom, y + height) - max(top, y))
    union = (right - left) * (bottom - top) + width * height - common
    if width > 0 and height > 0 and farthest > 2 * SLACK and common < 0.5 * union:
        outline = f"[{left:g}, {top:g}, {right - left:g}, {bottom - top:g}]"
        yield problem(
            "bbox",
            f"[{x:g}, {y:g}, {width:g}, {height:g}]",
            f"about {outline}, the (x, y, width, height) of its polygon",
        )


def _federated(
    image: Image, known: set[int], categories: list[Category], present: set[tuple[int, int]]
) -> Iterable[Problem]:
    """The lists of verified absent and of not exhaustively annotated categories."""
    for field in ("neg_category_ids", "not_exhaustive_category_ids"):
        for value in getattr(image, field) or ():
            if value not in known:
                yield _dangling("image", image.id, field, value, categories)
    for value in image.neg_category_ids or ():
        if (image.id, value) in present:
            yield Problem(
                "image",
                image.id,
                "neg_category_ids",
                str(value),
                "categories without annotation in the image",
            )


def _file(image: Image, folder: Path | str | None) -> Iterable[Problem]:
    """The image's file name and, with a folder, its file."""
    field = "file_name" if image.file_name else "coco_url"
    try:
        name = image.relative_path
    except AnnotationError:
        found = repr(image.file_name or image.coco_url) if image.file_name or image.coco_url else "nothing"
        yield Problem("image", image.id, field, found, "a path that stays inside the image folder")
        return
    if folder is not None:
        try:
            resolve_image(image, folder)
        except AnnotationError:
            yield Problem("image", image.id, field, f"no file {name} in {folder}", "an image file")


def _counts(
    categories: list[Category], annotations: list[Annotation], present: set[tuple[int, int]]
) -> Iterable[Problem]:
    """Count fields and letters that disagree with the file, where most of them agree (see the module)."""
    instances = Counter(annotation.category_id for annotation in annotations)
    images = Counter(category_id for _, category_id in present)
    for field, trivial, agreement, count in (
        ("image_count", 0, 0.5, lambda id_: images[id_]),
        ("instance_count", 0, 0.5, lambda id_: instances[id_]),
        ("frequency", "r", 0.75, lambda id_: frequency_letter(images[id_])),
    ):
        pairs = [(category.id, getattr(category, field), count(category.id)) for category in categories]
        # Two zeros or two letters r agree in almost any file.
        telling = [
            (ours, theirs)
            for _, theirs, ours in pairs
            if theirs is not None and not ours == theirs == trivial
        ]
        agreeing = sum(ours == theirs for ours, theirs in telling)
        if telling and agreeing >= agreement * len(telling):
            for id_, theirs, ours in pairs:
                if theirs is not None and theirs != ours:
                    yield Problem("category", id_, field, str(theirs), f"{ours}, counted in this file")


def _version(categories: list[Category], images: list[Image]) -> Iterable[Problem]:
    """Signs that LVIS v0.5 and v1, which number their categories differently, were mixed."""
    names = {category.id: category.name for category in categories}
    by_name = {name: version for version, name in _TABLES.values()}
    table, named = _TABLES.get(len(categories)), by_name.get(names.get(1, ""))
    if table and named and table[0] != named:
        yield Problem(
            "file",
            None,
            "categories",
            f"{len(categories)} of them, as in {table[0]}, but id 1 is {names[1]}, as in {named}",
            "the categories of one version",
        )
    prefixed = sum(bool(image.file_name and re.match(r"COCO_\w+2014_", image.file_name)) for image in images)
    if named == "LVIS v1" and prefixed:
        yield Problem(
            "file",
            None,
            "images",
            f"{prefixed} with a COCO_..2014_ file name, as in LVIS v0.5, but the categories of {named}",
            "images and categories of one version",
        )
