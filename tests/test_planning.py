"""A plan counts what will run: shared stages once, images as the schedules say, files that are not there."""

import json
from pathlib import Path

import pytest

from benchmark.planning import _missing, plan_experiment
from benchmark.recipes import load_experiment


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(rows: list[str]) -> Path:
    lines = [f"  - {{id: row{number}, {row}}}" for number, row in enumerate(rows)]
    path = Path("mine.yaml")
    path.write_text("\n".join(["name: mine", "title: Mine", "budget: tiny", "rows:", *lines]))
    return path


TINY = "detector: torchvision/tiny_mask_rcnn, dataset: synthetic_tiny"


def test_a_shared_base_is_planned_once_and_predicted_only_for_its_row() -> None:
    path = write([f"method: bags, {TINY}", f"method: tau_norm, {TINY}", f"method: softmax, {TINY}"])
    planned = plan_experiment(load_experiment(str(path)), images_per_second=2.0)
    softmax = [job for job in planned.jobs if job.run.endswith("softmax/seed0")]
    assert [(job.name, job.rows) for job in softmax] == [
        ("train", ("row0", "row1", "row2")),
        ("predict", ("row2",)),
    ]
    assert softmax[0].images == 6 * 2  # iterations and batch of the budget
    assert softmax[0].hours == pytest.approx(12 / 2.0 / 3600)
    assert softmax[1].images == 12
    names = [(job.run.split("/")[-2], job.name) for job in planned.jobs]
    assert names.index(("softmax", "train")) < names.index(("bags", "retrain"))


def test_measured_throughput_goes_before_the_stated_one() -> None:
    log = Path("results/runs/tiny/synthetic_tiny/torchvision/tiny_mask_rcnn/rfs/seed0/train/progress.jsonl")
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"images_per_second": rate}) + "\n" for rate in (4.0, 8.0, 6.0)))
    planned = plan_experiment(load_experiment(str(write([f"method: softmax, {TINY}"]))), 1.0)
    assert planned.throughput["torchvision/tiny_mask_rcnn"][0] == 6.0


def test_the_size_of_a_checkpoint_is_that_of_the_model() -> None:
    planned = plan_experiment(load_experiment(str(write([f"method: softmax, {TINY}"]))), 1.0)
    assert planned.jobs[0].megabytes == pytest.approx(14, abs=3)


def test_missing_files_are_named_with_what_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DATA", "nowhere")
    row = "method: softmax, detector: torchvision/tiny_mask_rcnn, dataset: lvis_v0.5"
    planned = plan_experiment(load_experiment(str(write([row]))), 1.0)
    text = planned.text()
    assert "missing: nowhere/lvis_v0.5/lvis_v0.5_train.json (longtail data prepare lvis_v0.5)" in text
    assert planned.jobs[-1].images == 5000
    assert "stuffthingmaps" not in text  # for detectors with a semantic branch only


def test_missing_stuff_maps_are_named_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DATA", "nowhere")
    row = "method: softmax+imagenet_htc, detector: mmdet/htc_r50_fpn, dataset: lvis_v0.5"
    experiment = load_experiment(str(write([row])))
    command = "longtail data prepare lvis_v0.5 --stuff-maps"
    named = _missing(experiment, [run for row in experiment.rows for run in row.runs])
    assert f"nowhere/coco/stuffthingmaps/train2017 ({command})" in named
