"""Every annotation file, however hostile, leads to a result or to one clear error."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import statistics_of

from benchmark.annotations import annotation_rle, check_annotations, read_annotations, subset_annotations
from benchmark.datasets.coco_lt import rebuild_coco_lt
from benchmark.errors import BenchmarkError
from benchmark.statistics import class_statistics


def masks(path: Path) -> None:
    file = read_annotations(path)
    sizes = {image.id: (image.height, image.width) for image in file.images}
    for item in file.annotations:
        annotation_rle(item, *sizes[item.image_id])


READERS: dict[str, Callable[[Path], object]] = {
    "read": read_annotations,
    "check": check_annotations,
    "count": class_statistics,
    "masks": masks,
    "subset": lambda path: subset_annotations(path, path.with_name("out.json"), 1, 0),
    "coco_lt": lambda path: rebuild_coco_lt(path, statistics_of([1]), path.with_name("out.json"), 0),
}
SIDE = 100_000  # pixels, the largest that an image record may claim


def whole(**changes: object) -> str:
    """A valid file with values replaced; ``annotation`` and ``image`` are merged into the only record."""
    image = {"id": 1, "width": 8, "height": 8, "file_name": "a.jpg"} | changes.pop("image", {})
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
    annotation |= {"segmentation": [[0, 0, 4, 0, 4, 4]]} | changes.pop("annotation", {})
    content = {
        "images": [image],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "category_1"}],
    }
    return json.dumps(content | changes)


def rle(counts: object, side: int = 8) -> str:
    segmentation = {"size": [side, side], "counts": counts}
    return whole(image={"width": side, "height": side}, annotation={"segmentation": segmentation})


SOUND = whole()
# (content, readers that must refuse it: the others do not look at what is wrong)
CASES: dict[str, tuple[str | bytes, set[str]]] = {
    "empty": ("", set(READERS)),
    "zeros": (b"\0" * 10_000, set(READERS)),
    "no_text": (b"\xff\xfe\xfd", set(READERS)),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os", set(READERS)),
    "truncated": (SOUND[:-30], set(READERS)),
    "half_a_letter": (SOUND.replace("category_1", "categ").encode()[:-5] + b"\xc3", set(READERS)),
    "trailing": (SOUND + "{}", set(READERS)),
    "nan": (SOUND.replace("16", "NaN"), set(READERS)),
    "nan_and_no_lists": ('{"images": NaN}', set(READERS)),
    "nan_and_a_huge_number": (SOUND.replace("16", "NaN").replace("8", str(2**70)), set(READERS)),
    "nan_and_half_a_pair": (SOUND.replace("16", "NaN").replace("a.jpg", "\\ud800"), set(READERS)),
    "nan_and_deep": (SOUND[:-1] + ', "info": NaN, "x": ' + "[" * 900 + "]" * 900 + "}", set(READERS)),
    "infinite": (SOUND.replace("16", "1e999"), {"read", "masks"}),
    "many_digits": (SOUND.replace("16", "9" * 100_000), {"read", "masks"}),
    "deep": (SOUND[:-1] + ', "x": ' + "[" * 10**6, set(READERS)),
    "deep_objects": (SOUND[:-1] + ', "x": ' + '{"a":' * 10**6, set(READERS)),
    "deep_and_complete": (SOUND[:-1] + ', "x": ' + "[" * 10**6 + "]" * 10**6 + "}", set(READERS)),
    "deep_segmentation": (SOUND.replace("[[0, 0", "[" * 10**5), set(READERS)),
    "image_out_of_range": (whole(annotation={"image_id": 2**63}), set(READERS)),
    "category_out_of_range": (whole(annotation={"category_id": 2**64}), set(READERS)),
    "negative_category": (whole(annotation={"category_id": -1}), set(READERS)),
    "unknown_category": (
        whole(annotation={"category_id": 2}),
        {"read", "count", "masks", "subset", "coco_lt"},
    ),
    "huge_id": (whole(categories=[{"id": 2**200, "name": "category_1"}]), set(READERS)),
    "fraction": (whole(annotation={"image_id": 1.5}), set(READERS)),
    "counts_beyond_every_integer": (rle([10**30]), {"masks"}),
    "counts_beyond_the_image": (rle([2**62, 2**62]), {"masks"}),
    "counts_that_wrap_around": (rle([2**32 + 64]), {"masks"}),
    "counts_in_an_endless_number": (rle("o" * 5_000_000 + "0"), {"masks"}),
    "counts_that_grow": (rle("P" * 100_000), {"masks"}),
    "an_image_of_too_many_pixels": (rle([SIDE * SIDE], SIDE), {"masks"}),
    "a_polygon_in_too_many_pixels": (
        whole(image={"width": SIDE, "height": SIDE}, annotation={"segmentation": [[0, 0, SIDE, 0, 5, SIDE]]}),
        {"masks"},
    ),
    "an_endless_polygon": (
        whole(
            image={"width": 9999, "height": 9999}, annotation={"segmentation": [[0, 0, 9e3, 9e3] * 10_000]}
        ),
        {"masks"},
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_refused_by_whoever_looks_at_what_is_wrong(tmp_path, case, reader):
    content, refusing = CASES[case]
    path = tmp_path / "file.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused, listed = False, None
    try:
        listed = READERS[reader](path)
    except BenchmarkError:
        refused = True
    # checking lists the defects of records, and refuses what has none
    assert refused or listed if reader == "check" else refused == (reader in refusing)
    if reader in refusing:
        assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_are_refused_at_once(tmp_path, reader):
    """Opening a pipe would wait forever for a writer."""
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/null"), tmp_path):
        with pytest.raises(BenchmarkError, match=str(path)):
            READERS[reader](path)
