"""All rows of the BAGS table: edge cases, and a tiny run from the base to detections."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import statistics_of

from benchmark.detectors.build import build_classifier
from benchmark.detectors.checkpoints import load
from benchmark.images import TrainImages
from benchmark.inference.detections import read_detections
from benchmark.inference.predict import predict_dataset
from benchmark.recipes import find_run, lineage, load_experiment
from benchmark.recipes.models import Run
from benchmark.records import read_record
from benchmark.steps import Means, Step, dataset_files, make, steps_of
from benchmark.training import StageJob, run_stage
from benchmark.training.stages import read_training_data

METHODS = [
    "softmax+softmax_x2",
    "softmax+finetune_tail",
    "softmax+rfs",
    "softmax+rfs_finetune",
    "reweight",
    "reweight+reweight_cls",
    "focal",
    "focal+focal_cls",
    "focal+cls_balanced",
    "focal+cls_released_kernel",
    "tau_norm",
    "tau_norm+tau_norm_select",
    "tau_norm+searched",
    "ncm_fc",
    "ncm_fc+ncm_conv",
    "bags+reweighted",
    "bags+no_others",
    "bags+train_all",
]
COUNTS = [0, 1, 5, 30, 80, 99, 100, 5000]
BACKGROUND = len(COUNTS)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny row for each method, called like it."""
    path = tmp_path_factory.mktemp("rows") / "rows.yaml"
    same = {"detector": "torchvision/tiny_faster_rcnn", "dataset": "synthetic_tiny"}
    rows = [{"id": method.replace("+", "-"), "method": method, **same} for method in METHODS]
    path.write_text(yaml.safe_dump({"name": "rows", "title": "Rows", "budget": "tiny", "rows": rows}))
    return path


def finished(run: Run) -> Step:
    """The last stage of a run, made in the working directory; a base that several runs share is trained
    once."""
    stages = [step for step in steps_of(run) if step.kind.trains]
    for step in stages:
        make(step, Means())
    return stages[-1]


@cache
def row(experiment: Path, method: str) -> Run:
    return find_run(f"{experiment}:{method.replace('+', '-')}")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "labels",
    [[], [BACKGROUND], [2], [BACKGROUND] * 5, [0, 1, 7], [0, 0, BACKGROUND, 3, 6], [7] * 40],
    ids=["nothing", "one background", "one object", "no objects", "no background", "mixed", "one category"],
)
def test_losses_gradients_and_scores_of_edge_cases(experiment: Path, method: str, labels: list[int]) -> None:
    """Category 0 has no training instance; logits are as large as those of an overconfident model."""
    torch.manual_seed(0)
    classifier = build_classifier(row(experiment, method), statistics_of(COUNTS))
    features = torch.randn(len(labels), classifier.in_features + classifier.pooled_features)
    logits = (classifier(features).detach() * 300).requires_grad_()
    losses = classifier.loss(logits, torch.tensor(labels, dtype=torch.int64))
    assert all(name.startswith("loss_cls") and loss.ndim == 0 for name, loss in losses.items())
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert bool(total.isfinite())
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    scores = classifier.scores(classifier(features))
    assert scores.shape == (len(labels), len(COUNTS) + 1)
    assert bool(((scores >= 0) & (scores <= 1)).all())


@pytest.mark.slow
@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("method", METHODS)
def test_from_the_base_to_detections(experiment: Path, tmp_path: Path, method: str) -> None:
    run = row(experiment, method)
    checkpoint = finished(run).output()
    after = load(checkpoint)["model"]
    assert all(bool(value.isfinite().all()) for value in after.values())
    if run.base is not None:
        before = load(finished(run.base).output())["model"]
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if run.stages[-1].trainable == "all" and run.stages[-1].kind == "train":
            assert "backbone.body.layer4.0.conv1.weight" in changed
        else:
            assert changed <= {"classifiers.0.linear.weight", "classifiers.0.linear.bias"}
            # tau may come out as 0, which changes nothing
            assert changed or set(after) > set(before) or run.variant == "searched"
    files = dataset_files(run.dataset)
    predict_dataset(run, files, checkpoint, tmp_path / "detections.parquet", workers=0)
    scores = np.asarray(read_detections(tmp_path / "detections.parquet").scores)
    assert ((scores > 0) & (scores <= 1)).all()


