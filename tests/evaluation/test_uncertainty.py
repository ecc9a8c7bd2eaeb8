"""The bootstrap weights images exactly and pairs the runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.referee import DATA, derived_detections
from evaluation.test_evaluator import coco_truth, write_json, write_statistics

from benchmark.evaluation import Evaluator
from benchmark.evaluation.uncertainty import ImageWeights, bootstrap


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_json(folder / f"{seed}.json", derived_detections(seed, 1200)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    categories = len(json.loads(DATA.read_text())["categories"])
    path = tmp_path_factory.mktemp("statistics") / "statistics.csv"
    return Evaluator(DATA, write_statistics(path, DATA, [7 * (row % 300) for row in range(categories)]))


def repeated(content: dict[str, Any], results: list[dict[str, Any]], weights: np.ndarray) -> tuple[Any, Any]:
    """Annotations and detections with each image repeated as often as its weight, under new ids."""
    images, annotations, found = [], [], []
    for image, weight in zip(sorted(content["images"], key=lambda item: item["id"]), weights, strict=True):
        for _ in range(weight):
            id_ = len(images) + 1
            images.append({**image, "id": id_})
            for item in content["annotations"]:
                if item["image_id"] == image["id"]:
                    annotations.append({**item, "image_id": id_, "id": len(annotations) + 1})
            found += [{**item, "image_id": id_} for item in results if item["image_id"] == image["id"]]
    return {**content, "images": images, "annotations": annotations}, found


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["lvis", "coco"])
@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_a_weight_is_a_repeated_image(iou: str, protocol: str, tmp_path: Path) -> None:
    """Re-weighting gives the numbers of a data set in which images are repeated or missing."""
    content = json.loads(DATA.read_text()) if protocol == "lvis" else coco_truth(seed=4)
    generator = np.random.default_rng(0)
    # equal scores within a repeated image would stand in another order
    results = [{**item, "score": float(generator.random())} for item in derived_detections(5, 800)]
    weights = np.random.default_rng(1).integers(0, 4, len(content["images"]))
    truth = write_json(tmp_path / "gt.json", content)
    evaluator = Evaluator(truth)
    average = ImageWeights(evaluator, write_json(tmp_path / "dt.json", results), iou, None)
    again, found = repeated(content, results, weights)
    expected = Evaluator(write_json(tmp_path / "gt2.json", again)).evaluate(
        write_json(tmp_path / "dt2.json", found), [iou]
    )
    numbers = average(weights)
    assert numbers == pytest.approx({key: expected.metrics[iou][key] for key in numbers}, abs=1e-12)
    assert {"AP", "AP50"} <= numbers.keys()
    assert ("APr" in numbers) == (protocol == "lvis")


def test_points_are_the_evaluations_numbers(evaluator: Evaluator, runs: list[Path]) -> None:
    found = bootstrap(evaluator, runs, "bbox", resamples=30)
    for run, path in zip(found.runs, runs, strict=True):
        expected = evaluator.evaluate(path, ["bbox"]).metrics["bbox"]
        assert {"AP", "APr", "APc", "APf", "bAP", "eAP", "AR@300"} <= run.keys()
        for key, interval in run.items():
            assert interval.value == expected[key]
            assert interval.low <= interval.high
        assert run["AP"].low < run["AP"].value < run["AP"].high


@pytest.mark.slow
def test_runs_are_paired(evaluator: Evaluator, runs: list[Path]) -> None:
    """A run does not differ from itself, and two runs differ by less than with unpaired draws."""
    (same,) = bootstrap(evaluator, [runs[0], runs[0]], "bbox", resamples=20).differences
    assert {(item.value, item.low, item.high) for item in same.values()} == {(0.0, 0.0, 0.0)}
    found = bootstrap(evaluator, runs, "bbox", resamples=100)
    (difference,) = found.differences
    assert difference["AP"].value == pytest.approx(found.runs[1]["AP"].value - found.runs[0]["AP"].value)
    apart = [run["AP"].high - run["AP"].low for run in found.runs]
    assert difference["AP"].high - difference["AP"].low < np.hypot(*apart)


def test_draws_depend_on_the_seed_alone(evaluator: Evaluator, runs: list[Path]) -> None:
    first, second, other = (
        bootstrap(evaluator, runs[:1], "bbox", resamples=20, seed=seed).runs for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other
