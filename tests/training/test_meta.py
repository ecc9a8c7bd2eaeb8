"""Stages with a meta step: their effect, resuming, several processes, and predictions."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import wait_for
from places import made_in, make_command, place_beside, record_in, step_of
from pydantic import ValidationError

from benchmark.detectors.checkpoints import load
from benchmark.inference.predict import predict_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Run, Schedule, Stage
from benchmark.records import State
from benchmark.steps import Step, dataset_files
from benchmark.training import StageJob, run_stage

RECIPES = Path(__file__).parent / "retraining.yaml"
WEIGHT, BIAS = "classifiers.0.linear.weight", "classifiers.0.linear.bias"
REWEIGHTER = "classifiers.0.reweighter"


def recipe(row: str, meta: dict[str, Any] | None = None, **schedule: Any) -> Run:
    """A run of the tiny experiment with other schedule settings or settings of its meta step."""
    run = find_run(f"{RECIPES}:{row}")
    stage = run.stages[0]
    assert stage.schedule is not None
    changes: dict[str, Any] = {"schedule": Schedule(**(stage.schedule.model_dump() | schedule))}
    if meta is not None:
        assert stage.meta is not None
        changes["meta"] = stage.meta.model_copy(update=meta)
    return run.model_copy(update={"stages": [stage.model_copy(update=changes)]})


def retrain(run: Run, output: Path, init: Path) -> Path:
    run_stage(StageJob(run, "retrain", dataset_files(run.dataset), output, init=init), devices=1, workers=0)
    return output


@pytest.fixture(scope="module")
def base_step(workplace: Path) -> Step:
    """The finished base model, in the store of the workplace."""
    return made_in(workplace, recipe("sigmoid"), "train")


@pytest.fixture
def base(base_step: Step, workplace: Path) -> Path:
    return workplace / base_step.output()


@pytest.fixture
def place(base_step: Step, workplace: Path, tmp_path: Path) -> Path:
    """A working directory with the dataset and the base model."""
    return place_beside(tmp_path / "place", workplace, base_step)


SGD = {"iterations": 12, "checkpoint_every": 2, "optimizer": "sgd", "learning_rate": 0.01}


@pytest.mark.usefixtures("inside")
def test_the_classifier_and_what_the_step_learns_change_alone(base: Path, tmp_path: Path) -> None:
    before = load(base)["model"]
    balanced = load(retrain(recipe("balanced_softmax"), tmp_path / "a" / "checkpoint.pt", base))["model"]
    learned = load(retrain(recipe("balms"), tmp_path / "b" / "checkpoint.pt", base))["model"]
    assert learned.keys() - balanced.keys() == {REWEIGHTER}
    assert balanced.keys() == before.keys()
    for after in (balanced, learned):
        assert {name for name in before if not before[name].equal(after[name])} == {WEIGHT, BIAS}
    assert 0 < learned[REWEIGHTER].abs().max() < 0.05  # three Adam steps of at most about 0.01
    line = json.loads((tmp_path / "b" / "progress.jsonl").read_text().splitlines()[-1])
    assert line["meta_loss"] > 0
    assert line["loss"] == line["losses"]["loss_cls"]


@pytest.mark.usefixtures("inside")
def test_a_killed_stage_ends_in_the_same_bytes(base: Path, place: Path, tmp_path: Path) -> None:
    """With SGD, so that momentum buffers and the learner's Adam state must both be restored."""
    run = recipe("balms", **SGD)
    whole = retrain(run, tmp_path / "whole" / "checkpoint.pt", base)
    program, step = make_command(run, "retrain", place), step_of(run, "retrain")
    process = subprocess.Popen(program, cwd=place, stderr=subprocess.PIPE)
    wait_for(process, lambda: list((place / step.work).glob("resume/iteration_*.sha256")))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (place / step.output()).exists()
    subprocess.run(program, cwd=place, check=True, capture_output=True)
    record = record_in(place, step)
    assert record is not None
    assert record.state == State.done
    assert record.facts["resumed_at"] >= 2
    assert (place / step.output()).read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("inside")
def test_new_rois_for_the_real_step_make_another_result(base: Path, tmp_path: Path) -> None:
    fresh = load(retrain(recipe("balms"), tmp_path / "a" / "checkpoint.pt", base))["model"]
    run = recipe("balms", meta={"resample_rois": False})
    reused = load(retrain(run, tmp_path / "b" / "checkpoint.pt", base))["model"]
    assert not fresh[WEIGHT].equal(reused[WEIGHT])
    assert fresh[WEIGHT].isfinite().all()


@pytest.mark.usefixtures("inside")
def test_mixed_precision(base: Path, tmp_path: Path) -> None:
    after = load(retrain(recipe("balms", precision="bf16-mixed"), tmp_path / "checkpoint.pt", base))["model"]
    assert after[WEIGHT].isfinite().all()
    assert after[REWEIGHTER].dtype == torch.float32
    assert after[REWEIGHTER].any()


def test_two_processes_share_what_is_learned(place: Path) -> None:
    run = recipe("balms", **SGD | {"iterations": 3})
    program, step = make_command(run, "retrain", place, "--devices", "2"), step_of(run, "retrain")
    subprocess.run(program, cwd=place, check=True, capture_output=True, timeout=300)
    after = load(place / step.output())["model"]
    assert after[REWEIGHTER].isfinite().all()
    assert after[REWEIGHTER].any()
    record = record_in(place, step)
    assert record is not None
    assert (record.facts["processes"], record.facts["batch_size"]) == (2, 2)


@pytest.mark.usefixtures("inside")
def test_the_result_predicts(base: Path, tmp_path: Path) -> None:
    run = recipe("balms")
    checkpoint = retrain(run, tmp_path / "checkpoint.pt", base)
    files = dataset_files(run.dataset)
    predict_dataset(run, files, checkpoint, tmp_path / "detections.parquet", workers=0)
    assert (tmp_path / "detections.parquet").stat().st_size > 0


def test_only_a_classifier_stage_has_a_meta_step() -> None:
    meta = {"function": "a:B", "sampler": {"kind": "a:b"}}
    schedule = {"iterations": 1, "learning_rate": 1.0}
    stage = Stage.model_validate({"name": "a", "trainable": "classifier", "meta": meta, "schedule": schedule})
    assert stage.meta is not None
    assert not stage.meta.resample_rois
    for wrong in ({"trainable": "all"}, {"kind": "fit", "trainable": "classifier", "function": "a:b"}):
        with pytest.raises(ValidationError, match="must train the classifier only"):
            Stage.model_validate({"name": "a", "meta": meta, "schedule": schedule, **wrong})


def test_the_resolved_recipe_says_where_the_meta_sampler_comes_from() -> None:
    from benchmark.recipes.explanation import explain

    lines = explain("balms:balms").splitlines()
    (line,) = [line for line in lines if "kind: methods.balms.sampler:class_balanced" in line]
    assert "methods/balms/method.yaml" in line
