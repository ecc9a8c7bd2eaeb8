"""A stage ends with the same bytes however often it is killed, and trains only its own part."""

import json
import os
import resource
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import wait_for
from places import make_command, place_beside, record_in, step_of

from benchmark.detectors import TrainingPass
from benchmark.detectors.checkpoints import CheckpointError, load
from benchmark.detectors.torchvision import TorchvisionDetector
from benchmark.errors import BenchmarkError
from benchmark.recipes import find_run
from benchmark.recipes.models import Run, Schedule, Stage
from benchmark.recipes.paths import DatasetFiles
from benchmark.records import State
from benchmark.statistics import class_statistics
from benchmark.steps import Means, StepError, dataset_files, make
from benchmark.training import StageJob, TrainingDivergedError, TrainingError, run_stage

TINY = Path(__file__).parent.parent / "workflow" / "tiny.yaml"
LVIS = Path(__file__).parent.parent / "data" / "lvis_val_100.json"


def recipe(row: str, stage: int = 0, options: dict[str, Any] | None = None, **schedule: Any) -> Run:
    """A run of the tiny experiment with other schedule settings or classifier options."""
    run = find_run(f"{TINY}:{row}")
    stages = list(run.stages)
    old = stages[stage].schedule
    assert old is not None
    new = Schedule(**(old.model_dump() | schedule))
    stages[stage] = stages[stage].model_copy(update={"schedule": new})
    return run.model_copy(update={"stages": stages, "options": run.options | (options or {})})


def run_here(
    run: Run, stage: str, output: Path, init: Path | None = None, files: DatasetFiles | None = None
) -> Path:
    found = files or dataset_files(run.dataset)
    run_stage(StageJob(run, stage, found, output, init=init), devices=1, workers=0)
    return output


@pytest.fixture
def place(tmp_path: Path, workplace: Path) -> Path:
    """A working directory with the dataset and without trainings."""
    return place_beside(tmp_path, workplace)


@pytest.fixture(scope="module")
def base(workplace: Path) -> Path:
    """The finished softmax base model."""
    old = Path.cwd()
    os.chdir(workplace)
    try:
        return run_here(recipe("softmax"), "train", workplace / "base" / "checkpoint.pt")
    finally:
        os.chdir(old)


@pytest.mark.usefixtures("inside")
def test_same_recipe_same_bytes(base: Path, tmp_path: Path) -> None:
    again = run_here(recipe("softmax"), "train", tmp_path / "checkpoint.pt")
    assert again.read_bytes() == base.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "progress.jsonl"}
    other = recipe("softmax").model_copy(update={"seed": 1})
    assert run_here(other, "train", tmp_path / "other.pt").read_bytes() != base.read_bytes()


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_training_ends_in_the_same_bytes(
    base: Path, place: Path, name: signal.Signals
) -> None:
    """Stopped at an arbitrary moment after its first checkpoint, then started again with the same command."""
    run = recipe("softmax")
    command, step = make_command(run, "train", place), step_of(run, "train")
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE)
    wait_for(process, lambda: list((place / step.work).glob("resume/iteration_*.sha256")))
    process.send_signal(name)
    status = process.wait()
    assert status == (-signal.SIGKILL if name == signal.SIGKILL else 3)
    assert not (place / step.folder).exists()
    record = record_in(place, step)
    assert record is not None
    assert record.state == (State.running if name == signal.SIGKILL else State.interrupted)

    subprocess.run(command, cwd=place, check=True, capture_output=True)
    assert (place / step.output()).read_bytes() == base.read_bytes()
    record = record_in(place, step)
    assert record is not None
    assert record.state == State.done
    assert record.facts["resumed_at"] >= 2
    progress = (place / step.folder / "progress.jsonl").read_text()
    lines = [json.loads(line)["iteration"] for line in progress.splitlines()]
    assert lines == sorted(set(lines))
    assert not (place / step.work).exists()


