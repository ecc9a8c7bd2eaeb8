"""A plan counts shared stages once, counts images as the schedules do, and lists missing files."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from reporting.results_tree import complete_run

from benchmark.errors import BenchmarkError
from benchmark.planning import ExperimentPlan, plan_experiment
from benchmark.recipes import load_experiment
from benchmark.recipes.project import project_root
from benchmark.recipes.zoo import zoo

HTC = "mmdet/htc_x101_64x4d_fpn"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(rows: list[str]) -> Path:
    lines = [f"  - {{id: row{number}, {row}}}" for number, row in enumerate(rows)]
    path = Path("mine.yaml")
    path.write_text("\n".join(["name: mine", "title: Mine", "budget: tiny", "rows:", *lines]))
    return path


TINY_NAME = "torchvision/tiny_mask_rcnn"
TINY = f"detector: {TINY_NAME}, dataset: synthetic_tiny"


def test_a_shared_base_is_planned_once_and_predicted_only_for_its_row() -> None:
    path = write([f"method: bags, {TINY}", f"method: tau_norm, {TINY}", f"method: softmax, {TINY}"])
    planned = plan_experiment(load_experiment(str(path)), {TINY_NAME: 2.0})
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


def test_what_shares_a_pass_is_counted_once() -> None:
    """Each step counts its share, for predictions of the part before the classifier. Finished steps and steps
    with other features have no share."""
    path = write(
        [f"method: {name}, {TINY}" for name in ("bags", "bags+two_groups", "focal+focal_cls", "balms")]
    )
    experiment = load_experiment(str(path))

    def parts(name: str) -> tuple[ExperimentPlan, dict[str, int], float]:
        planned = plan_experiment(experiment, {TINY_NAME: 1.0})
        jobs = {job.run.split("/")[-2]: job for job in planned.jobs if job.name == name}
        hours = sum(job.hours for job in jobs.values() if not job.done)
        return planned, {row: job.shared_by for row, job in jobs.items()}, hours

    planned, shared_by, hours = parts("retrain")
    assert shared_by == {"bags": 3, "bags+two_groups": 3, "focal+focal_cls": 3, "balms": 1}
    images = 3 * 2  # of each, by the budget
    assert hours == pytest.approx(2 * images / planned.throughput[TINY_NAME].retrain / 3600)
    of_val = 12 / planned.throughput[TINY_NAME].predict / 3600
    _, predicted_by, predicting = parts("predict")
    assert predicted_by == shared_by
    assert predicting == pytest.approx((4 - 2 * zoo().prediction.shared) * of_val)
    assert planned.hours_saved == pytest.approx(hours + 4 * of_val - predicting)
    assert "6 jobs share passes" in planned.text()
    complete_run(experiment.rows[0].runs[0], 0.1, 0.1)
    left = {**shared_by, "bags": 1, "bags+two_groups": 2, "focal+focal_cls": 2}
    assert parts("retrain")[1:] == (left, hours)
    assert parts("predict")[1] == left


def test_measured_throughput_goes_before_that_of_a_zoo() -> None:
    log = Path("results/runs/tiny/synthetic_tiny/torchvision/tiny_mask_rcnn/rfs/seed0/train/progress.jsonl")
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"images_per_second": rate}) + "\n" for rate in (4.0, 8.0, 6.0)))
    planned = plan_experiment(load_experiment(str(write([f"method: softmax, {TINY}"]))))
    assert planned.throughput[TINY_NAME].train == 6.0


def test_the_size_of_a_checkpoint_is_that_of_the_model() -> None:
    planned = plan_experiment(load_experiment(str(write([f"method: softmax, {TINY}"]))))
    assert planned.jobs[0].megabytes == pytest.approx(14, abs=3)


def test_images_that_are_repeated_are_said_not_to_be_counted() -> None:
    path = write([f"method: softmax, {TINY}", f"method: softmax+rfs, {TINY}"])
    assert "repeated" not in plan_experiment(load_experiment(str(path))).text()  # a budget of iterations
    path.write_text(path.read_text().replace("budget: tiny\n", ""))
    text = plan_experiment(load_experiment(str(path))).text()
    said = "repeated images, which make the epochs of 1 stage longer"
    assert f"unknown, and not counted: {said}" in text.splitlines()


def test_missing_files_are_named_with_what_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DATA", "nowhere")
    row = "method: softmax, detector: torchvision/tiny_mask_rcnn, dataset: lvis_v0.5"
    planned = plan_experiment(load_experiment(str(write([row]))))
    text = planned.text()
    train = "missing: nowhere/lvis_v0.5/lvis_v0.5_train.json is missing: https://dl.fbaipublicfiles.com/"
    assert train in text
    assert "longtail data prepare lvis_v0.5," in text
    assert planned.jobs[-1].images == 5000
    assert "stuffthingmaps" not in text  # for detectors with a semantic branch only


@pytest.fixture(scope="module")
def bags() -> ExperimentPlan:
    """The plan of the BAGS table without MMDetection and data; it includes HTC with deformable layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mmdet", None)
        patch.setattr(importlib.util, "find_spec", lambda *_: None)
        patch.setenv("LONGTAIL_DATA", "nowhere")
        return plan_experiment(load_experiment("bags"))


