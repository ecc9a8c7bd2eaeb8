"""Files of all supported formats are read equally; malformed ones are reported and never trusted."""

import gzip
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from benchmark.annotations import (
    Annotation,
    AnnotationError,
    Image,
    annotation_rle,
    frequency_letter,
    read_annotations,
    resolve_image,
)
from benchmark.errors import BenchmarkError

REAL = Path("tests/data/lvis_val_100.json")


def annotation(segmentation: object, **fields: object) -> Annotation:
    record = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": segmentation}
    return msgspec.json.decode(json.dumps(record | fields).encode(), type=Annotation)


def test_the_real_file_is_read_completely():
    file = read_annotations(REAL)
    content = json.loads(REAL.read_text())
    assert (len(file.images), len(file.annotations), len(file.categories)) == (100, 977, 1230)
    assert file.category_ids.tolist() == list(range(1, 1231))
    assert file.category_ids.dtype == np.int64
    assert file.info == content["info"]
    groups = file.annotations_by_image()
    assert sum(map(len, groups.values())) == 977
    first = content["annotations"][0]
    assert groups[first["image_id"]][0].shape() == first["segmentation"]
    assert groups[first["image_id"]][0].bbox == tuple(first["bbox"])


def test_masks_of_the_real_file_equal_those_of_the_official_api():
    file = read_annotations(REAL)
    sizes = {image.id: (image.height, image.width) for image in file.images}
    for item in file.annotations[:200]:
        height, width = sizes[item.image_id]
        theirs = mask_utils.merge(mask_utils.frPyObjects(item.shape(), height, width))
        assert annotation_rle(item, height, width) == theirs


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 6))
def test_run_length_codes_survive_in_both_spellings(pixels, width):
    height = len(pixels)
    mask = np.asfortranarray(np.array([pixels] * width, dtype=np.uint8).T)
    mask[:, ::2] = 1 - mask[:, ::2]
    code = mask_utils.encode(mask)
    compressed = {"size": [height, width], "counts": code["counts"].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.r_[0, flat])) if len(flat) else []
    runs = np.diff([0, *edges, len(flat)]).tolist()
    for segmentation in (compressed, {"size": [height, width], "counts": runs}):
        assert np.array_equal(
            mask_utils.decode(annotation_rle(annotation(segmentation), height, width)), mask
        )


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 2, 3, 4]],  # pycocotools would take four numbers for a box
        [[1, 2, 3, 4, 5]],
        [[0, 0, 1e9, 0, 5, 5]],
        "polygon",
        {"size": [10, 10], "counts": [50, 51]},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": [10, 10], "counts": "zzzz"},
        {"size": [10, 10], "counts": "no such code"},
        {"size": [10, 10], "counts": [-1, 101]},
    ],
)
def test_segmentations_that_native_code_would_misread_are_refused(segmentation):
    with pytest.raises(AnnotationError, match="annotation 7"):
        annotation_rle(annotation(segmentation), 10, 10)


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco() -> dict:
    return {
        "images": [{"id": 9, "width": 20, "height": 10, "file_name": "a.jpg"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 9,
                "category_id": 18,
                "bbox": [1, 1, 4, 4],
                "area": 16,
                "iscrowd": 1,
                "segmentation": {"size": [10, 20], "counts": [11, 4, 185]},
            }
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "person"}],
    }


def test_coco_files_are_read_too(tmp_path):
    file = read_annotations(write(tmp_path, coco()))
    assert file.category_ids.tolist() == [1, 18]
    assert file.categories[1].frequency is None
    assert file.annotations[0].iscrowd == 1
    assert mask_utils.area(annotation_rle(file.annotations[0], 10, 20)) == 4