@pytest.mark.usefixtures("inside")
def test_retraining_moves_the_classifier_alone(base: Path, tmp_path: Path) -> None:
    """BAGS' second stage: every other tensor, normalisation statistics included, equals the base model's."""
    before = load(base)["model"]
    after = load(run_here(recipe("bags"), "retrain", tmp_path / "checkpoint.pt", init=base))["model"]
    assert before.keys() == after.keys()
    changed = {
        name
        for name in after
        if before[name].shape != after[name].shape or not before[name].equal(after[name])
    }
    assert changed == {"classifiers.0.linear.weight", "classifiers.0.linear.bias"}


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("workers", [1, 2])
def test_loading_processes_do_not_change_the_result(base: Path, tmp_path: Path, workers: int) -> None:
    output = tmp_path / "checkpoint.pt"
    run = recipe("softmax")
    run_stage(
        StageJob(run, "train", dataset_files(run.dataset), output, init=None), devices=1, workers=workers
    )
    assert output.read_bytes() == base.read_bytes()


@pytest.mark.usefixtures("inside")
def test_mixed_precision_trains_alike(base: Path, tmp_path: Path) -> None:
    """bf16 arithmetic: nearly the same loss for the same weights and images; weights stay float32."""
    full, mixed = (
        run_here(recipe("softmax", precision=name, iterations=1), "train", tmp_path / name / "checkpoint.pt")
        for name in ("fp32", "bf16-mixed")
    )
    loss_full, loss_mixed = (
        json.loads((path.parent / "progress.jsonl").read_text().splitlines()[-1])["loss"]
        for path in (full, mixed)
    )
    assert loss_mixed == pytest.approx(loss_full, rel=0.02)
    weights = [load(path)["model"]["classifiers.0.linear.weight"] for path in (full, mixed)]
    assert not weights[0].equal(weights[1])
    assert weights[1].dtype == torch.float32
    retrained = tmp_path / "bags" / "checkpoint.pt"
    run_here(recipe("bags", precision="bf16-mixed"), "retrain", retrained, init=base)