def test_no_back_end_is_needed(bags: ExperimentPlan) -> None:
    jobs = {(job.rows[0], job.name): job for job in bags.jobs if len(job.rows) <= 2}
    assert jobs["23", "train"].hours > 0
    assert 300 < jobs["23", "train"].megabytes < 900
    assert any("back end 'mmdet' is not installed" in line for line in bags.missing)
    assert any(
        "htc_x101_64x4d_fpn_20e_20190408-497f2561.pth, SHA-256 497f2561" in line for line in bags.missing
    )


def test_rates_depend_on_the_architecture_and_the_step(bags: ExperimentPlan) -> None:
    small, large = (bags.throughput[name] for name in ("torchvision/faster_rcnn_r50_fpn", HTC))
    assert small.train > large.train > 0
    assert small.retrain == pytest.approx(small.train * zoo().retraining.times, rel=0.01)
    assert small.predict == pytest.approx(zoo().rates[0].predict, rel=0.01)
    hours = {job.name: job.hours * 3600 / job.images for job in bags.jobs if job.rows == ("22",)}
    assert hours["retrain"] == pytest.approx(1 / large.retrain)
    assert hours["predict"] == pytest.approx(1 / large.predict)


def test_a_stated_rate_is_that_of_its_preset_only() -> None:
    other = "torchvision/tiny_faster_rcnn"
    path = write([f"method: softmax, {TINY}", f"method: softmax, detector: {other}, dataset: synthetic_tiny"])
    planned = plan_experiment(load_experiment(str(path)), {TINY_NAME: 9.0})
    assert (planned.throughput[TINY_NAME].train, planned.throughput[other].train) == (9.0, 0.0)
    assert f"hours of {other}: state {other}=N" in planned.text()
    with pytest.raises(BenchmarkError, match="no row has the detector 'torchvision/tiny'"):
        plan_experiment(load_experiment(str(path)), {"torchvision/tiny": 1.0})


def test_trainings_that_do_not_fit_the_gpu_say_how_they_would(bags: ExperimentPlan) -> None:
    """Eight images of HTC at once; according to the zoo, one needs 7.5 GB."""
    assert bags.too_large == []  # at most the two images of a worker
    manifest = yaml.safe_load((project_root() / "methods/softmax/method.yaml").read_text())
    stage = manifest["stages"][0] | {"images_per_worker": 8}
    Path("methods/whole").mkdir(parents=True)
    whole = {**manifest, "name": "whole", "stages": [stage], "variants": {}}
    Path("methods/whole/method.yaml").write_text(yaml.safe_dump(whole))
    path = write([f"method: whole, detector: {HTC}, dataset: lvis_v0.5"])
    path.write_text(path.read_text().replace("budget: tiny", "method_paths: [methods]"))
    (text,) = plan_experiment(load_experiment(str(path)), gpu="A100-40GB").too_large
    assert re.search(r"train takes \d\d GB, A100-40GB has 40: --images-at-once [3-6]$", text)
    assert plan_experiment(load_experiment(str(path)), gpu="H100-80GB").too_large == []
    with pytest.raises(BenchmarkError, match="no GPU 'V1' is known"):
        plan_experiment(bags.experiment, gpu="V1")


def test_finished_steps_are_done() -> None:
    experiment = load_experiment(str(write([f"method: softmax, {TINY}"])))
    complete_run(experiment.rows[0].runs[0], 0.5, 0.4)
    planned = plan_experiment(experiment, {TINY_NAME: 1.0})
    assert [job.done for job in planned.jobs] == [True, True]
    assert planned.as_dict()["gpu_hours_left"] == 0
