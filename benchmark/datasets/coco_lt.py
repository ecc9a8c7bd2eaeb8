"""COCO-LT from COCO: annotations drawn down to the published number of every category.

SimCal released neither its file nor the code that drew it. The index of its images shows that single
annotations were drawn, not images, that the largest categories kept all, and that images without remaining
annotations were dropped. So unlabelled objects of reduced categories stay visible, and results are only
roughly comparable.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

from benchmark.annotations import AnnotationError, Vocabulary, check_same_vocabulary
from benchmark.annotations.reading import CHECK_REMEDY, References, decode_file
from benchmark.datasets.errors import DatasetError
from benchmark.files import atomic_path
from benchmark.seeds import derive_seed
from benchmark.statistics import ClassStatistics


class _Records(Struct, gc=False):
    images: list[Raw]
    annotations: list[Raw]
    categories: Raw
    licenses: Raw = Raw(b"[]")
    info: dict[str, Any] = {}


def rebuild_coco_lt(source: Path, counts: ClassStatistics, output: Path, seed: int) -> str:
    """Draw ``counts.instance_counts`` annotations of every category, uniformly, each at most once.

    ``source`` is COCO's ``instances_train2017.json``. Crowd regions count, as in the published numbers. The
    draw of a category depends only on the seed and its id; records keep their order and every byte, and
    ``info`` names the seed. Needs memory for the source and 0.3 kB per annotation. Returns a summary line.
    Raises ``DatasetError`` if the source has other categories or too few annotations, ``AnnotationError`` if
    it cannot be read.
    """
    content = decode_file(source, References)
    check_same_vocabulary(
        Vocabulary.of(f"annotations {source}", content.categories),
        counts.as_vocabulary("the table of counts"),
        DatasetError,
        remedy="give COCO's instances_train2017.json",
    )
    total = len(content.annotations)
    images = np.fromiter((item.image_id for item in content.annotations), np.int64, total)
    categories = np.fromiter((item.category_id for item in content.annotations), np.int64, total)
    image_ids = np.array([image.id for image in content.images], np.int64)
    if not np.isin(images, image_ids).all():
        raise AnnotationError("annotations refer to an unknown image", where=source, remedy=CHECK_REMEDY)
    kept = _drawn(categories, counts, source, seed)
    with_annotation = np.isin(image_ids, images[kept])
    del content
    description = f"COCO-LT, drawn from {source.name} to the published counts with seed {seed}"
    _write(output, decode_file(source, _Records), with_annotation, kept, description)
    return (
        f"rebuilt from {source.name} with seed {seed}: {int(kept.sum())} of {total} annotations, "
        f"{int(with_annotation.sum())} of {len(image_ids)} images"
    )


def _drawn(
    categories: NDArray[np.int64], counts: ClassStatistics, source: Path, seed: int
) -> NDArray[np.bool_]:
    """Which annotations are drawn, (N,), from the category id of each, (N,)."""
    drawn = np.zeros(len(categories), bool)
    for id_, name, wanted in zip(
        counts.category_ids.tolist(), counts.names, counts.instance_counts.tolist(), strict=True
    ):
        rows = np.flatnonzero(categories == id_)
        if len(rows) < wanted:
            raise DatasetError(
                "too few annotations to draw from",
                where=source,
                found=f"{len(rows)} of {name}",
                expected=f"at least {wanted}",
                remedy="give COCO's complete instances_train2017.json",
            )
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "coco_lt", id_)))
        drawn[generator.choice(rows, wanted, replace=False)] = True
    return drawn


def _write(
    output: Path,
    records: _Records,
    images: NDArray[np.bool_],
    annotations: NDArray[np.bool_],
    description: str,
) -> None:
    """Write the records that the masks ``images`` and ``annotations`` choose, their bytes unchanged."""
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        file.write(b'{"info": ' + msgspec.json.encode({**records.info, "description": description}))
        file.write(b', "licenses": ' + bytes(records.licenses))
        file.write(b', "categories": ' + bytes(records.categories))
        for name, raws, mask in (
            ("images", records.images, images),
            ("annotations", records.annotations, annotations),
        ):
            file.write(f', "{name}": ['.encode())
            separator = b"\n"
            for position in np.flatnonzero(mask).tolist():
                file.write(separator + bytes(raws[position]))
                separator = b",\n"
            file.write(b"\n]")
        file.write(b"}\n")