def broken() -> dict[str, tuple[object, str]]:
    def change(*keys, value):
        content = coco()
        target = content
        for key in keys[:-1]:
            target = target[key]
        if value is None:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value
        return content

    whole = json.dumps(coco())
    return {
        "truncated": (whole[:-40], r"byte \d+ \(end of file\)"),
        "empty": ("", "empty"),
        "malformed": (whole.replace(":", "=", 1), "byte 9"),
        "results": ("[]", "a list, such as results are"),
        "not_an_object": ("7", "a single value"),
        "image_info": ('{"images": [], "categories": []}', r"no annotations, but categories, images"),
        "nan": (whole.replace("[1, 1, 4", "[NaN, 1, 4"), "byte"),
        "deep": ('{"info": ' + "[" * 100_000, "JSON"),
        "no_list": (change("annotations", value=None), "no annotations, but categories, images"),
        "wrong_type": (change("annotations", 0, "image_id", value="9"), r"annotations\[0\]\.image_id"),
        "short_box": (change("annotations", 0, "bbox", value=[1, 2, 3]), r"annotations\[0\]\.bbox"),
        "huge_id": (change("images", 0, "id", value=2**70), r"images\[0\]\.id"),
        "huge_image": (change("images", 0, "width", value=10**12), r"images\[0\]\.width"),
        "unknown_image": (change("annotations", 0, "image_id", value=8), "image_id 8"),
        "unknown_category": (change("annotations", 0, "category_id", value=2), "category_id 2"),
        "repeated_category": (change("categories", 1, "id", value=18), "category id 18"),
        "no_category": (change("categories", value=[]) | {"annotations": []}, "at least one"),
    }


@pytest.mark.parametrize("name", broken())
def test_malformed_files_are_one_message_that_says_where(tmp_path, name):
    content, message = broken()[name]
    path = write(tmp_path, content)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = write(tmp_path, coco())
    plain = read_annotations(path)
    with_mark = tmp_path / "marked.json"
    with_mark.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = read_annotations(with_mark)
    assert (marked.images, marked.categories) == (plain.images, plain.categories)
    segmentations = [[bytes(item.segmentation) for item in file.annotations] for file in (plain, marked)]
    assert segmentations[0] == segmentations[1]


def test_a_file_of_another_kind_says_what_it_is_and_what_to_do(tmp_path):
    path = write(tmp_path, coco())
    text = path.read_text()
    for content, parts in (
        (gzip.compress(text.encode()), ["gzip", "gunzip"]),
        (text.encode("utf-16"), ["UTF-16", "iconv"]),
        (b"<!DOCTYPE html><html></html>", ["web page"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
        (text.replace('"name": "', '"name": "\xe9').encode("latin-1"), ["byte 0xe9", "iconv -f LATIN1"]),
    ):
        path.write_bytes(content)
        with pytest.raises(AnnotationError) as caught:
            read_annotations(path)
        assert all(part in str(caught.value) for part in [*parts, str(path)])


def test_an_unreadable_path_is_no_traceback(tmp_path):
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(BenchmarkError):
            read_annotations(path)


def test_images_are_found_under_every_release_layout(tmp_path):
    layouts = {
        "COCO_val2014_000000000001.jpg": Image(1, 5, 5, "COCO_val2014_000000000001.jpg"),
        "000000000002.jpg": Image(2, 5, 5, "COCO_val2014_000000000002.jpg"),
        "train2017/000000000003.jpg": Image(3, 5, 5, None, "http://x.org/train2017/000000000003.jpg"),
        "val2017/000000000004.jpg": Image(
            4, 5, 5, "COCO_val2014_000000000004.jpg", "http://x.org/val2017/000000000004.jpg"
        ),
        "000000000005.jpg": Image(5, 5, 5, None, "http://x.org/val2017/000000000005.jpg"),
    }
    for name, image in layouts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with pytest.raises(AnnotationError, match=f"image {image.id}") as caught:
            resolve_image(image, tmp_path)
        assert str(path) in str(caught.value)
        path.touch()
        assert resolve_image(image, tmp_path) == path


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "a\0b"]
)
def test_file_names_cannot_leave_the_image_folder(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(AnnotationError, match="out of the image folder"):
        resolve_image(Image(1, 5, 5, name), tmp_path / "images")
    with pytest.raises(AnnotationError, match=r"image folder|names no file"):
        resolve_image(Image(1, 5, 5, None, "http://x.org/" + name), tmp_path / "images")


@pytest.mark.parametrize("image", [Image(1, 5, 5, None, "http://[x/a.jpg"), Image(1, 5, 5, "x" * 5000)])
def test_names_that_the_system_refuses_are_images_that_are_missing(tmp_path, image):
    with pytest.raises(AnnotationError, match="image 1"):
        resolve_image(image, tmp_path)


@pytest.mark.parametrize(("count", "letter"), [(0, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f")])
def test_frequency_letters_change_at_the_official_edges(count, letter):
    assert frequency_letter(count) == letter
