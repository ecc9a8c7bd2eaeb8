"""Predictions contain every image, valid ids, and boxes and masks in original pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.annotations import read_annotations
from benchmark.detectors.checkpoints import CheckpointError
from benchmark.evaluation import evaluate_detections
from benchmark.inference.detections import read_detections
from benchmark.inference.predict import predict_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.statistics import class_statistics
from benchmark.steps import dataset_files
from benchmark.training import StageJob, run_stage

EXPERIMENT = Path(__file__).parent.parent / "workflow" / "tiny.yaml"
TRUTH = Path("results/data/synthetic_tiny/synthesize/val.json")
LVIS = Path(__file__).parent.parent / "data" / "lvis_val_100.json"


def run() -> Run:
    run = find_run(f"{EXPERIMENT}:sigmoid")
    return run.model_copy(update={"test": run.test.model_copy(update={"max_detections": 20})})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Path:
    output = tmp_path_factory.mktemp("predict") / "checkpoint.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        files = dataset_files(run().dataset)
        run_stage(StageJob(run(), "train", files, output, init=None), devices=1, workers=0)
    return output


@pytest.mark.usefixtures("inside")
def test_detections_can_be_evaluated_and_repeat(checkpoint: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    files = dataset_files(run().dataset)
    predict_dataset(run(), files, checkpoint, first, workers=0)
    predict_dataset(run(), files, checkpoint, second, workers=1)
    assert first.read_bytes() == second.read_bytes()
    table, truth = read_detections(first), read_annotations(TRUTH)
    assert set(table.image_ids) == {image.id for image in truth.images}
    assert np.unique(table.image_ids, return_counts=True)[1].max() <= 20
    assert set(table.category_ids) <= set(truth.category_ids)
    assert table.boxes is not None
    assert (table.boxes[:, 2:] > 0).all()
    assert (table.boxes >= 0).all()
    assert (table.boxes[:, :2] + table.boxes[:, 2:] <= 64 + 1e-3).all()
    masks = table.masks(np.arange(len(table)), np.full((len(table), 2), 64))  # refuses other sizes
    assert len(masks.counts) == len(table)
    assert set(evaluate_detections(TRUTH, first).metrics) == {"bbox", "segm"}


@pytest.mark.usefixtures("inside")
def test_a_checkpoint_for_other_categories_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Training counts of LVIS v0.5 with validation annotations of another vocabulary."""
    class_statistics(LVIS).write(tmp_path / "class_statistics.csv")
    files = replace(dataset_files(run().dataset), statistics=tmp_path / "class_statistics.csv")
    with pytest.raises(CheckpointError, match="different categories"):
        predict_dataset(run(), files, checkpoint, tmp_path / "detections.parquet", workers=0)
    assert not (tmp_path / "detections.parquet").exists()
