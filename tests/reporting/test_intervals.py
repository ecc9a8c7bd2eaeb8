"""The table of intervals agrees with the saved detections."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from places import made, step_of
from reporting.results_tree import NAMES, complete_run, made_up_experiment

from benchmark.files import write_json
from benchmark.inference.detections import DetectionWriter
from benchmark.reporting import collect, write_report
from benchmark.reporting.intervals import interval_table, row_intervals
from benchmark.steps import Means, make, steps_of


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


@pytest.mark.slow
def test_numbers_with_intervals_and_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = made_up_experiment(tmp_path)
    assert interval_table(row_intervals([collect.collect_row(row, {}) for row in experiment.rows])) == ""
    generator = np.random.default_rng(0)
    boxes = np.hstack([generator.uniform(0, 20, (30, 2)), generator.uniform(10, 40, (30, 2))])
    softmax, sigmoid = experiment.rows[0].runs[0], experiment.rows[1].runs[0]
    with made(step_of(softmax, "synthesize")) as folder:
        write_truth(folder / "val.json", boxes)
        (folder / "train.json").touch()
    values = []
    for run, error in ((softmax, 0.3), (sigmoid, 0.1)):
        *before, predict, evaluate = steps_of(run)
        complete_run(run, 0.5, 0.4, masks=False, until=before)
        with (
            made(predict) as folder,
            DetectionWriter(folder / "detections.parquet", NAMES, {}, False) as writer,
        ):
            for row, box in enumerate(boxes * generator.uniform(1 - error, 1 + error, boxes.shape)):
                writer.add(row + 1, [1], [0.5], [box])
        make(evaluate, Means())
        values.append(json.loads(evaluate.output().read_text())["bbox"]["AP"])
    text = write_report(experiment, intervals=True)
    lines = [line.split(" | ") for line in text.splitlines() if re.search(r"\[.*\]", line)]
    assert [line[1] for line in lines] == ["Softmax", "Sigmoid + RFS", "minus Softmax"]
    for line, value in zip(lines, [*values, values[1] - values[0]], strict=True):
        point, low, high = map(float, re.findall(r"[-+]?\d+\.\d", line[4]))
        assert point == pytest.approx(100 * value, abs=0.051)
        assert low < point < high
    assert "[" not in write_report(experiment)
