"""A smaller annotation file that still has every category."""

import heapq
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw, Struct

from benchmark.annotations.reading import (
    CHECK_REMEDY,
    AnnotationError,
    References,
    decode_file,
    frequency_letter,
)
from benchmark.files import atomic_path
from benchmark.seeds import derive_seed


class _Records(Struct, gc=False):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[dict[str, Any]]


def subset_annotations(source: Path | str, output: Path | str, images: int, seed: int) -> str:
    """Write ``images`` images, at least one of every category that has one; returns one line about it.

    A greedy cover (always the image with the most categories still missing, the earlier one among equals)
    gives the images that must stay, the others are drawn with the seed; so the least possible number does not
    depend on the seed. Records keep their order and every byte; the categories' ``image_count``,
    ``instance_count`` and ``frequency`` are recomputed where they exist, so the letters of a subset speak of
    the subset.
    Raises ``AnnotationError`` for too small or too large a number and for a file that cannot be read.
    """
    content = decode_file(source, References)
    records = decode_file(source, _Records)
    everything = decode_file(source, dict[str, Raw])
    ids = [image.id for image in content.images]
    annotations = content.annotations
    if len(set(ids)) < len(ids):
        raise AnnotationError("image ids are not unique", where=source, remedy=CHECK_REMEDY)
    if images > len(ids):
        raise AnnotationError(
            "the file has fewer images", where=source, found=len(ids), expected=f"at least {images}"
        )
    categories_of: dict[int, set[int]] = {id_: set() for id_ in ids}
    known = {category.id for category in content.categories}
    for annotation in annotations:
        if annotation.image_id not in categories_of or annotation.category_id not in known:
            raise AnnotationError(
                "an annotation refers to an unknown image or category",
                where=source,
                found=f"image_id {annotation.image_id}, category_id {annotation.category_id}",
                remedy=CHECK_REMEDY,
            )
        categories_of[annotation.image_id].add(annotation.category_id)

    kept = _cover(categories_of)
    if images < len(kept):
        raise AnnotationError(
            "too few images to keep one of every category",
            where=source,
            found=f"{images} images",
            expected=f"at least {len(kept)}",
            remedy=f"ask for {len(kept)} images or more",
        )
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "subset", images)))
    others = [id_ for id_ in categories_of if id_ not in kept]
    kept |= {others[int(index)] for index in generator.choice(len(others), images - len(kept), replace=False)}

    instances = Counter(annotation.category_id for annotation in annotations if annotation.image_id in kept)
    image_counts = Counter(category for id_ in kept for category in categories_of[id_])
    for category in records.categories:
        count = image_counts[category["id"]]
        values = {
            "image_count": count,
            "instance_count": instances[category["id"]],
            "frequency": frequency_letter(count),
        }
        category.update({field: value for field, value in values.items() if field in category})
    lists: dict[str, list[Any]] = {
        "images": [raw for raw, id_ in zip(records.images, ids, strict=True) if id_ in kept],
        "annotations": [
            raw for raw, item in zip(records.annotations, annotations, strict=True) if item.image_id in kept
        ],
        "categories": records.categories,
    }
    with atomic_path(output) as temporary:
        temporary.write_bytes(msgspec.json.encode({**everything, **lists}))
    return (
        f"{output}: {images} of {len(ids)} images, {len(lists['annotations'])} of {len(annotations)} "
        f"annotations, {len(image_counts)} categories with an image"
    )


def _cover(categories_of: dict[int, set[int]]) -> set[int]:
    """Images that together show every category that any of them shows, chosen greedily."""
    missing = set().union(*categories_of.values())
    # An image's gain only shrinks, so one whose gain is still what the heap says is the best there is.
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
