"""Our numbers are those of the official LVIS API."""

import contextlib
import io
import json
import random
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
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmark.errors import BenchmarkError, FileError
from benchmark.evaluation import METRICS, Evaluation, EvaluationError, Evaluator, evaluate_detections
from benchmark.evaluation import selection as selection_module
from benchmark.evaluation.metrics import LVIS_KEYS
from benchmark.evaluation.summary import bin_mean
from benchmark.inference.detections import DetectionError, DetectionWriter, write_lvis_results
from benchmark.statistics import ClassStatistics

NAMES = {item["id"]: item["name"] for item in json.loads(DATA.read_text())["categories"]}


def write_parquet(path: Path, results: list[dict[str, Any]], names: dict[int, str] = NAMES) -> Path:
    """Write results, image by image."""
    with DetectionWriter(path, names, {}, masks=True) as writer:
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
    """The numbers that lvis-api also computes."""
    return {iou: {key: numbers[key] for key in LVIS_KEYS} for iou, numbers in evaluation.metrics.items()}


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.slow
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
    """The numbers of the released evaluation on small federated problems whose areas are not those of the
    boxes."""
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
    ids = [item["id"] for item in truth["categories"]]
    counts = dict(zip(ids, inputs["train_instance_counts"], strict=True))
    check_golden(case, write_json(tmp_path / "gt.json", truth), tmp_path, counts)


@pytest.mark.parametrize("case", golden_cases("simcal", "lvis_evaluation_val100"))
def test_golden_real_annotations(case: dict[str, Any], tmp_path: Path) -> None:
    table = ClassStatistics.read(DATA.with_name("lvis_v0.5_categories.csv"))
    counts = table.instance_counts.tolist()
    if case["inputs"].get("train_count_source") != "lvis_v05":
        counts = case["inputs"]["train_instance_counts"]
    check_golden(case, DATA, tmp_path, dict(zip(table.category_ids.tolist(), counts, strict=True)))


def check_golden(case: dict[str, Any], truth: Path, folder: Path, counts: dict[int, int]) -> None:
    """``counts`` are training instances by category id, in the order of the case."""
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, *box, score in case["inputs"]["detections_image_category_x_y_w_h_score"]
    ]
    ascending = [counts[id_] for id_ in sorted(counts)]
    statistics = write_statistics(folder / "statistics.csv", truth, ascending)
    evaluation = evaluate_detections(truth, write_json(folder / "dt.json", results), statistics=statistics)
    limit = load("simcal")["default_tolerance"]["lvis_metrics"]["atol"]
    expected = case["expected"]
    numbers = evaluation.metrics["bbox"]
    assert official_keys(evaluation)["bbox"] == pytest.approx(expected["results"], abs=limit, rel=0)
    table = evaluation.per_class.set_index("id")
    ap = table["bbox_AP"]
    if "ap_of_present" in expected:
        present, golden = ap[expected["categories_present"]], expected["ap_of_present"]
    else:
        present, golden = ap[list(counts)], expected["ap_per_category_in_file_order"]
    np.testing.assert_allclose(present.to_numpy(), np.array(golden, float), atol=limit)
    base = case["hyperparameters"]["base"]
    edges = [base**power for power in range(1, case["hyperparameters"]["num_edges"] + 1)]
    bins = list(zip([0, *edges], [*edges, None], strict=True))
    means = [bin_mean(ap.to_numpy(), table["training_instances"].to_numpy(), limits) for limits in bins]
    assert means == pytest.approx(expected["bin_ap_intended"], abs=limit, rel=0)
    if None in means:  # the original has no mean then
        assert expected["bap_intended"] is None
        return
    assert np.mean(means) == pytest.approx(expected["bap_intended"], abs=limit, rel=0)
    if edges == [10, 100, 1000]:
        assert [numbers[key] for key in METRICS["bAP"].of] == means
        assert numbers["bAP"] == pytest.approx(expected["bap_intended"], abs=limit, rel=0)


