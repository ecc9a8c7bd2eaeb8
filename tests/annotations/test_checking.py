"""``check_annotations`` reports every planted defect, all at once, and nothing for valid files."""

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
    check_dataset,
    counted,
    problems_text,
    read_annotations,
)
from benchmark.annotations.problems import LIMIT
from benchmark.errors import BenchmarkError
from benchmark.evaluation.ground_truth import read_ground_truth
from benchmark.statistics import class_statistics

LISTS = ["neg_category_ids", "not_exhaustive_category_ids"]
REAL = Path("tests/data/lvis_val_100.json")


@pytest.fixture(scope="module")
def sound() -> dict:
    """A valid file with three categories, each with one image and one annotation, and correct counts."""
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
    """In images 179898, 443426 and 464824 of the release no box matches its polygon.

    Counts that are those of these 100 images, and frequency letters of the training set, are no defect.
    """
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
    """Every other command refuses such a file, and refers to ``longtail check``."""
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


FIELDS += ["ignore", "not_exhaustive_category_ids", "instance_count", "height"]


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 3), st.sampled_from(FIELDS), JSON
)
def test_what_has_no_error_is_refused_by_nobody(tmp_path, sound, list_, position, field, value):
    """No value makes the check fail, or makes a reader fail with anything but one clear error."""
    content = copy.deepcopy(sound)
    content[list_][position][field] = value
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    problems = check_annotations(path)
    for problem in problems:
        assert json.dumps(problem.as_dict())
        assert str(problem)
    errors = [problem for problem in problems if problem.severity == "error"]
    try:
        file = read_annotations(path)
        for annotation in file.annotations:
            annotation_rle(annotation, 80, 100)
        for image in file.images:
            assert image.relative_path
        class_statistics(path)
        truth = read_ground_truth(path)
        truth.check_masks()
    except BenchmarkError:
        assert errors


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["images", "annotations"]),
            st.integers(0, 3),
            st.sampled_from(
                [
                    *(
                        ("bbox", [x, y, w, h])
                        for x in (-5, 90)
                        for y in (10,)
                        for w in (-1, 0, 4)
                        for h in (0, 9)
                    ),
                    *(("area", value) for value in (None, -1, 0, 1e9)),
                    *(("segmentation", value) for value in (None, [], [[]], [[0, 0, 5, 5]])),
                    *(("segmentation", [[0, 0, x, 0, x, 9]]) for x in (101, 150, 400)),
                    *(("segmentation", {"size": [80, 100], "counts": runs}) for runs in ([8000], [7], "12")),
                    *((flag, 1) for flag in ("iscrowd", "ignore")),
                    *(("id", value) for value in (0, 2)),
                    *((field, value) for field in LISTS for value in (None, [9], [1, 2])),
                ]
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    drop=st.sampled_from([None, "federated", "frequency", "segmentation"]),
)
def test_what_the_evaluation_refuses_is_an_error(tmp_path, sound, changes, drop):
    """One or several faults together, in the LVIS and the COCO format, with and without masks."""
    content = copy.deepcopy(sound)
    for record in [*content["images"], *content["categories"], *content["annotations"]]:
        for field in LISTS if drop == "federated" else [drop]:
            record.pop(field, None)
    for list_, position, (field, value) in changes:
        content[list_][position][field] = value
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    errors = [problem for problem in check_annotations(path) if problem.severity == "error"]
    try:
        truth = read_ground_truth(path)
        if truth.masks:
            truth.check_masks()
    except BenchmarkError:
        assert errors
    else:
        assert not errors


@pytest.mark.parametrize(
    ("place", "value", "found", "expected"),
    [
        (("annotations", 0, "image_id"), "1", '"1"', "an integer"),
        (("annotations", 0, "id"), 1.5, "1.5", "an integer"),
        (("annotations", 0, "area"), "600", '"600"', "a number or null"),
        (("annotations", 0, "iscrowd"), False, "false", "0 or 1"),
        (("annotations", 0, "bbox"), None, "null", "a list"),
        (("annotations", 0, "bbox"), [1, 2, float("nan"), 3], "NaN", "a number"),
        (("images", 0, "width"), {"a": None}, '{"a":null}', "an integer"),
        (("categories", 0, "frequency"), "rare", '"rare"', "r, c or f"),
    ],
)
def test_values_are_shown_as_json_has_them(tmp_path, sound, place, value, found, expected):
    """The text "1" and the number 1 are shown differently."""
    content = copy.deepcopy(sound)
    content[place[0]][place[1]][place[2]] = value
    faults = [problem for problem in check(tmp_path, content) if problem.found == found]
    assert [problem.expected.split(" of")[0] for problem in faults] == [expected]


