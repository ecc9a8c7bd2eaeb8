"""The table of intervals shows what the saved detections say."""

import re
from pathlib import Path

import numpy as np
import pytest
from reporting.results_tree import NAMES, finish, made_up_experiment

from benchmark.evaluation import evaluate_detections
from benchmark.files import write_json
from benchmark.inference.detections import DetectionWriter
from benchmark.recipes.paths import annotations_path, run_folder
from benchmark.records import record_step
from benchmark.reporting import collect, write_report
from benchmark.reporting.intervals import interval_table, row_intervals


def write_truth(path: Path, boxes: np.ndarray) -> None:
    """One object of category 1 in each image."""
    image = {"width": 64, "height": 64, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    write_json(
        path,
        {
            "images": [{"id": row + 1, **image} for row in range(len(boxes))],
            "annotations": [
                {"id": row + 1, "image_id": row + 1, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
                for row, box in enumerate(boxes.tolist())
            ],
            "categories": [{"id": id_, "name": name, "frequency": "f"} for id_, name in NAMES.items()],
        },
    )


def test_numbers_with_intervals_and_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = made_up_experiment(tmp_path)
    assert interval_table(row_intervals([collect.collect_row(row, {}) for row in experiment.rows])) == ""
    generator = np.random.default_rng(0)
    boxes = np.hstack([generator.uniform(0, 20, (30, 2)), generator.uniform(10, 40, (30, 2))])
    softmax, sigmoid = experiment.rows[0].runs[0], experiment.rows[1].runs[0]
    truth = annotations_path(softmax.dataset, "val")
    write_truth(truth, boxes)
    values = []
    for run, error in ((softmax, 0.3), (sigmoid, 0.1)):
        finish(run, 0.5, 0.4, masks=False)
        output = run_folder(run) / "detections.parquet"
        recipe = {"digest": run.digest("predict")}
        with record_step(output, "predict", recipe, {}), DetectionWriter(output, NAMES, {}, False) as writer:
            for row, box in enumerate(boxes * generator.uniform(1 - error, 1 + error, boxes.shape)):
                writer.add(row + 1, [1], [0.5], [box])
        evaluation = evaluate_detections(truth, output)
        with record_step(output.with_name("metrics.json"), "evaluate", {}, {"detections": output}):
            evaluation.write(output.with_name("metrics.json"), output.with_name("per_class.csv"))
        values.append(evaluation.metrics["bbox"]["AP"])
    text = write_report(experiment, intervals=True)
    lines = [line.split(" | ") for line in text.splitlines() if re.search(r"\[.*\]", line)]
    assert [line[1] for line in lines] == ["Softmax", "Sigmoid + RFS", "minus Softmax"]
    for line, value in zip(lines, [*values, values[1] - values[0]], strict=True):
        point, low, high = map(float, re.findall(r"[-+]?\d+\.\d", line[4]))
        assert point == pytest.approx(100 * value, abs=0.051)
        assert low < point < high
    assert "[" not in write_report(experiment)