def write_statistics(path: Path, truth: Path, counts: list[int]) -> Path:
    """Class statistics with these training instances for the categories of an annotation file."""
    categories = sorted(json.loads(truth.read_text())["categories"], key=lambda item: item["id"])
    ClassStatistics(
        category_ids=np.array([item["id"] for item in categories]),
        names=tuple(item["name"] for item in categories),
        frequencies=tuple(item.get("frequency", "f") for item in categories),
        image_counts=np.minimum(counts, 1),
        instance_counts=np.array(counts),
    ).write(path)
    return path


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


@settings(max_examples=150)
@given(
    annotations=st.lists(st.tuples(IMAGES, CATEGORIES, POSITIVE_BOXES), max_size=6),
    results=st.lists(RESULTS, min_size=1, max_size=12),
    negative=SETS,
    rest=SETS,
    copies=st.integers(0, 3),
    crowded=st.sampled_from((0, 0, 0, 310)),
    flat=st.booleans(),
    order=st.randoms(use_true_random=False),
    parquet=st.booleans(),
    iou=st.sampled_from(("bbox", "segm")),
)
def test_equal_to_lvis_on_random_problems(
    tmp_path_factory: pytest.TempPathFactory,
    annotations: Any,
    results: Any,
    negative: Any,
    rest: Any,
    copies: int,
    crowded: int,
    flat: bool,
    order: random.Random,
    parquet: bool,
    iou: str,
) -> None:
    """Bit-equal on federated problems: tied scores, repeated boxes, more than 300 in an image, boxes without
    area and empty masks, annotations without area, categories and images without annotations, ids in any
    order.

    A category listed both as negative and as present, and as not exhaustive, is evaluated the same way too.
    """
    folder = tmp_path_factory.mktemp("problem")
    content = tiny_truth(annotations, negative, rest)
    if flat and annotations:
        content["annotations"][0]["area"] = 0.0
    ids = order.sample(range(1, 100), len(annotations))
    for item, id_ in zip(content["annotations"], ids, strict=True):
        item["id"] = id_
    for records in content.values():
        order.shuffle(records)
    truth = write_json(folder / "gt.json", content)
    found = [*results, *((i, c, b, 0.5) for i, c, b in annotations[:copies])]
    found += [found[row % len(found)] for row in range(crowded)]
    order.shuffle(found)
    records = [
        {"image_id": image, "category_id": category, "score": score, "bbox": box, "segmentation": mask(box)}
        for image, category, box, score in found
    ]
    if parquet:  # whose rows stand image by image
        records.sort(key=lambda record: record["image_id"])
        names = {category["id"]: category["name"] for category in content["categories"]}
        detections = write_parquet(folder / "dt.parquet", records, names)
    else:
        detections = write_json(folder / "dt.json", records)
    evaluation = evaluate_detections(truth, detections, [iou])
    assert official_keys(evaluation)[iou] == official_metrics(official(truth, records, iou))