def test_every_fault_of_a_record_is_named(tmp_path, sound):
    """Wrong types and impossible values."""
    content = copy.deepcopy(sound)
    content["annotations"][0] |= {"id": "7", "area": "x", "iscrowd": True, "bbox": ["a", 1, None, 2]}
    content["annotations"][1] |= {"id": "8", "image_id": "99", "segmentation": [[1, 2, 3, 4]]}
    content["images"][0] |= {"id": "1", "neg_category_ids": ["3", 77]}
    found = {(problem.record, problem.field) for problem in check(tmp_path, content)}
    assert found >= {("annotation[0]", field) for field in ("id", "area", "iscrowd", "bbox.0", "bbox.2")}
    assert found >= {("annotation[1]", field) for field in ("id", "image_id")}
    assert found >= {("annotation", field) for field in ("image_id", "segmentation")}
    assert found >= {("image[0]", "id"), ("image[0]", "neg_category_ids.0")}
    assert len([field for record, field in found if field == "frequency"]) == 0


def test_of_many_problems_a_part_is_kept_and_all_are_counted(tmp_path, sound):
    content = copy.deepcopy(sound)
    many = 3 * LIMIT
    content["annotations"] = [
        content["annotations"][0] | {"id": number, "area": -1} for number in range(1, many + 1)
    ]
    content["annotations"][7]["bbox"] = [10, 10, -1, 30]
    content["annotations"][-1]["bbox"] = [10, 10, -1, 30]
    problems = check(tmp_path, content)
    areas = [problem for problem in problems if problem.field == "area"]
    assert (len(areas), areas[0].count) == (LIMIT, many)
    assert [problem.count for problem in problems if problem.field == "bbox"] == [2, 2]
    assert counted(problems)["error"] == many + 2
    text = problems_text(problems)
    assert f"negative area ({many:,} times)" in text
    assert f"and {many - 5:,} more" in text
    assert len(text.splitlines()) < 40


def test_boxes_turned_by_a_right_angle_are_told_from_misplaced_ones(tmp_path, sound):
    content = copy.deepcopy(sound)
    # the polygon's [10, 10, 20, 30] in the image of 100 x 80, turned either way and stretched to its size
    content["annotations"][0]["bbox"] = [40 * 1.25, 10 * 0.8, 30 * 1.25, 20 * 0.8]
    content["annotations"][1]["bbox"] = [10 * 1.25, 70 * 0.8, 30 * 1.25, 20 * 0.8]
    content["annotations"][2]["bbox"] = [70, 10, 20, 30]
    problems = check(tmp_path, content)
    kinds = {problem.id: problem.what for problem in problems if problem.record == "annotation"}
    assert ["right angle" in kinds[id_] for id_ in (1, 2, 3)] == [True, True, False]
    assert {problem.severity for problem in problems} == {"warning"}


def test_boxes_as_corners_are_an_error_of_the_file(tmp_path, sound):
    content = copy.deepcopy(sound)
    content["annotations"] = [content["annotations"][0] | {"id": number} for number in range(1, 41)]
    for item in content["annotations"]:
        item |= {"bbox": [10, 10, 12, 12], "segmentation": [[10, 10, 12, 10, 12, 12, 10, 12]], "area": 4}
    problems = check(tmp_path, content)
    (whole,) = (problem for problem in problems if problem.record == "file")
    assert (whole.severity, whole.found) == ("error", "40 of 40 boxes lie elsewhere than their polygons")


def test_text_in_another_encoding_is_an_error_wherever_it_stands(tmp_path, sound):
    """Even in a field that no reader here uses, because another tool may read it."""
    path = tmp_path / "file.json"
    text = json.dumps(copy.deepcopy(sound) | {"info": {"by": "Jos?"}})
    path.write_bytes(text.encode().replace(b"Jos?", b"Jos\xe9"))
    with pytest.raises(AnnotationError, match="0xe9"):
        check_annotations(path)


def dataset(tmp_path: Path, train: dict, val: dict) -> dict[str, Path]:
    paths = {"train": tmp_path / "train.json", "val": tmp_path / "val.json"}
    for path, content in zip(paths.values(), (train, val), strict=True):
        path.write_text(json.dumps(content))
    return paths


def kinds(problems: list[Problem]) -> set[tuple[str, str, int | None]]:
    return {(problem.severity, problem.field, problem.id) for problem in problems}


