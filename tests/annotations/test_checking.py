"""``check_annotations`` finds every planted defect, all at once, and nothing in sound files."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from benchmark.annotations import (
    AnnotationError,
    Problem,
    annotation_rle,
    check_annotations,
    read_annotations,
    resolve_image,
)

REAL = Path("tests/data/lvis_val_100.json")


@pytest.fixture(scope="module")
def sound() -> dict:
    """Three categories with one image and one annotation each, and all counts right."""
    ids = (1, 2, 3, 4)
    return {
        "info": {},
        "images": [
            {"id": i, "width": 100, "height": 80, "file_name": f"{i}.jpg", "neg_category_ids": [i % 4 + 1]}
            | {"not_exhaustive_category_ids": []}
            for i in ids
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i, "bbox": [10, 10, 20, 30], "area": 600}
            | {"segmentation": [[10, 10, 30, 10, 30, 40, 10, 40]]}
            for i in ids
        ],
        "categories": [
            {"id": i, "name": f"n{i}", "frequency": "r", "image_count": 1, "instance_count": 1} for i in ids
        ],
    }


def check(tmp_path: Path, content: dict, images: Path | None = None) -> list[Problem]:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    return check_annotations(path, images)


def test_a_sound_file_has_no_problem(tmp_path, sound):
    assert check(tmp_path, sound) == []


def test_the_real_file_shows_only_the_boxes_of_its_three_rotated_images():
    """In images 179898, 443426 and 464824 every box lies elsewhere than its polygon: a defect of the release.
    That the counts are those of 100 images and the letters those of the training set is none."""
    problems = check_annotations(REAL)
    assert [problem.id for problem in problems] == [*range(448, 454), *range(579, 586)]
    assert {(problem.record, problem.field) for problem in problems} == {("annotation", "bbox")}


DEFECTS = [
    (("images", 1, "id"), 1, ("image", 1, "id")),
    (("annotations", 1, "id"), 1, ("annotation", 1, "id")),
    (("categories", 1, "id"), 1, ("category", 1, "id")),
    (("annotations", 0, "image_id"), 99, ("annotation", 1, "image_id")),
    (("annotations", 0, "category_id"), 1204, ("annotation", 1, "category_id")),
    (("annotations", 0, "bbox"), [10, 10, 0, 30], ("annotation", 1, "bbox")),
    (("annotations", 0, "bbox"), [10, 10, 20, -30], ("annotation", 1, "bbox")),
    (("annotations", 0, "bbox"), [90, 10, 20, 30], ("annotation", 1, "bbox")),
    (("annotations", 0, "bbox"), [float("nan"), 10, 20, 30], ("annotation", 1, "bbox.0")),
    (("annotations", 0, "bbox"), [10, 10, 20, float("inf")], ("annotation", 1, "bbox.3")),
    (("annotations", 0, "bbox"), [10, 10, 20], ("annotation", 1, "bbox")),
    (("annotations", 0, "bbox"), [60, 10, 20, 30], ("annotation", 1, "bbox")),
    (("annotations", 0, "area"), 0, ("annotation", 1, "area")),
    (("annotations", 0, "area"), 5000, ("annotation", 1, "area")),
    (("annotations", 0, "segmentation"), [], ("annotation", 1, "segmentation")),
    (("annotations", 0, "segmentation"), [[1, 2, 3, 4]], ("annotation", 1, "segmentation")),
    (("annotations", 0, "segmentation"), [[10, 10, 30, 10, 30, 90]], ("annotation", 1, "segmentation")),
    (("annotations", 0, "segmentation"), "x", ("annotation", 1, "segmentation")),
    (("annotations", 0, "segmentation"), {"size": [5, 5], "counts": [25]}, ("annotation", 1, "segmentation")),
    (("annotations", 0, "id"), "one", ("annotation[0]", None, "id")),
    (("annotations", 0, "id"), 0, ("annotation", 0, "id")),
    (("annotations", 0, "area"), -1, ("annotation", 1, "area")),
    (("annotations", 0, "area"), None, ("annotation", 1, "area")),
    (("annotations", 0, "iscrowd"), 1, ("annotation", 1, "iscrowd, ignore")),
    (("annotations", 0, "iscrowd"), True, ("annotation", 1, "iscrowd")),
    (("annotations", 0, "ignore"), 1, ("annotation", 1, "iscrowd, ignore")),
    (("annotations", 0, "segmentation"), None, ("annotation", 1, "segmentation")),
    (("annotations", 0, "segmentation"), [[]], ("annotation", 1, "segmentation")),
    (("images", 0, "neg_category_ids"), None, ("image", 1, "neg_category_ids")),
    (("categories", 0, "frequency"), None, ("category", 1, "frequency")),
    (("categories", 0, "name"), "n2", ("category", 1, "name")),
    (("categories", 0, "name"), "", ("category", 1, "name")),
    (("annotations", 0, "id"), 2**80, ("annotation", 2**80, "id")),
    (("images", 0, "neg_category_ids"), [77], ("image", 1, "neg_category_ids")),
    (("images", 0, "neg_category_ids"), [1], ("image", 1, "neg_category_ids")),
    (("images", 0, "not_exhaustive_category_ids"), [77], ("image", 1, "not_exhaustive_category_ids")),
    (("images", 0, "file_name"), "../1.jpg", ("image", 1, "file_name")),
    (("images", 0, "file_name"), "/1.jpg", ("image", 1, "file_name")),
    (("images", 0, "width"), 0, ("image", 1, "width")),
    (("categories", 0, "image_count"), 5, ("category", 1, "image_count")),
    (("categories", 0, "instance_count"), 5, ("category", 1, "instance_count")),
    (("categories", 0, "frequency"), "x", ("category", 1, "frequency")),
]


@pytest.mark.parametrize(("place", "value", "expected"), DEFECTS)
def test_a_planted_defect_is_found_and_named(tmp_path, sound, place, value, expected):
    content = copy.deepcopy(sound)
    content[place[0]][place[1]][place[2]] = value
    problems = check(tmp_path, content)
    assert expected in [(problem.record, problem.id, problem.field) for problem in problems]
    for problem in problems:
        assert {"what", "record", "id", "field", "found", "expected", "severity"} <= set(problem.as_dict())
        assert problem.field in str(problem)
        assert json.dumps(problem.as_dict())


def test_all_defects_are_reported_at_once(tmp_path, sound):
    content = copy.deepcopy(sound)
    del content["annotations"][0]["bbox"]
    content["annotations"][1]["bbox"] = [1, 1, float("nan"), 1]
    content["annotations"][2]["image_id"] = 50
    content["images"][3]["file_name"] = "../x"
    found = {(problem.record, problem.id) for problem in check(tmp_path, content)}
    assert {("annotation", 1), ("annotation", 2), ("annotation", 3), ("image", 4)} <= found


def test_two_pixels_of_rounding_are_no_defect(tmp_path, sound):
    content = copy.deepcopy(sound)
    content["annotations"][0] |= {"bbox": [-1, 10, 31, 30], "segmentation": [[-1, 10, 30, 10, 30, 40]]}
    assert check(tmp_path, content) == []


def test_a_wrong_letter_is_found_among_right_ones_and_only_there(tmp_path, sound):
    content = copy.deepcopy(sound)
    content["images"] *= 3
    content["images"] = [
        image | {"id": i, "neg_category_ids": []} for i, image in enumerate(content["images"])
    ]
    content["annotations"] = [
        item | {"id": 100 * item["id"] + i, "image_id": i}
        for item in content["annotations"]
        for i in range(12)
    ]
    for category in content["categories"]:
        category |= {"frequency": "c", "image_count": 12, "instance_count": 12}
    assert check(tmp_path, content) == []
    content["categories"][2]["frequency"] = "f"
    (problem,) = check(tmp_path, content)
    assert (problem.record, problem.id, problem.field) == ("category", 3, "frequency")
    for category in content["categories"]:
        category["frequency"] = "f"
    assert check(tmp_path, content) == []


def test_counts_of_another_file_are_not_held_against_this_one(tmp_path, sound):
    content = copy.deepcopy(sound)
    for category in content["categories"]:
        category |= {"frequency": "f", "image_count": 2000, "instance_count": 5000}
    assert check(tmp_path, content) == []


def test_missing_image_files_are_named(tmp_path, sound):
    for i in (1, 2, 4):
        Picture.new("RGB", (100, 80)).save(tmp_path / f"{i}.jpg")
    (problem,) = check(tmp_path, sound, tmp_path)
    assert (problem.record, problem.id) == ("image", 3)
    assert "3.jpg" in problem.found


def test_unusable_file_names_hide_no_other_problem(tmp_path, sound):
    content = copy.deepcopy(sound)
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://[x/a.jpg"
    content["images"][1]["file_name"] = "x" * 5000
    found = {(problem.id, problem.field) for problem in check(tmp_path, content, tmp_path)}
    assert found == {(1, "coco_url"), (2, "file_name"), (3, "file_name"), (4, "file_name")}


def test_a_file_without_categories_is_not_sound(tmp_path):
    """No other command takes it, and all of them send their user here."""
    (problem,) = check(tmp_path, {"images": [], "annotations": [], "categories": []})
    assert problem.field == "categories"


def test_mixed_versions_are_recognised(tmp_path):
    content = json.loads(REAL.read_text())
    content["annotations"] = []
    content["categories"][0]["name"] = "aerosol_can"
    problems = check(tmp_path, content)
    assert {problem.field for problem in problems if problem.record == "file"} == {"categories", "images"}


def test_a_file_without_masks_is_sound_but_a_single_missing_mask_is_not(tmp_path, sound):
    content = copy.deepcopy(sound)
    del content["annotations"][0]["segmentation"]
    assert [problem.field for problem in check(tmp_path, content)] == ["segmentation"]
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    assert check(tmp_path, content) == []


def test_unseen_categories_do_not_make_counts_of_another_file_ours(tmp_path, sound):
    content = copy.deepcopy(sound)
    for category in content["categories"]:
        category |= {"image_count": 7, "instance_count": 9}
    content["categories"] += [
        {"id": i, "name": f"n{i}", "frequency": "r", "image_count": 0, "instance_count": 0}
        for i in range(5, 50)
    ]
    assert check(tmp_path, content) == []


@pytest.mark.parametrize("cut", [1, 1000, 300_000])
def test_a_truncated_file_is_an_error_not_a_list(tmp_path, cut):
    path = tmp_path / "file.json"
    path.write_bytes(REAL.read_bytes()[:-cut])
    with pytest.raises(AnnotationError, match="ends in the middle"):
        check_annotations(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
FIELDS = ["id", "image_id", "category_id", "bbox", "area", "segmentation", "width", "file_name", "coco_url"]
FIELDS += ["neg_category_ids", "frequency", "image_count", "name", "iscrowd"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 3), st.sampled_from(FIELDS), JSON
)
def test_no_value_makes_checking_or_reading_fail_otherwise(tmp_path, sound, list_, position, field, value):
    content = copy.deepcopy(sound)
    content[list_][position][field] = value
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    for problem in check_annotations(path):
        assert json.dumps(problem.as_dict())
        assert str(problem)
    try:
        file = read_annotations(path)
        for annotation in file.annotations:
            annotation_rle(annotation, 80, 100)
        for image in file.images:
            resolve_image(image, tmp_path)
    except AnnotationError:
        pass