def direct_ap(truth: dict[str, Any], results: list[dict[str, Any]], number: int) -> dict[int, float]:
    """AP-fixed of every category with objects, from its definition: one loop each, boxes only."""
    found: dict[int, float] = {}
    lists = {image["id"]: image for image in truth["images"]}
    for category in truth["categories"]:
        objects: dict[int, list[list[float]]] = {image: [] for image in lists}
        for item in truth["annotations"]:
            if item["category_id"] == category["id"]:
                objects[item["image_id"]].append(item["bbox"])
        total = sum(map(len, objects.values()))
        if total == 0:
            continue
        best = [item for item in results if item["category_id"] == category["id"]]
        best = sorted(best, key=lambda item: -item["score"])[:number]
        best.sort(key=lambda item: (-item["score"], item["image_id"]))
        precisions = []
        for threshold in np.linspace(0.5, 0.95, 10):
            left = {image: list(boxes) for image, boxes in objects.items()}
            right, wrong, points = 0, 0, []
            for item in best:
                image, box = lists[item["image_id"]], item["bbox"]
                if box[2] * box[3] == 0:
                    continue
                if not objects[image["id"]] and category["id"] not in image["neg_category_ids"]:
                    continue
                overlaps = [overlap(box, other) for other in left[image["id"]]]
                # of equal overlaps the last object, as in the official loop
                choice = max(range(len(overlaps)), key=lambda row: (overlaps[row], row), default=None)
                if choice is not None and overlaps[choice] >= min(threshold, 1 - 1e-10):
                    left[image["id"]].pop(choice)
                    right += 1
                elif category["id"] in image["not_exhaustive_category_ids"]:
                    continue
                else:
                    wrong += 1
                points.append((right / total, right / (right + wrong)))
            for recall in np.linspace(0, 1, 101):
                precisions.append(max((p for r, p in points if r >= recall), default=0.0))
        found[category["id"]] = float(np.mean(precisions))
    return found


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    annotations=st.lists(st.tuples(IMAGES, CATEGORIES, POSITIVE_BOXES), min_size=1, max_size=6),
    results=st.lists(RESULTS, min_size=1, max_size=12),
    negative=SETS,
    rest=SETS,
    copies=st.integers(0, 3),
    number=st.sampled_from((1, 2, 3, 10_000)),
)
def test_ap_fixed_is_its_definition(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    annotations: Any,
    results: Any,
    negative: Any,
    rest: Any,
    copies: int,
    number: int,
) -> None:
    """The best detections of each category over the whole dataset, without a limit per image."""
    monkeypatch.setattr(selection_module, "FIXED_DETECTIONS", number)
    folder = tmp_path_factory.mktemp("fixed")
    truth = tiny_truth(annotations, negative, rest)
    found = [*results, *((i, c, b, 0.5) for i, c, b in annotations[:copies])]
    records = [{"image_id": i, "category_id": c, "score": score, "bbox": b} for i, c, b, score in found]
    expected = direct_ap(truth, records, number)
    path = write_json(folder / "gt.json", truth)
    # the image's limit of the other numbers is two, so that they take other detections
    numbers = evaluate_detections(path, write_json(folder / "dt.json", records), max_detections={"lvis": 2})
    assert numbers.metrics["bbox"]["AP-fixed"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    assert numbers.metrics["bbox"]["APr-fixed"] == pytest.approx(expected.get(2), abs=1e-12)


def coco_truth(seed: int) -> dict[str, Any]:
    """The real annotations without federated lists; some are crowds, as run lengths."""
    generator = np.random.default_rng(seed)
    truth = json.loads(DATA.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in truth["categories"]:
        del category["frequency"]
    for item in truth["annotations"]:
        item["iscrowd"] = int(generator.random() < 0.1)
        if item["iscrowd"]:
            size = sizes[item["image_id"]]
            whole = rle.merge(rle.frPyObjects(item["segmentation"], *size))
            runs = np.diff(np.flatnonzero(np.diff(rle.decode(whole).ravel("F"), prepend=0)), prepend=0)
            runs = [*runs.tolist(), size[0] * size[1] - int(runs.sum())]
            item["segmentation"] = {"size": list(size), "counts": runs}
    return truth


COCO_KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs@100"]
COCO_KEYS += ["ARm@100", "ARl@100"]


@pytest.mark.slow
@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_equal_to_pycocotools_on_coco_annotations(iou: str, tmp_path: Path) -> None:
    """Crowds, more than 100 of a category in an image, categories without frequency: the 12 COCO numbers."""
    truth = write_json(tmp_path / "gt.json", coco_truth(seed=3))
    results = derived_detections(seed=2)
    busy = [item for item in results if item["image_id"] == results[0]["image_id"]]
    results += [{**busy[row % len(busy)], "category_id": busy[0]["category_id"]} for row in range(120)]
    detections = write_json(tmp_path / "dt.json", results)
    with contextlib.redirect_stdout(io.StringIO()):
        referee = COCO(str(truth))
        without = [{k: v for k, v in item.items() if k != ("bbox" if iou == "segm" else "segmentation")}
                   for item in results]  # fmt: skip
        official_evaluation = COCOeval(referee, referee.loadRes(without), iou)
        official_evaluation.evaluate()
        official_evaluation.accumulate()
        official_evaluation.summarize()
    counts = [5 * (row % 400) for row in range(len(referee.cats))]
    statistics = write_statistics(tmp_path / "statistics.csv", truth, counts)
    evaluation = evaluate_detections(truth, detections, [iou], statistics=statistics)
    numbers = evaluation.metrics[iou]
    assert [numbers[key] for key in COCO_KEYS] == pytest.approx(official_evaluation.stats, abs=1e-12)
    assert numbers["APf"] == numbers["AP"]  # the letters of the statistics: all f
    assert "APf" not in evaluate_detections(truth, detections, [iou]).metrics[iou]
    precision = official_evaluation.eval["precision"][:, :, :, 0, -1]
    expected = np.where(precision.max(axis=(0, 1)) > -1, precision.mean(axis=(0, 1)), np.nan)
    np.testing.assert_allclose(evaluation.per_class[f"{iou}_AP"], expected, rtol=1e-12)
    assert numbers["eAP"] == pytest.approx(
        np.mean([bin_mean(expected, np.array(counts), METRICS[key].bin) for key in METRICS["eAP"].of[:3]])
    )
    assert "eAP is the mean of 3 bins: no category with ground truth in AP[8000,inf)" in evaluation.text()
    assert "COCO protocol" in evaluation.text()


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
    """A higher score of a category that was not verified in the image still takes one of the places."""
    truth = write_json(tmp_path / "gt.json", TRUTH)
    other = {"image_id": 10, "category_id": 7, "score": 0.9, "bbox": [0.0, 0.0, 1.0, 1.0]}
    detections = write_json(tmp_path / "dt.json", [RESULT, other])
    capped = evaluate_detections(truth, detections, max_detections={"lvis": 1})
    assert capped.metrics["bbox"]["APr"] == 0.0
    assert "AR@1" in capped.metrics["bbox"]  # a number of another protocol does not bear the protocol's name
    assert evaluate_detections(truth, detections, max_detections={"lvis": 1000}).metrics["bbox"][
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
        (broken(lambda t: t["annotations"][0].update(area=-1)), ["annotation 1", "negative area"]),
        (broken(lambda t: t["annotations"][0].update(bbox=[5, 5, -1, 2])), ["annotation 1", "negative size"]),
        ([], ["not an annotation file"]),
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


@pytest.mark.slow
def test_one_ground_truth_serves_many_runs(tmp_path: Path) -> None:
    """The numbers equal those of separate evaluations, in any order."""
    paths = [write_json(tmp_path / f"{seed}.json", derived_detections(seed, 300)) for seed in (1, 2)]
    evaluator = Evaluator(DATA)
    together = [evaluator.evaluate(path).metrics for path in (*paths, paths[0])]
    assert together[0] == together[2] == evaluate_detections(DATA, paths[0]).metrics
    assert together[1] == evaluate_detections(DATA, paths[1]).metrics != together[0]


def test_curves_on_request(tmp_path: Path) -> None:
    """AP is the mean of the returned arrays."""
    evaluation = evaluate_detections(DATA, write_json(tmp_path / "dt.json", derived_detections(1, 300)))
    evaluation.write(curves=tmp_path / "curves.npz")
    with np.load(tmp_path / "curves.npz") as curves:  # refuses pickled objects
        for iou, numbers in evaluation.metrics.items():
            precision = curves[f"{iou}_precision"]
            axes = [curves[name] for name in ("iou_thresholds", "recall_thresholds", "category_ids", "areas")]
            assert precision.shape == curves[f"{iou}_scores"].shape == tuple(map(len, axes))
            whole = precision[..., curves["areas"].tolist().index("all")]
            assert whole[whole > -1].mean() == pytest.approx(numbers["AP"], abs=1e-12)
            recall = curves[f"{iou}_recall"][..., 0]
            assert recall[recall > -1].mean() == pytest.approx(numbers["AR@300"], abs=1e-12)


def test_calibration_error_is_the_gap_between_score_and_precision(tmp_path: Path) -> None:
    """Two detections with score 0.75, one of them correct, and a wrong one with score 0.15."""
    truth = write_json(tmp_path / "gt.json", TRUTH)
    wrong = {**RESULT, "bbox": [50.0, 30.0, 8.0, 8.0]}
    records = [{**RESULT, "score": 0.75}, {**wrong, "score": 0.75}, {**wrong, "score": 0.15}]
    detections = write_json(tmp_path / "dt.json", records)
    assert "ECE" not in evaluate_detections(truth, detections).metrics["bbox"]
    metrics = evaluate_detections(truth, detections, calibration=True).metrics["bbox"]
    assert metrics["ECE"] == pytest.approx((2 * (0.75 - 0.5) + 0.15) / 3)


def test_error_types_on_request(tmp_path: Path) -> None:
    """A second detection of an object is counted as a duplicate, and as nothing else."""
    truth = write_json(tmp_path / "gt.json", TRUTH)
    found = [{**item, "score": 0.5} for item in (RESULT, {**RESULT, "category_id": 5})]
    found[1]["bbox"] = TRUTH["annotations"][1]["bbox"]
    records = [{**found[0], "score": 0.9}, *found, {**found[1], "score": 0.6}]
    records = [{**RESULT, "score": 0.9}, *records]
    detections = write_json(tmp_path / "dt.json", records)
    assert "dAP-Loc" not in evaluate_detections(truth, detections).metrics["bbox"]
    costs = evaluate_detections(truth, detections, errors=True).metrics["bbox"]
    assert costs["dAP-Loc"] == costs["dAP-Cls"] == costs["dAP-Miss"] == 0
    moved = [{**item, "bbox": [item["bbox"][0] + 4, *item["bbox"][1:]]} for item in found[:1]]
    detections = write_json(tmp_path / "moved.json", [*moved, found[1]])
    costs = evaluate_detections(truth, detections, errors=True).metrics["bbox"]
    assert costs["dAP-Loc"] == pytest.approx(0.5)  # one of two categories is lost to its place
    assert costs["dAP-Dupe"] == costs["dAP-Bkg"] == 0


def test_statistics_of_other_categories_are_refused(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    other = broken(lambda content: content["categories"][1].update(name="another"))
    statistics = write_statistics(
        tmp_path / "statistics.csv", write_json(tmp_path / "other.json", other), [1, 2, 3]
    )
    with pytest.raises(EvaluationError, match=r"class statistics .* different categories"):
        Evaluator(truth, statistics)


def test_frequency_groups_are_those_of_the_training_statistics(tmp_path: Path) -> None:
    """Independent of the letters in the ground truth; a contradiction is reported."""
    statistics = tmp_path / "train.csv"
    ClassStatistics(
        np.array([2, 5, 7]),
        ("c2", "c5", "c7"),
        ("f", "r", "c"),
        np.array([120, 2, 20]),
        np.array([120, 2, 20]),
    ).write(statistics)
    detections = write_json(
        tmp_path / "dt.json", [RESULT]
    )  # finds the object of category 2, misses that of 5
    own = write_json(tmp_path / "own.json", TRUTH)
    assert evaluate_detections(own, detections).metrics["bbox"]["APr"] == pytest.approx(1)
    without = broken(lambda content: [category.pop("frequency") for category in content["categories"]])
    for name, content in {"own": TRUTH, "none": without, "coco": in_coco_format(without)}.items():
        truth = write_json(tmp_path / f"{name}.json", content)
        evaluation = evaluate_detections(truth, detections, statistics=statistics)
        numbers = evaluation.metrics["bbox"]
        assert (numbers["APf"], numbers["APr"], numbers["APc"]) == (pytest.approx(1), 0.0, None)
        assert evaluation.per_class["frequency"].tolist() == ["f", "r", "c"]
        assert ("'c2' r instead of f" in evaluation.text()) == (name == "own")


def write_training(path: Path, letters: tuple[str, ...], counts: list[int]) -> None:
    names, ids = ("c2", "c5", "c7"), np.array([2, 5, 7])
    ClassStatistics(ids, names, letters, np.array(counts), np.array(counts)).write(path)


def test_letters_that_contradict_the_training_counts_are_said(tmp_path: Path) -> None:
    statistics = tmp_path / "train.csv"
    counts = np.array([120, 20, 2])
    ClassStatistics(np.array([2, 5, 7]), ("c2", "c5", "c7"), ("r", "c", "f"), counts, counts).write(
        statistics
    )
    truth, detections = write_json(tmp_path / "gt.json", TRUTH), write_json(tmp_path / "dt.json", [RESULT])
    text = evaluate_detections(truth, detections, statistics=statistics).text()
    assert "not those of its image counts" in text
    assert "in 2 of 3 categories: 'c2' f instead of r, 'c7' r instead of f" in text


def in_coco_format(content: dict[str, Any]) -> dict[str, Any]:
    images = [{key: image[key] for key in ("id", "width", "height")} for image in content["images"]]
    return {**content, "images": images}


def test_the_cap_of_one_protocol_is_none_of_the_other(tmp_path: Path) -> None:
    """COCO keeps 100 detections of a category per image, whatever the cap of LVIS (300 per image)."""
    boxes = [[20.0 * (n % 15), 20.0 * (n // 15), 18.0, 18.0] for n in range(150)]
    truth = {
        "images": [{"id": 1, "width": 320, "height": 240}],
        "categories": [{"id": 1, "name": "grain"}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 324.0, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    gt, dt = write_json(tmp_path / "gt.json", truth), write_json(tmp_path / "dt.json", results)
    with contextlib.redirect_stdout(io.StringIO()):
        referee = COCO(str(gt))
        official_evaluation = COCOeval(referee, referee.loadRes(str(dt)), "bbox")
        official_evaluation.evaluate()
        official_evaluation.accumulate()
        official_evaluation.summarize()
    assert official_evaluation.stats[0] < 0.7
    for caps in (None, {"lvis": 300}):
        evaluation = evaluate_detections(gt, dt, max_detections=caps)
        assert evaluation.metrics["bbox"]["AP"] == pytest.approx(official_evaluation.stats[0], abs=1e-12)
        assert ("300 an image, is for LVIS" in evaluation.text()) == (caps is not None)
    asked = evaluate_detections(gt, dt, max_detections={"lvis": 300, "coco": 200})
    assert asked.metrics["bbox"]["AP"] == pytest.approx(1)
    assert "AR@200" in asked.metrics["bbox"]
    assert asked.notes == []


def test_masks_are_not_silently_left_out(tmp_path: Path) -> None:
    """If only some annotations have a mask, mask AP must not become box AP."""
    results = [{**RESULT, "segmentation": mask(RESULT["bbox"])}]
    detections = write_json(tmp_path / "dt.json", results)
    null = broken(lambda content: content["annotations"][1].update(segmentation=None))
    absent = broken(lambda content: content["annotations"][1].pop("segmentation"))
    for content in (null, absent):
        truth = write_json(tmp_path / "gt.json", content)
        for iou_types in (None, ["segm"]):
            with pytest.raises(EvaluationError, match="annotation 2") as caught:
                evaluate_detections(truth, detections, iou_types)
            assert "without a mask" in str(caught.value)
        assert evaluate_detections(truth, detections, ["bbox"]).metrics["bbox"]["APr"] == pytest.approx(1)
    boxes = broken(lambda content: [item.pop("segmentation") for item in content["annotations"]])
    truth = write_json(tmp_path / "boxes.json", boxes)
    with pytest.raises(EvaluationError, match="--iou bbox"):
        evaluate_detections(truth, detections)
    assert set(evaluate_detections(truth, detections, ["bbox"]).metrics) == {"bbox"}
    assert set(evaluate_detections(truth, write_json(tmp_path / "no.json", [])).metrics) == {"bbox"}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["lvis", "coco"])
def test_a_missing_area_is_measured(protocol: str, tmp_path: Path) -> None:
    """As detectron2 does: from polygons, run lengths or else the box; the evaluation reports it."""
    content = json.loads(DATA.read_text())
    if protocol == "coco":
        content = coco_truth(seed=3)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for number, item in enumerate(content["annotations"]):
        shape = item["segmentation"]
        if number % 3 == 0 and isinstance(shape, list):  # the same outline in run lengths
            code = rle.merge(rle.frPyObjects(shape, *sizes[item["image_id"]]))
            item["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    given, left_out = json.loads(json.dumps(content)), json.loads(json.dumps(content))
    for item, bare in zip(given["annotations"], left_out["annotations"], strict=True):
        shape = item["segmentation"]
        if isinstance(shape, list):
            item["area"] = float(sum(_shoelace(polygon) for polygon in shape))
        else:
            coded = shape if isinstance(shape["counts"], str) else rle.frPyObjects(shape, *shape["size"])
            item["area"] = float(rle.area(coded))
        bare["area"] = None
        if item["id"] % 2:
            del bare["area"]
    detections = write_json(tmp_path / "dt.json", derived_detections(1, 600))
    whole = evaluate_detections(write_json(tmp_path / "given.json", given), detections)
    measured = evaluate_detections(write_json(tmp_path / "measured.json", left_out), detections)
    for iou, numbers in whole.metrics.items():
        assert measured.metrics[iou] == pytest.approx(numbers, abs=1e-12)
    assert whole.metrics["segm"]["APs"] != whole.metrics["segm"]["APl"]
    assert "977 of 977 annotations have no area" in measured.text()


def _shoelace(polygon: list[float]) -> float:
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    turned = [*points[1:], points[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, turned, strict=True))) / 2


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    """Neither in the ground truth, which two libraries read, nor in the results."""
    results = [{**RESULT, "segmentation": mask(RESULT["bbox"])}]
    paths = [write_json(tmp_path / "gt.json", TRUTH), write_json(tmp_path / "dt.json", results)]
    expected = evaluate_detections(*paths).metrics
    for path in paths:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert evaluate_detections(*paths).metrics == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y, w, h: [x, y, w, h], None),
        (lambda x, y, w, h: [x, y, x + w, y + h], "leave their image"),
        (lambda x, y, w, h: [x / 640, y / 480, w / 640, h / 480], "less than a pixel"),
        (lambda x, y, w, h: [x / 6.4, y / 4.8, w / 6.4, h / 4.8], "upper left quarter"),
    ],
)
def test_boxes_of_another_form_are_noticed(change: Any, words: str | None, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    corners = generator.uniform([0, 0], [400, 300], (40, 2))
    boxes = np.hstack([corners, generator.uniform(20, 150, (40, 2))])
    truth = {
        "images": [{"id": 1, "width": 640, "height": 480}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
            for n, box in enumerate(boxes.tolist())
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": change(*box), "score": 0.5} for box in boxes.tolist()
    ]
    gt, dt = write_json(tmp_path / "gt.json", truth), write_json(tmp_path / "dt.json", results)
    notes = evaluate_detections(gt, dt).notes
    assert [words in note for note in notes] == ([True] if words else [])


def test_scores_in_percent_are_noticed(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gt.json", TRUTH)
    evaluation = evaluate_detections(truth, write_json(tmp_path / "dt.json", [{**RESULT, "score": 50.0}]))
    assert "1 of 1 scores are outside [0, 1]" in evaluation.text()


def test_training_counts_go_by_category_and_not_by_position(tmp_path: Path) -> None:
    """Without statistics there are no bins; with them each category is in the bin of its own count."""
    truth = write_json(tmp_path / "gt.json", TRUTH)
    detections = write_json(tmp_path / "dt.json", [RESULT])
    assert "bAP" not in evaluate_detections(truth, detections).metrics["bbox"]
    statistics = write_statistics(tmp_path / "statistics.csv", truth, [5, 500, 50])
    evaluation = evaluate_detections(truth, detections, statistics=statistics)
    numbers = evaluation.metrics["bbox"]
    assert [numbers[key] for key in METRICS["bAP"].of] == [pytest.approx(1), None, 0, None]
    assert numbers["bAP"] == pytest.approx(0.5)
    assert evaluation.per_class["training_instances"].tolist() == [5, 500, 50]
    assert "bAP is the mean of 2 bins" in evaluation.text()
