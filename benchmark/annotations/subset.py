"""Smaller annotation files with the same long tail: fewer images or categories, also of both splits together.

Images are drawn at random, so that categories keep their frequency; only categories that the draw has missed
are added. Draws order images by the SHA-256 of seed and image id, which is the same on every machine and with
every version of Python and NumPy.
"""

import difflib
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from benchmark.annotations.reading import (
    CHECK_REMEDY,
    AnnotationError,
    Category,
    Id,
    Reference,
    decode_file,
    frequency_letter,
)
from benchmark.annotations.vocabulary import Vocabulary, check_same_vocabulary
from benchmark.files import atomic_path
from benchmark.seeds import derive_seed

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


class _Image(Struct, gc=False):
    id: Id
    neg_category_ids: tuple[Id, ...] | None = None


class _Content(Struct, gc=False):
    images: list[_Image]
    annotations: list[Reference]
    categories: list[Category]


class _Records(Struct, gc=False):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """Which categories a subset has; all by default.

    ``keep`` and ``drop`` are ids or names. ``number`` of the rest are kept, spread evenly over the ranks of
    their training image counts, so that the tail keeps its shape.
    """

    number: int | None = None
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def of(self, categories: Sequence[Category], preferred: Sequence[Counter[int]]) -> set[int]:
        """The ids of the chosen categories.

        ``preferred`` are image counts by category of the files to draw from, training first: categories with
        images in all files are chosen before others. Raises ``AnnotationError`` for unknown names and for
        more categories than there are.
        """
        ids = [category.id for category in categories]
        chosen = {_category(word, categories) for word in self.keep} if self.keep else set(ids)
        chosen -= {_category(word, categories) for word in self.drop}
        number = len(chosen) if self.number is None else self.number
        if not 0 < number <= len(chosen):
            raise AnnotationError(
                "no such number of categories",
                found=number,
                expected=f"1 to {len(chosen)}, which there are to choose from",
            )
        if self.number is None:
            return chosen
        seen = [id_ for id_ in chosen if all(counts[id_] for counts in preferred)]
        pool = seen if len(seen) >= number else chosen
        ranked = sorted(pool, key=lambda id_: (preferred[0][id_], id_))
        return {ranked[(2 * rank + 1) * len(ranked) // (2 * number)] for rank in range(number)}


ALL = Choice()


class _Source:
    """An annotation file to draw from, with the chosen categories of every image."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        content = decode_file(path, _Content)
        self.categories = content.categories
        self.annotations = content.annotations
        self.listed = {image.id: image.neg_category_ids for image in content.images}
        if len(self.listed) < len(content.images):
            raise AnnotationError("image ids are not unique", where=path, remedy=CHECK_REMEDY)
        known = {category.id for category in content.categories}
        self._present: dict[int, set[int]] = {id_: set() for id_ in self.listed}
        for item in content.annotations:
            if item.image_id not in self.listed or item.category_id not in known:
                raise AnnotationError(
                    "an annotation refers to an unknown image or category",
                    where=path,
                    found=f"image_id {item.image_id}, category_id {item.category_id}",
                    remedy=CHECK_REMEDY,
                )
            self._present[item.image_id].add(item.category_id)

    def image_counts(self, images: Iterable[int] | None = None) -> Counter[int]:
        """Number of images with each category, of all images or of the given ones."""
        ids = self._present if images is None else images
        return Counter(category for id_ in ids for category in self._present[id_])

    def draw(self, number: int, chosen: set[int], seed: int, absences: bool = False) -> set[int]:
        """Draw ``number`` images that contain every chosen category with an image.

        If categories are left out, images without objects of the remaining ones are left out too; with
        ``absences``, only images that also do not verify an absence, which the evaluation needs to count
        false positives. Raises ``AnnotationError`` for too many and too few images.
        """
        whole = len(chosen) == len(self.categories)
        categories_of = {
            id_: present & chosen
            for id_, present in self._present.items()
            if whole or present & chosen or (absences and self._tells_absence(id_, chosen))
        }
        if number > len(categories_of):
            raise AnnotationError(
                "the file has fewer images" + ("" if whole else " of these categories"),
                where=self.path,
                found=len(categories_of),
                expected=f"at least {number}",
            )
        order = sorted(categories_of, key=lambda id_: derive_seed(seed, "subset", id_))
        drawn = _drawn(categories_of, order, number)
        if drawn is None:
            least = len(_cover(categories_of))
            raise AnnotationError(
                "too few images to keep one of every category",
                where=self.path,
                found=f"{number} images",
                expected=f"at least {least}",
                remedy=f"ask for {least} images or more, or for fewer categories",
            )
        return drawn

    def _tells_absence(self, image: int, chosen: set[int]) -> bool:
        """Whether an image is verified to lack one of the categories; in COCO format it lacks all categories
        without annotation."""
        absent = self.listed[image]
        return absent is None or not chosen.isdisjoint(absent)


def subset_annotations(
    source: Path | str, output: Path | str, images: int, seed: int = 0, choice: Choice = ALL
) -> str:
    """Write a subset of ``images`` images with at least one of every chosen category; returns a summary line.

    Records keep their order and every byte, except lists with categories that are left out. The categories'
    ``image_count``, ``instance_count`` and ``frequency`` are recomputed if they exist, so the letters are
    those of the subset. The least possible number of images does not depend on the seed. Raises
    ``AnnotationError`` for too small or too large a number and for a file that cannot be read.
    """
    content = _Source(source)
    chosen = choice.of(content.categories, [content.image_counts()])
    drawn = content.draw(images, chosen, seed)
    with atomic_path(output) as temporary:
        return _write(content, drawn, chosen, content.image_counts(drawn), temporary, output)


def subset_pair(
    train: Path | str,
    val: Path | str,
    train_output: Path | str,
    val_output: Path | str,
    *,
    images: int,
    val_images: int,
    seed: int = 0,
    choice: Choice = ALL,
) -> str:
    """Write subsets of a training and a validation file with the same categories; returns a summary line for
    each.

    Every category has training images and validation images if the sources have them. As in LVIS, the
    frequency letters of both files are those of the training subset, and counts are those of each file.
    Otherwise as ``subset_annotations``; also raises ``AnnotationError`` for files with different categories.
    """
    if Path(train_output).resolve() == Path(val_output).resolve():
        raise AnnotationError("both subsets go to one file", found=train_output, expected="two files")
    sources = [_Source(path) for path in (train, val)]
    check_same_vocabulary(
        Vocabulary.of(f"validation annotations {val}", sources[1].categories),
        Vocabulary.of(f"training annotations {train}", sources[0].categories),
        AnnotationError,
        remedy="take a training and a validation file of the same dataset",
    )
    chosen = choice.of(sources[0].categories, [source.image_counts() for source in sources])
    drawn = [
        source.draw(number, chosen, seed, absences=source is sources[1])
        for source, number in zip(sources, (images, val_images), strict=True)
    ]
    counts = sources[0].image_counts(drawn[0])
    with atomic_path(train_output) as first, atomic_path(val_output) as second:
        lines = [
            _write(source, kept, chosen, counts, temporary, output)
            for source, kept, temporary, output in zip(
                sources, drawn, (first, second), (train_output, val_output), strict=True
            )
        ]
    return "\n".join(lines)


def _category(word: str, categories: Sequence[Category]) -> int:
    """The id of the category with this id or name."""
    by_name = {category.name: category.id for category in categories}
    ids = {str(category.id): category.id for category in categories}
    if word in by_name or word in ids:
        return by_name.get(word, ids.get(word, -1))
    near = difflib.get_close_matches(word, by_name, n=1)
    raise AnnotationError(
        f"no category '{word}'",
        expected="the id or the name of a category",
        remedy=f"did you mean '{near[0]}'?" if near else "look at the list of categories in the file",
    )


def _drawn(categories_of: dict[int, set[int]], order: Sequence[int], number: int) -> set[int] | None:
    """The first ``number`` images of ``order``, with the fewest changes that include every category.

    None if no such set of images is found.
    """
    kept = set(order[:number])
    counts = Counter(category for id_ in kept for category in categories_of[id_])
    everything = set().union(*categories_of.values())
    missing = everything - counts.keys()
    ranked = {id_: categories_of[id_] & missing for id_ in order if categories_of[id_] & missing}
    added = _cover(ranked)
    for id_ in added:
        counts.update(categories_of[id_])
    kept |= added
    for id_ in reversed(order[:number]):
        if len(kept) == number:
            return kept
        if all(counts[category] > 1 for category in categories_of[id_]):
            kept.remove(id_)
            counts.subtract(categories_of[id_])
    if len(kept) == number:
        return kept
    # too few images to leave a choice
    cover = _cover(categories_of)
    rest = [id_ for id_ in order if id_ not in cover]
    return cover | set(rest[: number - len(cover)]) if len(cover) <= number else None


def _cover(categories_of: dict[int, set[int]]) -> set[int]:
    """Greedily chosen images that together contain every category of the file.

    Always takes the image with the most missing categories, the earlier one of equals.
    """
    missing = set().union(*categories_of.values())
    # The gain of an image never grows, so an image whose gain equals its value in the heap is the best.
    heap = [
        (-len(categories), position, id_) for position, (id_, categories) in enumerate(categories_of.items())
    ]
    heapq.heapify(heap)
    cover: set[int] = set()
    while missing:
        gain, position, id_ = heapq.heappop(heap)
        left = len(categories_of[id_] & missing)
        if left == -gain:
            cover.add(id_)
            missing -= categories_of[id_]
        else:
            heapq.heappush(heap, (-left, position, id_))
    return cover


def _write(
    source: _Source,
    drawn: set[int],
    chosen: set[int],
    training_counts: Counter[int],
    temporary: Path,
    output: Path | str,
) -> str:
    """Write the chosen part of a file to ``temporary``; returns a summary line with the path ``output``."""
    records = decode_file(source.path, _Records)
    everything = decode_file(source.path, dict[str, Raw])
    kept = [
        raw
        for raw, item in zip(records.annotations, source.annotations, strict=True)
        if item.image_id in drawn and item.category_id in chosen
    ]
    instances = Counter(item.category_id for item in source.annotations if item.image_id in drawn)
    image_counts = source.image_counts(drawn)
    categories = [category for category in records.categories if category["id"] in chosen]
    for category in categories:
        values = {
            "image_count": image_counts[category["id"]],
            "instance_count": instances[category["id"]],
            "frequency": frequency_letter(training_counts[category["id"]]),
        }
        category.update({field: value for field, value in values.items() if field in category})
    images = [raw for raw, id_ in zip(records.images, source.listed, strict=True) if id_ in drawn]
    if len(chosen) < len(source.categories):
        images = [_with_chosen_categories(raw, chosen) for raw in images]
    lists: dict[str, list[Any]] = {"images": images, "annotations": kept, "categories": categories}
    temporary.write_bytes(msgspec.json.encode({**everything, **lists}))
    with_images = sum(1 for id_ in chosen if image_counts[id_])
    return (
        f"{output}: {len(images)} of {len(source.listed)} images, {len(kept)} of {len(source.annotations)} "
        f"annotations, {with_images} categories with an image"
    )


def _with_chosen_categories(raw: Raw, chosen: set[int]) -> Raw:
    """An image record whose lists contain only chosen categories."""
    record = msgspec.json.decode(raw)
    for field in _FEDERATED:
        if isinstance(record.get(field), list):
            record[field] = [id_ for id_ in record[field] if id_ in chosen]
    return Raw(msgspec.json.encode(record))
