"""Our numbers are those of the official LVIS API."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation.referee import DATA, derived_detections, official, official_metrics
from golden_cases import golden_cases, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from benchmark.errors import BenchmarkError, FileError
from benchmark.evaluation import Evaluation, EvaluationError, evaluate_detections
from benchmark.evaluation.metrics import LVIS_KEYS
from benchmark.inference.detections import DetectionError, DetectionWriter, write_lvis_results

NAMES = {item["id"]: item["name"] for item in json.loads(DATA.read_text())["categories"]}


def write_parquet(path: Path, results: list[dict[str, Any]]) -> Path:
    """Write results, image by image."""
    with DetectionWriter(path, NAMES, {}, masks=True) as writer:
        for image in dict.fromkeys(item["image_id"] for item in results):
            items = [item for item in results if item["image_id"] == image]
            writer.add(
                image,
                [item["category_id"] for item in items],
                [item["score"] for item in items],
                [item["bbox"] for item in items],
                [item["segmentation"] for item in items],
            )
    return path


def official_keys(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """The numbers that lvis-api has too."""
    return {iou: {key: numbers[key] for key in LVIS_KEYS} for iou, numbers in evaluation.metrics.items()}


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("cap", [False, True], ids=["few", "over_300_in_an_image"])
def test_equal_to_lvis_on_real_annotations(tmp_path: Path, cap: bool) -> None:
    """Bit-equal: all 13 numbers and each category's AP, box and mask, through JSON and through Parquet."""
    results = derived_detections(seed=1)
    if cap:  # more than 300 in one image, with ties at the border
        images = {item["image_id"]: (item["segmentation"]["size"]) for item in results}
        image = next(iter(images))
        extra = [item for item in results if item["segmentation"]["size"] == images[image]][:500]
        results += [{**item, "image_id": image} for item in extra]
        assert sum(item["image_id"] == image for item in results) > 300
    source = write_json(tmp_path / "results.json", results)
    parquet = write_parquet(tmp_path / "detections.parquet", results)
    write_lvis_results(parquet, tmp_path / "converted.json")
    referees = {iou: official(DATA, results, iou) for iou in ("bbox", "segm")}
    for detections in (source, parquet, tmp_path / "converted.json"):
        evaluation = evaluate_detections(DATA, detections)
        assert official_keys(evaluation) == {iou: official_metrics(it) for iou, it in referees.items()}
        for iou, referee in referees.items():
            precision = referee.eval["precision"][:, :, :, 0]
            expected = np.where(precision.max(axis=(0, 1)) > -1, precision.mean(axis=(0, 1)), np.nan)
            np.testing.assert_allclose(evaluation.per_class[f"{iou}_AP"], expected, rtol=1e-12)
            recall = referee.eval["recall"][:, :, 0]
            expected = np.where(recall.max(axis=0) > -1, recall.mean(axis=0), np.nan)
            np.testing.assert_allclose(evaluation.per_class[f"{iou}_AR"], expected, rtol=1e-12)


@pytest.mark.parametrize("case", golden_cases("simcal", "lvis_evaluation"))
def test_golden_federated_problem(case: dict[str, Any], tmp_path: Path) -> None:
    """The released evaluation's numbers on small federated problems with areas given apart from the boxes."""
    inputs = case["inputs"]
    truth = {
        "images": [
            {
                "id": i,
                "width": w,
                "height": h,
                "neg_category_ids": negative,
                "not_exhaustive_category_ids": rest,
            }
            for (i, w, h), negative, rest in zip(
                inputs["images_id_width_height"],
                inputs["negative_category_ids_per_image"],
                inputs["not_exhaustive_category_ids_per_image"],
                strict=False,  # the stored lists leave out empty ones at the end
            )
        ],
        "categories": [
            {"id": i, "name": f"c{i}", "frequency": "rcf"[f]}
            for i, f, _ in inputs["categories_id_frequency_r0_c1_f2_val_count"]
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area}
            for i, image, category, *box, area in inputs["annotations_id_image_category_x_y_w_h_area"]
        ],
    }
    check_golden(case, write_json(tmp_path / "gt.json", truth), tmp_path)


@pytest.mark.parametrize("case", golden_cases("simcal", "lvis_evaluation_val100"))
def test_golden_real_annotations(case: dict[str, Any], tmp_path: Path) -> None:
    check_golden(case, DATA, tmp_path)


