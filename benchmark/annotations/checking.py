"""Validation of annotation files and image files: all problems at once, before anything expensive.

Reports everything that training, prediction or evaluation would refuse.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from benchmark.annotations.image_files import check_images
from benchmark.annotations.problems import Findings, Problem
from benchmark.annotations.reading import (
    Annotation,
    AnnotationError,
    Category,
    Image,
    decode_file,
    frequency_letter,
    map_file,
    require_text,
)
from benchmark.annotations.records import CONSTANT, read_records, repeated_ids
from benchmark.annotations.rules import (
    ELSEWHERE,
    annotation_problems,
    contradictions,
    count_problems,
    dangling_reference,
    evaluation_problems,
    format_problems,
    name_problems,
    size_problems,
    version_problems,
)
from benchmark.annotations.vocabulary import KNOWN, vocabulary_hash
from benchmark.errors import BenchmarkError

Split = Literal["train", "val"]
Progress = Callable[[int, int], None]


class _Content(Struct, gc=False):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


@dataclass(frozen=True)
class _Examined:
    """A file's readable records, the number of images of each category, and its problems."""

    path: Path
    categories: dict[int, Category]
    images: list[Image]
    image_counts: Counter[int]
    masks: bool
    findings: Findings


def check_annotations(
    path: Path | str,
    images: Path | str | None = None,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Problem]:
    """The problems of one annotation file: categories, images, annotations, then the file itself.

    Returns the first ``LIMIT`` problems of each kind, with their total. With an image folder,
    ``check_images`` also checks every image file. Raises ``AnnotationError`` for a file that is not complete
    JSON or lacks one of the three lists, ``FileError`` if it cannot be read.
    """
    examined = _examine(Path(path), None)
    problems = examined.findings.problems()
    if images is not None:
        problems += check_images(examined.images, images, workers=workers, progress=progress)
    return problems


def check_dataset(
    train: Path | str,
    val: Path | str | None = None,
    images: Path | str | None = None,
    val_images: Path | str | None = None,
    *,
    masks: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Problem]:
    """The problems of a training and a validation file, of both together, and of their image files.

    Errors would stop a training, prediction or evaluation on these files, or make its numbers wrong.
    Requirements of the evaluation alone are warnings in the training file, and frequency letters are those of
    the training file. A file that cannot be read is one problem, so that the other file is still checked.

    Args:
        train: annotation file to train on.
        val: annotation file to evaluate on.
        images: folder of the training images; None to skip their files.
        val_images: folder of the validation images; by default the same.
        masks: whether detectors train on and predict masks, so that every annotation needs one.
        workers: processes that check image files.
        progress: called with the number of checked image files and their total.
    """
    problems: list[Problem] = []
    examined: dict[Split, _Examined] = {}
    splits: tuple[tuple[Split, Path | str | None], ...] = (("train", train), ("val", val))
    for split, path in splits:
        if path is None:
            continue
        try:
            examined[split] = _examine(Path(path), split)
        except BenchmarkError as error:
            problems.append(_unusable(Path(path), error))
        else:
            problems += _without_masks(examined[split]) if masks else []
            problems += examined[split].findings.problems()
    if len(examined) == 2:
        one_folder = images is not None and val_images in (None, images)
        problems += _problems_between_splits(examined["train"], examined["val"], one_folder)
    wanted: dict[Path | str, list[Image]] = {}
    for split, file in examined.items():
        folder = images if split == "train" else val_images or images
        if folder is not None:
            wanted.setdefault(folder, []).extend(file.images)
    for folder, records in wanted.items():
        problems += check_images(records, folder, workers=workers, progress=progress)
    return problems


def _examine(path: Path, split: Split | None) -> _Examined:
    """Read a file and apply the rules for single files; ``split`` is its use, if known."""
    content, not_a_number = _content(path)
    findings = Findings(path)
    categories, lost_categories = read_records(content.categories, Category, findings)
    images, lost_images = read_records(content.images, Image, findings)
    annotations, _ = read_records(content.annotations, Annotation, findings)
    present = {(item.image_id, item.category_id) for item in annotations}
    lettered = any(category.frequency is not None for category in categories)
    for problem in evaluation_problems(
        categories, images, annotations, letters=split is not None and not lettered
    ):
        findings.add(replace(problem, severity="warning") if split == "train" else problem)
    masks = any(item.has_segmentation for item in annotations)
    by_id = {category.id: category for category in categories}
    # an unreadable record counts as known, so that one defect gives one problem
    _check_references(images, lost_images, set(by_id) | lost_categories, annotations, masks, findings)
    for image in images:
        findings.extend(contradictions(image, present))
        findings.extend(_file_name(image))
    for rule in (
        repeated_ids(categories),
        repeated_ids(images),
        name_problems(categories),
        size_problems(images) if masks else (),
        count_problems(categories, annotations, present),
        version_problems(categories, images),
    ):
        findings.extend(rule)
    if not content.categories:
        findings.add(Problem("no categories", "file", None, "categories", "none", "at least one category"))
    if not content.annotations and split == "train":
        findings.add(Problem("nothing to train on", "file", None, "annotations", "none", "annotations"))
    if not_a_number and not findings.problems():
        findings.add(
            Problem("not JSON", "file", None, "content", "NaN or Infinity", "numbers that JSON knows")
        )
    image_counts = Counter(category_id for _, category_id in present)
    return _Examined(path, by_id, images, image_counts, masks, findings)


