"""Groups and repeat factors on the page: every category once, in the groups that the method uses."""

from pathlib import Path

import numpy as np
import pytest
from reporting.results_tree import COUNTS, EXPERIMENT, complete_run, made_up_experiment

from benchmark.reporting.collect import collect_row
from benchmark.reporting.html.training_tables import training_tables
from benchmark.reporting.series import SeriesReader

ROWS = """
  - {id: rfs, method: softmax+rfs_exact, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}
  - id: again
    method: bags
    detector: torchvision/tiny_mask_rcnn
    dataset: synthetic
    options: {others_ratio: 1.0}
  - {id: two, method: bags+two_groups, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}
"""


def test_groups_and_repeat_factors_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = made_up_experiment(tmp_path, EXPERIMENT + ROWS.lstrip("\n"))
    for row in experiment.rows:
        for run in row.runs:
            complete_run(run, 0.4, 0.2)
    reader = SeriesReader()
    tables = training_tables([collect_row(row, {}) for row in experiment.rows], reader)
    assert reader.notes == []
    by_rows = {tuple(table["rows"]): table for table in tables}
    assert by_rows.keys() == {("bags", "again"), ("sigmoid", "rfs"), ("two",)}
    instances = COUNTS * 2
    four = by_rows["bags", "again"]["series"]
    sizes = [
        ((instances >= low) & (instances < high)).sum() for low, high in ((0, 10), (10, 100), (100, 1000))
    ]
    assert [item["categories"] for item in four] == [*sizes, (instances >= 1000).sum()]
    assert sum(item["instances"] for item in four) == instances.sum()
    for table in tables:
        for item in table["series"]:
            assert len(item["counts"]) == len(table["bins"])
            assert sum(item["counts"]) == item["categories"]
    assert "edges 100" in by_rows[("two",)]["title"]
    threshold = experiment.rows[3].runs[0].stages[0].sampler.threshold  # type: ignore[union-attr]
    repeated = (np.sqrt(threshold / (COUNTS / COUNTS.sum())) > 1).sum()
    assert f"{repeated} of 40 categories are repeated" in by_rows["sigmoid", "rfs"]["title"]