def check_golden(case: dict[str, Any], truth: Path, folder: Path) -> None:
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, *box, score in case["inputs"]["detections_image_category_x_y_w_h_score"]
    ]
    evaluation = evaluate_detections(truth, write_json(folder / "dt.json", results))
    tolerance = load("simcal")["default_tolerance"]["lvis_metrics"]
    limit = tolerance["atol"] if isinstance(tolerance, dict) else tolerance
    assert official_keys(evaluation)["bbox"] == pytest.approx(case["expected"]["results"], abs=limit, rel=0)
    ap = evaluation.per_class.set_index("id")["bbox_AP"]
    if "ap_of_present" in case["expected"]:
        ap, expected = ap[case["expected"]["categories_present"]], case["expected"]["ap_of_present"]
    else:
        expected = case["expected"]["ap_per_category_in_file_order"]
    np.testing.assert_allclose(ap.to_numpy(), np.array(expected, float), atol=limit)


def tiny_truth(
    annotations: list[tuple[int, int, list[float]]], negative: list[list[int]], rest: list[list[int]]
):
    """Two images of 64 x 48 pixels, three categories r c f."""
    return {
        "images": [
            {"id": 10 + i, "height": 48, "width": 64, "neg_category_ids": n, "not_exhaustive_category_ids": r}
            for i, (n, r) in enumerate(zip(negative, rest, strict=True))
        ],
        "categories": [
            {"id": i, "name": f"c{i}", "frequency": f} for i, f in zip((2, 5, 7), "rcf", strict=True)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3]]],
            }
            for i, (image, category, box) in enumerate(annotations)
        ],
    }


def mask(box: list[float]) -> dict[str, Any]:
    """The box as a mask, cut off at the border of the image."""
    x, y, width, height = map(int, box)
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    return {"size": [48, 64], "counts": rle.encode(pixels)["counts"].decode()}


IMAGES, CATEGORIES = st.sampled_from((10, 11)), st.sampled_from((2, 5, 7))
BOXES = st.lists(st.integers(0, 3).map(lambda n: 8.0 * n), min_size=4, max_size=4)
POSITIVE_BOXES = st.tuples(BOXES, st.integers(1, 40), st.integers(1, 40)).map(
    lambda b: [*b[0][:2], *map(float, b[1:])]
)
SETS = st.lists(st.lists(CATEGORIES, unique=True), min_size=2, max_size=2)
RESULTS = st.tuples(
    IMAGES, CATEGORIES, st.one_of(BOXES, POSITIVE_BOXES), st.sampled_from((0.0, 0.25, 0.5, 1.0))
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    annotations=st.lists(st.tuples(IMAGES, CATEGORIES, POSITIVE_BOXES), max_size=6),
    results=st.lists(RESULTS, min_size=1, max_size=12),
    negative=SETS,
    rest=SETS,
    copies=st.integers(0, 3),
    iou=st.sampled_from(("bbox", "segm")),
)
def test_equal_to_lvis_on_random_problems(
    tmp_path_factory: pytest.TempPathFactory,
    annotations: Any,
    results: Any,
    negative: Any,
    rest: Any,
    copies: int,
    iou: str,
) -> None:
    """Bit-equal with tied scores, repeated and empty boxes, categories without ground truth, federated lists.

    A category listed both as negative and as present, and as not exhaustive, is evaluated the same way too.
    """
    folder = tmp_path_factory.mktemp("problem")
    truth = write_json(folder / "gt.json", tiny_truth(annotations, negative, rest))
    exact = annotations[:copies]
    records = [
        {"image_id": image, "category_id": category, "score": score, "bbox": box, "segmentation": mask(box)}
        for image, category, box, score in [*results, *((i, c, b, 0.5) for i, c, b in exact)]
    ]
    evaluation = evaluate_detections(truth, write_json(folder / "dt.json", records), [iou])
    assert official_keys(evaluation)[iou] == official_metrics(official(truth, records, iou))


TRUTH = tiny_truth([(10, 2, [0.0, 0.0, 8.0, 8.0]), (10, 5, [8.0, 8.0, 40.0, 30.0])], [[7], []], [[], []])
RESULT = {"image_id": 10, "category_id": 2, "score": 0.5, "bbox": [0.0, 0.0, 8.0, 8.0]}