def _content(path: Path) -> tuple[_Content, bool]:
    """The undecoded records, and whether there are NaN or Infinity. JSON does not have them but Python writes
    them; they become marked strings, so that they are defects of a record and not of the file."""
    require_text(path)
    try:
        return decode_file(path, _Content), False
    except AnnotationError:
        data = map_file(path)
        if re.search(rb"\bNaN\b|\bInfinity\b", data) is None:
            raise
        try:
            text = data[:].decode("utf-8-sig")
            lenient = json.loads(text, parse_constant=lambda constant: CONSTANT + constant)
            return msgspec.json.decode(msgspec.json.encode(lenient), type=_Content), True
        # nested too deeply, integers over 64 bits, half a surrogate pair, or no lists of records
        except (ValueError, RecursionError, OverflowError):
            pass
        raise


def _check_references(
    images: list[Image],
    lost_images: set[int],
    categories: set[int],
    annotations: list[Annotation],
    masks: bool,
    findings: Findings,
) -> None:
    """Check that every annotation belongs to an image and a category; then check its box and mask."""
    by_id = {image.id: image for image in images}
    elsewhere = 0
    for item in annotations:
        image = by_id.get(item.image_id)
        if image is None and item.image_id not in lost_images:
            findings.add(
                dangling_reference("annotation", item.id, "image_id", item.image_id, len(categories))
            )
        if item.category_id not in categories:
            findings.add(
                dangling_reference("annotation", item.id, "category_id", item.category_id, len(categories))
            )
        for problem in annotation_problems(item, image, masks):
            elsewhere += problem.what == ELSEWHERE
            findings.add(problem)
    findings.extend(format_problems(len(annotations), elsewhere))


def _file_name(image: Image) -> Iterator[Problem]:
    """The name of the image's file."""
    try:
        _ = image.relative_path
    except AnnotationError:
        name = image.file_name or image.coco_url
        yield Problem(
            "image without a usable file name",
            "image",
            image.id,
            "file_name" if image.file_name else "coco_url",
            repr(name) if name else "nothing",
            "a path that stays inside the image folder",
        )


def _unusable(path: Path, error: BenchmarkError) -> Problem:
    """The error for a whole file as a problem."""
    return Problem(
        error.what,
        "file",
        None,
        "content",
        str(error.found if error.found is not None else error.where),
        str(error.expected or "an annotation file in LVIS or COCO format"),
        error.remedy,
        file=str(path),
    )


def _without_masks(file: _Examined) -> list[Problem]:
    """The problem of a file with boxes only, if masks are needed."""
    if file.masks:
        return []
    return [
        Problem(
            "no masks",
            "file",
            None,
            "segmentation",
            "boxes alone",
            "a mask for every annotation",
            remedy="take detectors without masks (faster_rcnn), or files with segmentations",
            file=str(file.path),
        )
    ]


def _problems_between_splits(train: _Examined, val: _Examined, one_folder: bool) -> list[Problem]:
    """Problems between a training and a validation file; numbers are those of the validation file."""
    findings = Findings(val.path)
    findings.extend(_different_categories(train, val))
    for id_ in sorted(train.categories.keys() & val.categories.keys()):
        letter = train.categories[id_].frequency or frequency_letter(train.image_counts[id_])
        theirs = val.categories[id_].frequency
        if theirs is not None and theirs != letter:
            findings.add(
                Problem(
                    "frequency group that is not that of training",
                    "category",
                    id_,
                    "frequency",
                    theirs,
                    f"{letter}, as in {train.path}; evaluation with its class statistics takes those",
                    severity="warning",
                )
            )
        if val.image_counts[id_] and not train.image_counts[id_]:
            findings.add(
                Problem(
                    "category that is evaluated but not trained",
                    "category",
                    id_,
                    "category_id",
                    f"{val.image_counts[id_]} images, none in {train.path}",
                    "training images; it counts as rare",
                    severity="warning",
                )
            )
    findings.extend(_images_in_both(train, val, one_folder))
    return findings.problems()


def _different_categories(train: _Examined, val: _Examined) -> Iterator[Problem]:
    """Categories without the same id and name in both files."""
    ours, theirs = ({id_: item.name for id_, item in file.categories.items()} for file in (train, val))
    versions = [KNOWN.get(vocabulary_hash(names.items())) for names in (ours, theirs)]
    remedy = "list the same categories with the same ids and names in both files, also those without objects"
    if all(versions):
        remedy = f"training speaks of {versions[0]}, validation of {versions[1]}: take files of one version"
    for id_ in sorted(ours.keys() | theirs.keys()):
        if ours.get(id_) != theirs.get(id_):
            yield Problem(
                "categories of training and validation differ",
                "category",
                id_,
                "name",
                repr(theirs[id_]) if id_ in theirs else "no such category",
                f"{ours[id_]!r}, as in {train.path}"
                if id_ in ours
                else f"a category that {train.path} has, too",
                remedy,
            )


def _images_in_both(train: _Examined, val: _Examined, one_folder: bool) -> Iterator[Problem]:
    """Images in both splits: with the same address, or with the same name in one folder."""
    addresses = {image.coco_url for image in train.images if image.coco_url}
    names = {image.file_name for image in train.images if image.file_name} if one_folder else set()
    for image in val.images:
        if image.file_name in names or image.coco_url in addresses:
            yield Problem(
                "image that is both trained on and evaluated",
                "image",
                image.id,
                "file_name" if image.file_name in names else "coco_url",
                repr(image.file_name if image.file_name in names else image.coco_url),
                "images that training does not see",
                severity="warning",
            )