@pytest.mark.usefixtures("inside")
def test_fewer_images_at_once_train_the_same_model(place: Path, tmp_path: Path) -> None:
    """A step of SGD is the same but for rounding, by which another box may be proposed and drawn; batch
    statistics would differ, so ``norm: batch`` is refused."""
    whole = recipe("softmax", iterations=1, optimizer="sgd")
    detector = whole.detector.model_copy(update={"norm": "frozen_statistics"})
    standing = recipe("softmax", iterations=1, optimizer="sgd", learning_rate=1e-12)
    trained = []
    for number, (run, at_once) in enumerate([(whole, None), (whole, 1), (standing, None)]):
        own = run.model_copy(update={"detector": detector})
        output = tmp_path / str(number) / "checkpoint.pt"
        job = StageJob(own, "train", dataset_files(run.dataset), output, init=None)
        run_stage(job, devices=1, workers=0, images_at_once=at_once)
        trained.append(load(output)["model"])
    at_once, one_by_one, before = trained
    for name, value in at_once.items():
        step = (value.double() - before[name].double()).norm()
        difference = (one_by_one[name].double() - value.double()).norm()
        assert difference <= 0.02 * step + 1e-9, name

    job = StageJob(whole, "train", dataset_files(whole.dataset), tmp_path / "refused.pt", init=None)
    with pytest.raises(TrainingError, match="--images-at-once 1, norm: batch"):
        run_stage(job, devices=1, workers=0, images_at_once=1)
    assert not job.output.exists()
    refused = make_command(whole, "train", place, "--images-at-once", "1")
    process = subprocess.run(refused, cwd=place, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "--images-at-once 1, norm: batch" in process.stderr
    assert not (place / step_of(whole, "train").folder).exists()


@pytest.mark.usefixtures("inside")
def test_float32_is_exact_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    """PyTorch's own default on a GPU: TF32 in convolutions, float32 in linear layers."""
    for precision, tf32 in (("tf32", True), ("fp32", False)):
        output = tmp_path / precision / "checkpoint.pt"
        run = recipe("softmax", iterations=1, precision=precision)
        facts = run_stage(
            StageJob(run, "train", dataset_files(run.dataset), output, init=None), devices=1, workers=0
        )
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
        assert facts["tf32"] == tf32


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused(place: Path) -> None:
    """``tests/test_processes.py`` has those among which it can."""
    run = recipe("softmax")
    step = step_of(run, "train")
    odd = make_command(run, "train", place, "--devices", "3")
    refused = subprocess.run(odd, cwd=place, check=False, capture_output=True, text=True, timeout=300)
    assert refused.returncode != 0
    assert "the batch cannot be dealt evenly" in refused.stderr
    assert not (place / step.folder).exists()


@pytest.mark.parametrize("limit", [20_000, 200_000])
def test_a_full_disk_stops_with_one_message(place: Path, limit: int) -> None:
    """The kernel refuses larger files, like a full disk; no half-written file is left."""
    run = recipe("softmax")
    done = subprocess.run(
        make_command(run, "train", place),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
    assert "remedy" in done.stderr
    work = place / "results" / "work"
    assert not [path for path in work.rglob("*") if path.suffix in (".pt", ".tmp", ".sha256")]
    record = record_in(place, step_of(run, "train"))
    assert record is not None
    assert record.state == State.failed


def test_divergence_is_a_state_with_the_iteration(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    step = step_of(recipe("softmax", learning_rate=1e12, warmup_iterations=0, clip_norm=None), "train")
    with pytest.raises(TrainingDivergedError, match=r"diverged at iteration \d"):
        make(step, Means())
    record = record_in(place, step)
    assert record is not None
    assert record.state == State.diverged
    assert "iteration" in (record.reason or "")
    assert not step.finished


@pytest.mark.usefixtures("inside")
def test_the_learning_rate_scale_is_recorded_and_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "benchmark")
    run, output = recipe("softmax", batch_size=4), tmp_path / "checkpoint.pt"
    facts = run_stage(
        StageJob(run, "train", dataset_files(run.dataset), output, init=None), devices=1, workers=0
    )
    assert (facts["batch_size"], facts["learning_rate_scale"], facts["learning_rate"]) == (4, 2.0, 0.002)
    assert facts["iterations"] == 3
    assert "times 2 for the batch size" in caplog.text


PLUGIN = """
import torch

def count_labels(detector, data, statistics, scale):
    counts = torch.zeros(statistics.num_classes)
    for images, targets in data.batches():
        (rois,) = detector.box_features(images, targets)
        assert rois.features.shape[1] == detector.classifiers[0].in_features
        for target in targets:
            counts += torch.bincount(target.labels, minlength=statistics.num_classes)
    assert counts.tolist() == statistics.instance_counts.tolist()
    detector.classifiers[0].linear.bias[:-1] = counts * scale

def double(detector, statistics):
    detector.classifiers[0].linear.weight *= 2
"""


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("kind", ["fit", "transform"])
def test_stages_without_gradient(base: Path, tmp_path: Path, kind: str) -> None:
    """``fit`` sees every training image once with its ground truth; ``transform`` changes weights only."""
    (tmp_path / "stage.py").write_text(PLUGIN)
    function, options = ("stage:count_labels", {"scale": 0.5}) if kind == "fit" else ("stage:double", {})
    stage = Stage(name="post", kind=kind, function=function, options=options)
    run = recipe("softmax").model_copy(update={"stages": [stage], "plugin_path": str(tmp_path)})
    after = load(run_here(run, "post", tmp_path / "out" / "checkpoint.pt", init=base))["model"]
    before = load(base)["model"]
    bias, weight = "classifiers.0.linear.bias", "classifiers.0.linear.weight"
    if kind == "transform":
        torch.testing.assert_close(after[weight], before[weight] * 2)
    else:
        assert after[bias][:-1].sum() > 1
    changed = {name for name in after if not before[name].equal(after[name])}
    assert changed == ({weight} if kind == "transform" else {bias})


@pytest.mark.usefixtures("inside")
def test_a_checkpoint_that_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    run = recipe("bags")
    output = tmp_path / "out" / "checkpoint.pt"
    broken = tmp_path / "broken.pt"
    broken.write_bytes(base.read_bytes()[: base.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        run_here(run, "retrain", output, init=broken)
    content = load(base)
    torch.save(content | {"vocabulary": "0" * 64}, broken)
    with pytest.raises(CheckpointError, match=r"checkpoint .* different categories"):
        run_here(run, "retrain", output, init=broken)
    model = dict(content["model"])
    model["backbone.body.conv1.weight"] = torch.zeros(1)
    del model["rpn.head.cls_logits.bias"]
    torch.save(content | {"model": model}, broken)
    with pytest.raises(CheckpointError, match=r"rpn\.head\.cls_logits\.bias: missing") as error:
        run_here(run, "retrain", output, init=broken)
    assert "backbone.body.conv1.weight: shape (1,)" in str(error.value)
    assert not output.exists()


def test_a_checkpoint_with_code_in_it_is_not_run(inside: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    torch.save({"model": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="cannot read") as error:
        run_here(recipe("bags"), "retrain", tmp_path / "out.pt", init=tmp_path / "evil.pt")
    assert "weights_only" not in str(error.value)  # PyTorch advises to run it
    assert not (tmp_path / "executed").exists()


def test_bad_data_stops_before_training(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    files, output = dataset_files(recipe("softmax").dataset), tmp_path / "out" / "checkpoint.pt"
    images = tmp_path / "images"
    shutil.copytree(files.train_images, images)
    files = replace(files, train_images=images)

    image = next(iter(sorted(images.glob("train_*.png"))))
    image.rename(tmp_path / "away.png")
    with pytest.raises(BenchmarkError, match="1 of 24 image files are missing") as error:
        run_here(recipe("softmax"), "train", output, files=files)
    assert image.name in str(error.value)
    (tmp_path / "away.png").rename(image)

    image.write_bytes(b"not a picture")
    with pytest.raises(BenchmarkError, match="cannot decode"):
        run_here(recipe("softmax", iterations=30), "train", output, files=files)

    files = replace(files, statistics=tmp_path / "class_statistics.csv")
    class_statistics(LVIS).write(files.statistics)
    with pytest.raises(TrainingError, match="different categories"):
        run_here(recipe("softmax"), "train", output, files=files)
    assert not output.exists()


@pytest.mark.usefixtures("inside")
def test_a_resumed_training_still_knows_when_it_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is 100 times the loss of the first iteration, even if that was before an interruption."""
    run = recipe("softmax", checkpoint_every=1)
    output, forward, calls = tmp_path / "checkpoint.pt", TorchvisionDetector.forward, 0

    def interrupted(*arguments: Any, **options: Any) -> TrainingPass:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    def exploded(*arguments: Any, **options: Any) -> TrainingPass:
        found = forward(*arguments, **options)
        return found._replace(sums={name: loss * 1e4 for name, loss in found.sums.items()})

    monkeypatch.setattr(TorchvisionDetector, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_here(run, "train", output)
    monkeypatch.setattr(TorchvisionDetector, "forward", exploded)
    with pytest.raises(TrainingDivergedError, match="diverged at iteration 2"):
        run_here(run, "train", output)


@pytest.mark.usefixtures("inside")
def test_gradients_that_are_not_finite_are_a_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the same iteration may still be finite, e.g. with the square root of 0."""
    forward = TorchvisionDetector.forward

    def steep(*arguments: Any, **options: Any) -> TrainingPass:
        found = forward(*arguments, **options)
        found.sums["loss_steep"] = (found.sums["loss_box"] * 0).sqrt()
        found.counts["loss_steep"] = found.counts["loss_box"]
        return found

    monkeypatch.setattr(TorchvisionDetector, "forward", steep)
    with pytest.raises(TrainingDivergedError, match=r"(?s)iteration 0.*gradient norm nan"):
        run_here(recipe("softmax", clip_norm=10.0), "train", tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()
    with pytest.raises(TrainingDivergedError, match="the weights diverged before iteration 1"):
        run_here(recipe("softmax", clip_norm=None, iterations=1), "train", tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_stage_that_continues_another_is_not_started_from_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    step = step_of(recipe("bags"), "retrain")
    with pytest.raises(StepError, match=r"'retrain' of BAGS needs 'train' of Softmax, which is not finished"):
        make(step, Means())
    record = record_in(place, step)
    assert record is not None
    assert record.state == State.failed


@pytest.mark.usefixtures("inside")
def test_a_setting_without_effect_is_said_before_training_and_recorded(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Group edges above all counts: one message, and an entry in the record."""
    run = recipe("bags", 0, {"edges": [100_000]}, iterations=1)
    output = tmp_path / "checkpoint.pt"
    facts = run_stage(
        StageJob(run, "retrain", dataset_files(run.dataset), output, init=base), devices=1, workers=0
    )
    shown = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert shown == facts["warnings"]
    assert ["group edges [100000]" in text for text in shown] == [True]