def test_no_detections_is_zero_and_not_undefined(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    for empty in (write_json(tmp_path / "dt.json", []), write_parquet(tmp_path / "dt.parquet", [])):
        if empty.suffix == ".parquet":
            names = {category["id"]: category["name"] for category in TRUTH["categories"]}
            with DetectionWriter(empty, names, {}, masks=True) as writer:
                writer.add(10, [], [], [], [])
        evaluation = evaluate_detections(truth, empty)
        assert set(evaluation.metrics) == {"bbox", "segm"}
        for metrics in evaluation.metrics.values():
            assert metrics["AP"] == metrics["APr"] == metrics["AR@300"] == 0.0
            assert metrics["APf"] is None  # no ground truth in any frequent category


def test_nothing_annotated_is_undefined(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", tiny_truth([], [[2], [5]], [[], []]))
    evaluation = evaluate_detections(truth, write_json(tmp_path / "dt.json", [RESULT]))
    assert set(evaluation.metrics["bbox"].values()) == {None}
    assert evaluation.per_class["bbox_AP"].isna().all()


def test_cap_counts_all_categories_of_an_image(tmp_path: Path) -> None:
    """A higher score of a category that nobody verified still takes one of the places."""
    truth = write_json(tmp_path / "gt.json", TRUTH)
    other = {"image_id": 10, "category_id": 7, "score": 0.9, "bbox": [0.0, 0.0, 1.0, 1.0]}
    detections = write_json(tmp_path / "dt.json", [RESULT, other])
    capped = evaluate_detections(truth, detections, max_detections=1)
    assert capped.metrics["bbox"]["APr"] == 0.0
    assert "AR@1" in capped.metrics["bbox"]  # a number of another protocol does not bear the protocol's name
    assert evaluate_detections(truth, detections, max_detections=1000).metrics["bbox"][
        "APr"
    ] == pytest.approx(1)


def test_written_files_hold_every_number(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    evaluation = evaluate_detections(truth, write_json(tmp_path / "dt.json", [RESULT]))
    evaluation.write(tmp_path / "out" / "metrics.json", tmp_path / "out" / "per_class.csv")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == evaluation.metrics
    assert list(evaluation.metrics["bbox"])[: len(LVIS_KEYS)] == list(LVIS_KEYS)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "per_class.csv"), evaluation.per_class)
    for key in evaluation.metrics["bbox"]:
        assert key in evaluation.text()


def broken(change: Any) -> dict[str, Any]:
    truth = json.loads(json.dumps(TRUTH))
    change(truth)
    return truth


@pytest.mark.parametrize(
    ("truth", "parts"),
    [
        (
            broken(lambda t: t["images"][0].pop("neg_category_ids")),
            ["image 10", "neg_category_ids", "exhaustive"],
        ),
        (broken(lambda t: t["categories"][1].pop("frequency")), ["category 5", "frequency r, c or f"]),
        (broken(lambda t: t["annotations"][1].update(iscrowd=1)), ["annotation 2", "iscrowd 1"]),
        (broken(lambda t: t["annotations"][1].update(ignore=1)), ["annotation 2", "ignore 1"]),
        (broken(lambda t: t["annotations"][1].update(id=1)), ["repeated annotation id"]),
        (broken(lambda t: t["annotations"][1].update(id=0)), ["annotation id below 1"]),
        (broken(lambda t: t["annotations"][1].update(image_id=99)), ["annotation 2", "image_id 99"]),
        (
            broken(lambda t: t["images"][1].update(neg_category_ids=[3])),
            ["image 11", "unknown category", "3"],
        ),
        (broken(lambda t: t["annotations"][0].pop("area")), ["annotation 1", "area"]),
        ([], ["a record is not as it should be"]),
    ],
)
def test_ground_truth_that_would_falsify_the_numbers_is_refused(
    truth: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    path = write_json(tmp_path / "gt.json", truth)
    with pytest.raises(BenchmarkError) as caught:
        evaluate_detections(path, write_json(tmp_path / "dt.json", [RESULT]))
    for part in [*parts, str(path)]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"image_id": 99}, ["image_id", "record 1", "99"]),
        ({"category_id": 3}, ["category_id", "record 1", "3", "a category of"]),
        ({"bbox": [0, 0, -1, 2]}, ["box", "record 1", "-1.0"]),
    ],
)
def test_detections_of_another_dataset_are_refused(
    change: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    detections = write_json(tmp_path / "dt.json", [RESULT, {**RESULT, **change}])
    with pytest.raises(DetectionError) as caught:
        evaluate_detections(truth, detections)
    for part in [*parts, str(detections)]:
        assert part in str(caught.value)


def test_detections_of_another_lvis_version_are_named_as_such(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    with DetectionWriter(tmp_path / "dt.parquet", {2: "acorn", 5: "ball"}, {}, masks=False) as writer:
        writer.add(10, [2], [0.5], [[0, 0, 8, 8]])
    with pytest.raises(DetectionError, match="another LVIS version"):
        evaluate_detections(truth, tmp_path / "dt.parquet")


def test_masks_are_needed_for_mask_ap(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    with pytest.raises(EvaluationError, match="nothing to evaluate for segm"):
        evaluate_detections(truth, write_json(tmp_path / "dt.json", [RESULT]), ["segm"])
    turned = {**RESULT, "segmentation": {"size": [64, 48], "counts": "04"}}  # sides exchanged
    with pytest.raises(DetectionError, match="mask size"):
        evaluate_detections(truth, write_json(tmp_path / "dt.json", [turned]))
    with pytest.raises(FileError):
        evaluate_detections(truth, tmp_path / "none.json")
