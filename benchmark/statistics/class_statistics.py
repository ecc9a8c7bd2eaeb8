"""Numbers of images and instances of every category: counting, writing, reading."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.annotations import AnnotationError, Category, Vocabulary, frequency_letter, vocabulary_hash
from benchmark.annotations.reading import References, decode_file
from benchmark.errors import BenchmarkError
from benchmark.files import read_bytes, write_text
from benchmark.statistics.errors import StatisticsError
from benchmark.tables import csv_rows, csv_text

_COLUMNS = ["id", "name", "frequency", "image_count", "instance_count"]
_SCALARS = ["num_images", "num_annotated_images", "num_annotations"]
_REMEDY = "write the table again with longtail stats"


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Counts of C categories in ascending id, so that position is the label.

    ``frequencies`` holds the letters r, c, f of the annotation file, which follow the *training* images; a
    file without letters (COCO) gets them from its own counts. ``image_counts`` are images with at least one
    annotation of the category, ``instance_counts`` its annotations, including crowd regions. The scalars and
    the vocabulary's hash are None for a plain table, which does not have them.
    """

    category_ids: NDArray[np.int64]
    names: tuple[str, ...]
    frequencies: tuple[str, ...]
    image_counts: NDArray[np.int64]
    instance_counts: NDArray[np.int64]
    num_images: int | None = None
    num_annotated_images: int | None = None
    num_annotations: int | None = None
    vocabulary: str | None = None

    @property
    def num_classes(self) -> int:
        """Number of categories C; also the label of background."""
        return len(self.category_ids)

    def as_vocabulary(self, source: str) -> Vocabulary:
        """The categories for ``check_same_vocabulary``; messages call the table ``source``."""
        return Vocabulary.of(source, zip(self.category_ids.tolist(), self.names, strict=True))

    def check_number(self, expected: int, dataset: str, where: object, error: type[BenchmarkError]) -> None:
        """Raise ``error`` unless there are as many categories as the file of ``dataset`` states.

        ``where`` is the file that was counted.
        """
        if self.num_classes != expected:
            raise error(
                f"the categories are not those of dataset '{dataset}'",
                where=where,
                found=f"{self.num_classes} categories",
                expected=f"{expected} categories",
                remedy=f"correct `categories` in the file of '{dataset}', or put its annotations there",
            )

    def totals(self) -> dict[str, Any]:
        """Numbers of categories, also by frequency and without an image, of images and of instances."""
        return {
            "categories": self.num_classes,
            **{name: self.frequencies.count(name[0]) for name in ("rare", "common", "frequent")},
            "without_an_image": int((self.image_counts == 0).sum()),
            "images": self.num_images,
            "annotated_images": self.num_annotated_images,
            "instances": int(self.instance_counts.sum()),
        }

    def summary(self) -> str:
        """``totals`` as one line."""
        totals = self.totals()
        letters = " / ".join(str(totals[name]) for name in ("rare", "common", "frequent"))
        images = (
            ""
            if self.num_images is None
            else f"{self.num_annotated_images} of {self.num_images} images annotated, "
        )
        return (
            f"{self.num_classes} categories (rare / common / frequent {letters}, "
            f"{totals['without_an_image']} without an image), {images}{totals['instances']} instances"
        )

    def write(self, path: Path | str) -> None:
        """Write a CSV table with the columns id, name, frequency, image_count, instance_count.

        The scalars come first, as ``# key: value`` lines. Raises ``FileError`` if it cannot be written.
        """
        scalars = {key: getattr(self, key) for key in (*_SCALARS, "vocabulary")}
        head = [f"# {key}: {value}\n" for key, value in scalars.items() if value is not None]
        counts = (self.image_counts.tolist(), self.instance_counts.tolist())
        rows = zip(self.category_ids.tolist(), self.names, self.frequencies, *counts, strict=True)
        write_text(path, "".join(head) + csv_text([_COLUMNS, *rows]))

    @classmethod
    def read(cls, path: Path | str) -> "ClassStatistics":
        """Read what ``write`` wrote, or a plain table with the same columns.

        Raises ``StatisticsError`` naming line, field, found and expected; ``FileError`` if it cannot be read.
        """
        try:
            text = read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise StatisticsError("not a text file", where=path, found=error, remedy=_REMEDY) from None
        scalars: dict[str, str] = {}
        start = 0
        while text.startswith("#", start):
            stop = text.find("\n", start) + 1 or len(text)
            key, _, value = text[start:stop].lstrip("# ").partition(":")
            scalars[key.strip()] = value.strip()
            start = stop
        rows = csv_rows(text[start:])
        if not rows or rows[0][1] != _COLUMNS:
            found = ",".join(rows[0][1]) if rows else "nothing"
            raise StatisticsError(
                "not a table of class statistics",
                where=path,
                found=found,
                expected=",".join(_COLUMNS),
                remedy=_REMEDY,
            )
        records = [_record(row, f"{path}, line {len(scalars) + line}") for line, row in rows[1:]]
        ids = [record[0] for record in records]
        if not ids or any(left >= right for left, right in pairwise(ids)):
            raise StatisticsError("category ids must be there and ascend", where=path, remedy=_REMEDY)
        for key in _SCALARS:
            if key in scalars and not scalars[key].isdecimal():
                raise StatisticsError(
                    f"{key} is not a number",
                    where=path,
                    found=scalars[key],
                    expected="an integer",
                    remedy=_REMEDY,
                )
        vocabulary = scalars.get("vocabulary")
        if vocabulary is not None and vocabulary != vocabulary_hash(
            (record[0], record[1]) for record in records
        ):
            raise StatisticsError(
                "the table's categories are not those that its header was written for",
                where=path,
                found="another vocabulary hash",
                remedy=_REMEDY,
            )
        return cls(
            category_ids=np.array(ids, dtype=np.int64),
            names=tuple(record[1] for record in records),
            frequencies=tuple(record[2] for record in records),
            image_counts=np.array([record[3] for record in records], dtype=np.int64),
            instance_counts=np.array([record[4] for record in records], dtype=np.int64),
            vocabulary=vocabulary,
            **{key: int(scalars[key]) for key in _SCALARS if key in scalars},
        )


