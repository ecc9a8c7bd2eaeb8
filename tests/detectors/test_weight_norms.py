"""The table of weight norms matches the checkpoint's classifier for every layout of weights."""

import csv
from pathlib import Path

import pytest
import torch

from benchmark.detectors import build_detector
from benchmark.detectors.checkpoints import CheckpointError, finished, save
from benchmark.detectors.weight_norms import write_weight_norms
from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.statistics import ClassStatistics
from benchmark.steps import dataset_files

TINY = str(Path(__file__).parents[1] / "workflow" / "tiny.yaml")


def checkpoint(run: Run, path: Path) -> torch.nn.Module:
    detector = build_detector(run, ClassStatistics.read(dataset_files(run.dataset).statistics))
    save(path, finished(run, run.stages[-1].name, detector, "vocabulary"))
    return detector.classifiers[0]


@pytest.mark.usefixtures("inside")
def test_norms_of_every_category_in_the_order_of_the_statistics(tmp_path: Path) -> None:
    for row in ("softmax", "bags"):
        run = find_run(f"{TINY}:{row}")
        classifier = checkpoint(run, tmp_path / "checkpoint.pt")
        counts = dataset_files(run.dataset).statistics
        assert write_weight_norms(run, counts, tmp_path / "checkpoint.pt", tmp_path / "norms.csv") == 6
        lines = list(csv.DictReader((tmp_path / "norms.csv").open()))
        columns = classifier.columns if row == "bags" else torch.arange(6)
        expected = classifier.linear.weight[columns].norm(dim=1).tolist()
        assert [float(line["norm"]) for line in lines] == pytest.approx(expected, rel=1e-5)
        statistics = ClassStatistics.read(dataset_files(run.dataset).statistics)
        assert [int(line["id"]) for line in lines] == statistics.category_ids.tolist()


@pytest.mark.usefixtures("inside")
def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    checkpoint(find_run(f"{TINY}:softmax"), tmp_path / "checkpoint.pt")
    run = find_run(f"{TINY}:bags")
    counts = dataset_files(run.dataset).statistics
    with pytest.raises(CheckpointError, match="does not fit method bags"):
        write_weight_norms(run, counts, tmp_path / "checkpoint.pt", tmp_path / "norms.csv")
    assert not (tmp_path / "norms.csv").exists()