@pytest.mark.slow
@pytest.mark.usefixtures("inside")
def test_the_search_for_tau_is_recorded_and_repeats(experiment: Path, tmp_path: Path) -> None:
    run = row(experiment, "tau_norm+searched")
    step = finished(run)
    record = read_record(step.record)
    assert record is not None
    curve = record.facts["balanced_accuracy_by_tau"]
    assert len(curve) == len(run.stages[-1].options["taus"])
    assert record.facts["tau"] == float(max(curve, key=curve.get))
    again, init = tmp_path / "checkpoint.pt", step.inputs["init"].output()
    run_stage(StageJob(run, "search", dataset_files(run.dataset), again, init=init), devices=1, workers=0)
    assert again.read_bytes() == step.output().read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("inside")
def test_class_means_are_of_ground_truth_boxes(experiment: Path) -> None:
    run = row(experiment, "ncm_fc")
    step = finished(run)
    _, statistics = read_training_data(run, dataset_files(run.dataset))
    means = load(step.output())["model"]["classifiers.0.means"]
    assert means.any(dim=1).tolist() == (statistics.instance_counts > 0).tolist()
    assert bool((means < 0).any())  # before the activation
    record = read_record(step.record)
    assert record is not None
    assert record.facts["boxes"] == statistics.num_annotations


@pytest.mark.usefixtures("inside")
def test_a_stage_may_see_the_annotations_of_few_categories_only(experiment: Path) -> None:
    run = row(experiment, "softmax+finetune_tail")
    assert run.stages[0].annotations is not None
    assert run.stages[0].annotations.max_instance_count == 99
    annotations, statistics = read_training_data(run, dataset_files(run.dataset))
    folder = dataset_files(run.dataset).train_images
    few = statistics.category_ids[statistics.instance_counts <= 2].tolist()
    data = TrainImages(annotations, folder, run.detector, 0, masks=False, categories=few)
    everything = TrainImages(annotations, folder, run.detector, 0, masks=False)
    assert 0 < len(data) < len(everything)
    seen = [label for index in range(len(data)) for label in data.labels(index)]
    assert sorted(set(seen)) == np.flatnonzero(statistics.instance_counts <= 2).tolist()
    assert len(seen) == int(statistics.instance_counts[statistics.instance_counts <= 2].sum())


def test_every_row_of_the_table_names_its_published_method() -> None:
    """The method, or its variant, is called as in the table of published numbers."""
    reported = Path(__file__).resolve().parents[2] / "results" / "reported" / "reported.csv"
    published = {}
    for line in reported.read_text().splitlines()[1:]:
        paper, number, _, method = line.split(",")[:4]
        if paper == "bags":
            published[number] = method
    rows = load_experiment("bags").rows
    for item in rows:
        number = item.id.removesuffix("_coco")
        assert published[number] in item.entry.method.split("+")
        assert item.entry.reported == (f"bags/{number}" if number == item.id else None)


@pytest.mark.parametrize("name", ["bags", "simcal", "gol"])
def test_rows_of_mmdetection_train_norms_on_frozen_statistics(name: str) -> None:
    """MMDetection's default for ResNets, except stem and first stage; also for the bases of these rows."""
    for row in load_experiment(name).rows:
        for run in (item for found in row.runs for item in lineage(found)):
            assert (run.detector.norm, run.detector.trainable_layers) == ("frozen_statistics", 3), run.row
            for stage in run.stages:
                if stage.trainable == "all" and stage.schedule is not None:
                    assert stage.schedule.norm_weight_decay == stage.schedule.weight_decay, run.row