def test_a_sound_dataset_has_no_problem(tmp_path, sound):
    val = copy.deepcopy(sound)
    for image in val["images"]:
        image["file_name"] = f"val{image['id']}.jpg"
    assert check_dataset(**dataset(tmp_path, sound, val), masks=True) == []


def test_categories_of_validation_are_held_against_training(tmp_path, sound):
    val = copy.deepcopy(sound)
    val["categories"] = val["categories"][:3]
    val["annotations"] = val["annotations"][:3]
    val["images"][2]["neg_category_ids"] = []
    val["categories"][0]["name"] = "other"
    problems = check_dataset(**dataset(tmp_path, sound, val))
    found = {problem.id: problem for problem in problems if problem.severity == "error"}
    assert set(found) == {1, 4}
    assert (found[1].found, found[4].found) == ("'other'", "no such category")
    assert "LVIS" not in str(found[1].remedy)
    assert {problem.file for problem in problems} == {str(tmp_path / "val.json")}


def test_letters_of_validation_give_way_to_those_of_training(tmp_path, sound):
    val = copy.deepcopy(sound)
    val["categories"][1]["frequency"] = "f"
    problems = check_dataset(**dataset(tmp_path, sound, val))
    assert ("warning", "frequency", 2) in kinds(problems)
    for category in val["categories"]:
        category.pop("frequency", None)
    problems = check_dataset(**dataset(tmp_path, val, val))
    assert not any(problem.field == "frequency" for problem in problems)


def test_only_the_file_that_is_evaluated_has_to_stand_evaluation(tmp_path, sound):
    """Training ignores crowds and ignored objects; their ids and areas do not matter."""
    bad = copy.deepcopy(sound)
    bad["annotations"][0] |= {"id": 0, "ignore": 1}
    wrong = {("id", 0), ("iscrowd, ignore", 0)}
    for train, val, severity in ((bad, sound, "warning"), (sound, bad, "error")):
        problems = check_dataset(**dataset(tmp_path, train, val))
        assert {(problem.field, problem.id) for problem in problems if problem.severity == severity} >= wrong


def test_masks_are_asked_for_where_they_are_wanted(tmp_path, sound):
    boxes = copy.deepcopy(sound)
    for item in boxes["annotations"]:
        del item["segmentation"]
    paths = dataset(tmp_path, sound, boxes)
    assert ("error", "segmentation", None) not in kinds(check_dataset(**paths))
    assert ("error", "segmentation", None) in kinds(check_dataset(**paths, masks=True))
    boxes["annotations"][0]["segmentation"] = sound["annotations"][0]["segmentation"]
    problems = kinds(check_dataset(**dataset(tmp_path, sound, boxes)))
    assert {("error", "segmentation", id_) for id_ in (2, 3, 4)} <= problems


def test_a_file_that_cannot_be_read_hides_nothing_of_the_other(tmp_path, sound):
    bad = copy.deepcopy(sound)
    bad["annotations"][0]["id"] = 0
    paths = dataset(tmp_path, sound, bad)
    paths["train"].write_bytes(b"\x1f\x8b")
    problems = check_dataset(**paths)
    assert {("error", "content", None), ("error", "id", 0)} <= kinds(problems)
    (whole,) = (problem for problem in problems if problem.field == "content")
    assert (whole.file, whole.found) == (str(paths["train"]), "a gzip archive")
    assert "gunzip" in str(whole.remedy)


def test_an_image_of_both_splits_is_named(tmp_path, sound):
    """Found by its address, or by its file name if both splits share a folder."""
    paths = dataset(tmp_path, sound, sound)
    for i in (1, 2, 3, 4):
        Picture.new("RGB", (100, 80)).save(tmp_path / f"{i}.jpg")
    both = {("warning", "file_name", i) for i in (1, 2, 3, 4)}
    assert kinds(check_dataset(**paths)) == set()
    assert kinds(check_dataset(**paths, images=tmp_path)) == both
    (tmp_path / "val").mkdir()
    found = kinds(check_dataset(**paths, images=tmp_path, val_images=tmp_path / "val"))
    assert found == {("error", "file_name", i) for i in (1, 2, 3, 4)}  # missing there, and no other images
    assert kinds(check_dataset(**paths, val_images=tmp_path / "val")) == found
    sound = copy.deepcopy(sound)
    for image in sound["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image['id']}.jpg"
    assert kinds(check_dataset(**dataset(tmp_path, sound, sound))) == {
        ("warning", "coco_url", i) for i in (1, 2, 3, 4)
    }