def _record(row: Sequence[str], where: str) -> tuple[int, str, str, int, int]:
    """One checked row of the table."""
    if len(row) != len(_COLUMNS):
        raise StatisticsError(
            "a row has the wrong number of fields",
            where=where,
            found=len(row),
            expected=len(_COLUMNS),
            remedy=_REMEDY,
        )
    numbers = {}
    for column, text in zip(_COLUMNS, row, strict=True):
        if column not in ("name", "frequency"):
            if not (text.isdecimal() and text.isascii() and len(text) < 17):
                raise StatisticsError(
                    f"{column} is not a count",
                    where=where,
                    found=repr(text),
                    expected="an integer from 0",
                    remedy=_REMEDY,
                )
            numbers[column] = int(text)
    if row[2] not in ("r", "c", "f"):
        raise StatisticsError(
            "unknown frequency letter", where=where, found=repr(row[2]), expected="r, c or f", remedy=_REMEDY
        )
    if numbers["image_count"] > numbers["instance_count"]:
        raise StatisticsError(
            "more images than instances",
            where=where,
            found=f"{row[3]} images, {row[4]} instances",
            expected="at least one instance in every image that is counted",
            remedy=_REMEDY,
        )
    return numbers["id"], row[1], row[2], numbers["image_count"], numbers["instance_count"]


def class_statistics(path: Path | str) -> ClassStatistics:
    """Count the images and instances of every category of an LVIS- or COCO-format file.

    A million annotations take two seconds, nearly all in the JSON reader: the file is memory-mapped and only
    two fields of each annotation are decoded. Raises ``AnnotationError`` for a malformed file, repeated image
    or category ids and unknown ones.
    """
    return occurrences(path).statistics


def class_statistics_with_differences(path: Path | str) -> tuple[ClassStatistics, list[str]]:
    """``class_statistics`` and its differences from the file's own ``image_count``, ``instance_count`` and
    ``frequency``, in one pass over the file.

    The differences are one sentence for each of these fields, with up to three examples; missing fields are
    skipped. Differences are expected in a subset or a validation file whose fields describe the training set.
    Raises as ``class_statistics``.
    """
    counted_file = occurrences(path)
    return counted_file.statistics, differences_from_file(counted_file)


