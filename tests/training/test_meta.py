"""Stages with a meta step: what they change, resuming, several processes, and the way to detections."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from benchmark.detectors.checkpoints import load
from benchmark.inference.predict import predict_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Run, Schedule, Stage
from benchmark.records import State, read_record
from benchmark.training import run_stage

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
    run_stage(run, "retrain", output, init=init, devices=1, workers=0, work=output.parent / "work")
    return output


def command(run: Run, output: Path, init: Path, *options: str) -> list[str]:
    file = output.parent / "recipe.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(run.model_dump_json(by_alias=True))
    program = [sys.executable, "-m", "benchmark.cli", "train", str(file), "retrain", "--init", str(init)]
    return [*program, "-o", str(output), "--work", str(output.parent / "work"), *options]


@pytest.fixture(scope="module")
def base(workplace: Path) -> Path:
    """The finished base model."""
    output = workplace / "sigmoid_base" / "checkpoint.pt"
    old = Path.cwd()
    os.chdir(workplace)
    try:
        work = output.parent / "work"
        run_stage(recipe("sigmoid"), "train", output, init=None, devices=1, workers=0, work=work)
    finally:
        os.chdir(old)
    return output


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
def test_a_killed_stage_ends_in_the_same_bytes(base: Path, inside: Path, tmp_path: Path) -> None:
    """SGD, so that momentum buffers and the learner's Adam state must both come back."""
    run = recipe("balms", **SGD)
    whole = retrain(run, tmp_path / "whole" / "checkpoint.pt", base)
    output = tmp_path / "killed" / "checkpoint.pt"
    program = command(run, output, base)
    process = subprocess.Popen(program, cwd=inside, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(output.parent.glob("work/*/iteration_*.sha256")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    subprocess.run(program, cwd=inside, check=True, capture_output=True)
    record = read_record(output.with_name("checkpoint.provenance.json"))
    assert record is not None
    assert record["state"] == State.done
    assert record["facts"]["resumed_at"] >= 2
    assert output.read_bytes() == whole.read_bytes()


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


def test_two_processes_share_what_is_learned(base: Path, inside: Path, tmp_path: Path) -> None:
    run = recipe("balms", **SGD | {"iterations": 3})
    output = tmp_path / "checkpoint.pt"
    program = command(run, output, base, "--devices", "2")
    subprocess.run(program, cwd=inside, check=True, capture_output=True, timeout=300)
    after = load(output)["model"]
    assert after[REWEIGHTER].isfinite().all()
    assert after[REWEIGHTER].any()
    record = read_record(tmp_path / "checkpoint.provenance.json")
    assert record is not None
    assert (record["facts"]["processes"], record["facts"]["batch_size"]) == (2, 2)


@pytest.mark.usefixtures("inside")
def test_the_result_predicts(base: Path, tmp_path: Path) -> None:
    run = recipe("balms")
    checkpoint = retrain(run, tmp_path / "checkpoint.pt", base)
    predict_dataset(run, checkpoint, tmp_path / "detections.parquet", workers=0)
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