@dataclass(frozen=True, eq=False)
class Occurrences:
    """The category and the image of every annotation of a file."""

    statistics: ClassStatistics
    categories: list[Category]
    """The file's records (C,) in ascending id, so that position is the label."""
    file_order: NDArray[np.int64]
    """The labels (C,) in the order of the file's category list."""
    image_ids: NDArray[np.int64]
    """The ids of all image records in the order of the file, without repeats."""
    images: NDArray[np.int64]
    """The image of every annotation (A,), a position in ``image_ids``."""
    labels: NDArray[np.int64]
    """The label of every annotation (A,)."""


def differences_from_file(counted_file: Occurrences) -> list[str]:
    """One sentence for each field of the category records that differs from the counts."""
    statistics, categories = counted_file.statistics, counted_file.categories
    letters = [frequency_letter(int(count)) for count in statistics.image_counts]
    sentences = []
    for field, counted in (
        ("image_count", statistics.image_counts.tolist()),
        ("instance_count", statistics.instance_counts.tolist()),
        ("frequency", letters),
    ):
        values = [
            (category.name, getattr(category, field), value)
            for category, value in zip(categories, counted, strict=True)
            if getattr(category, field) is not None
        ]
        different = [f"{name} {theirs} (counted {ours})" for name, theirs, ours in values if theirs != ours]
        if different:
            more = ", ..." if len(different) > 3 else ""
            sentences.append(
                f"{field} of {len(different)} of {len(values)} categories is not that of this file: "
                f"{', '.join(different[:3])}{more}"
            )
    return sentences


def occurrences(path: Path | str) -> Occurrences:
    """Read the category and the image of every annotation; raises as ``class_statistics``."""
    content = decode_file(path, References)
    categories = sorted(content.categories, key=lambda category: category.id)
    category_ids = np.array([category.id for category in categories], dtype=np.int64)
    if len(category_ids) == 0 or (np.diff(category_ids) == 0).any():
        raise AnnotationError(
            "category ids must be there and unique",
            where=path,
            remedy="longtail check lists every problem of the file",
        )
    listed = np.array([image.id for image in content.images], dtype=np.int64)
    image_ids, first = np.unique(listed, return_index=True)
    if len(image_ids) < len(listed):
        raise AnnotationError(
            f"{len(listed) - len(image_ids)} images occur twice",
            where=path,
            expected="unique image ids",
            remedy="longtail check lists every problem of the file",
        )
    place = np.argsort(np.argsort(first))  # position of every ascending id among the ids in file order
    total = len(content.annotations)
    images = _positions(image_ids, (item.image_id for item in content.annotations), total, "image", path)
    labels = _positions(
        category_ids, (item.category_id for item in content.annotations), total, "category", path
    )
    # sorting is eight times as fast as np.unique, which hashes
    pairs = np.sort(images * len(category_ids) + labels)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    image_counts = np.bincount(pairs % len(category_ids), minlength=len(category_ids))
    statistics = ClassStatistics(
        category_ids=category_ids,
        names=tuple(category.name for category in categories),
        frequencies=tuple(
            category.frequency or frequency_letter(int(count))
            for category, count in zip(categories, image_counts, strict=True)
        ),
        image_counts=image_counts,
        instance_counts=np.bincount(labels, minlength=len(category_ids)),
        num_images=len(content.images),
        num_annotated_images=int(np.count_nonzero(np.bincount(images))),
        num_annotations=total,
        vocabulary=vocabulary_hash(categories),
    )
    in_file = np.array([category.id for category in content.categories], dtype=np.int64)
    file_order = np.searchsorted(category_ids, in_file)
    return Occurrences(statistics, categories, file_order, listed[np.sort(first)], place[images], labels)


def _positions(
    known: NDArray[np.int64], ids: object, total: int, kind: str, path: Path | str
) -> NDArray[np.int64]:
    """Positions of ``ids`` in the ascending array ``known``."""
    wanted = np.fromiter(ids, dtype=np.int64, count=total)  # type: ignore[call-overload]
    positions = np.searchsorted(known, wanted)
    missing = wanted[known[np.minimum(positions, len(known) - 1)] != wanted] if len(known) else wanted
    if len(missing):
        raise AnnotationError(
            f"annotations refer to an unknown {kind}",
            where=path,
            found=f"{kind}_id {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            expected=f"an id of the file's {len(known)} {kind} records",
            remedy="longtail check lists every problem of the file",
        )
    return positions.astype(np.int64)
