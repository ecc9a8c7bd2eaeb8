"""Shared predictions have the same bytes as separate ones, whatever happens to the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_for
from places import made, place_beside, record_in
from torch import Tensor, nn

from benchmark.annotations import vocabulary_hash
from benchmark.recipes import load_experiment, load_object, with_detector
from benchmark.records import State
from benchmark.steps import Means, Step, make, run_files, steps_of
from benchmark.steps.listing import PREDICT, RETRAIN
from benchmark.steps.making import make_shared
from benchmark.steps.sharing import SharedPass, shared_passes
from benchmark.training import StageJob
from benchmark.training.stages import read_training_data

EXPERIMENT = Path(__file__).parent / "predicting.yaml"
POST_HOC = ("softmax", "tau_norm", "select,tail_threshold=10", "select,tail_threshold=20")
RETRAINED = ("bags", "focal")
TRAININGS = ("train", "retrain")
BOXES = "torchvision/tiny_faster_rcnn"
"""Without masks, for whole commands."""
CASES = [
    ("torchvision/tiny_mask_rcnn", POST_HOC),
    ("torchvision/tiny_mask_rcnn", RETRAINED),
    ("mmdet/tiny_mask_rcnn", POST_HOC),
]

Steps = dict[str, list[Step]]
"""The steps of each row."""
Files = dict[str, bytes]
"""What a prediction makes, by role."""
Alone = Callable[[str, Iterable[str]], dict[str, Files]]


def rows(detector: str) -> Steps:
    """Rows with few detections if they have masks."""
    found = {}
    for row in load_experiment(str(with_detector(str(EXPERIMENT), detector))).rows:
        (run,) = row.runs
        if detector != BOXES:
            run = run.model_copy(update={"test": run.test.model_copy(update={"max_detections": 30})})
        found[row.id] = steps_of(run)
    return found


def command(shared: SharedPass, place: Path) -> list[str]:
    """The workflow's command, in a place with the experiment on boxes only."""
    (place / EXPERIMENT.name).write_text(EXPERIMENT.read_text().replace("torchvision/tiny_mask_rcnn", BOXES))
    return [sys.executable, "-m", "benchmark.cli", "make", EXPERIMENT.name, shared.name]


def passes_of(steps: Steps) -> dict[tuple[str, ...], SharedPass]:
    """The shared passes that predict, by their rows."""
    row_of = {step.place: row for row, own in steps.items() for step in own if step.kind is PREDICT}
    found = shared_passes(step for own in steps.values() for step in own)
    return {tuple(row_of[step.place] for step in shared.steps): shared for shared in found if shared.predicts}


def predictions(steps: Steps, names: Iterable[str]) -> dict[str, Step]:
    return {row: step for row in names for step in steps[row] if step.kind is PREDICT}


def trainings(steps: Steps, names: Iterable[str]) -> list[Step]:
    """The trainings before the predictions of the rows, without transform stages."""
    found = {step.place: step for row in names for step in steps[row] if step.kind.name in TRAININGS}
    return [*found.values()]


def untrained(step: Step) -> None:
    """Finish a training with its initial weights."""
    with made(step) as folder:
        before = step.inputs.get("init")
        files, init = run_files(step.run), before.output() if before is not None else None
        job = StageJob(step.run, step.name, files, folder / step.kind.outputs["main"], init)
        annotations, statistics = read_training_data(step.run, files)
        vocabulary = vocabulary_hash(annotations.categories)
        detector, conventions = job.detector(statistics, vocabulary)
        job.write_checkpoint(detector, vocabulary, conventions)


def files_of(step: Step, place: Path = Path()) -> Files:
    return {role: (place / step.output(role)).read_bytes() for role in step.kind.outputs}


@pytest.fixture(scope="module")
def workplace(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own: others must not take the random weights for those of finished trainings."""
    return place_beside(tmp_path_factory.mktemp("untrained"), workplace)


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Alone:
    """The files of predictions that were made separately.

    Afterwards the store of the workplace contains all steps before the predictions, with random weights.
    """
    found: dict[tuple[str, str], Files] = {}

    def of(detector: str, names: Iterable[str]) -> dict[str, Files]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(workplace)
            steps = rows(detector)
            for row, prediction in predictions(steps, names).items():
                for step in steps[row][: steps[row].index(prediction)]:
                    if step.kind.name in TRAININGS and not step.finished:
                        untrained(step)
                    else:
                        make(step, Means())
                if (detector, row) not in found:
                    make(prediction, Means())
                    found[detector, row] = files_of(prediction)
        return {row: found[detector, row] for row in names}

    return of


@pytest.mark.parametrize(("detector", "names"), CASES)
def test_together_as_alone(
    workplace: Path,
    alone: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    detector: str,
    names: tuple[str, ...],
) -> None:
    """Including the transform stages before them; costs add up to that of the pass."""
    steps, wanted = rows(detector), alone(detector, names)
    monkeypatch.chdir(place_beside(tmp_path, workplace, *trainings(steps, names)))
    shared, begin = passes_of(steps)[names], time.monotonic()
    transforms = [step for row in names for step in steps[row] if step.kind.name == "transform"]
    assert {step.place for step in shared.transforms} == {step.place for step in transforms}
    make_shared(shared, Means())
    duration = time.monotonic() - begin
    records = [record_in(Path(), step) for step in shared.steps]
    for row, step in predictions(steps, names).items():
        assert files_of(step) == wanted[row], row
    assert {record.facts["shared_by"] for record in records if record is not None} == {len(names)}
    records += [record_in(Path(), step) for step in transforms]
    cost = sum(record.cost.wall_s for record in records if record is not None)
    assert 0.3 * duration < cost <= duration + 0.1
    assert shared.done.exists()
    assert not any(step.work.exists() for step in [*shared.steps, *transforms])


def test_killed_and_made_again(workplace: Path, alone: Alone, tmp_path: Path) -> None:
    """Killed while the files are half written."""
    steps, wanted = rows(BOXES), alone(BOXES, POST_HOC)
    place = place_beside(tmp_path, workplace, *trainings(steps, POST_HOC))
    shared = passes_of(steps)[POST_HOC]
    process = subprocess.Popen(command(shared, place), cwd=place, stderr=subprocess.PIPE)
    wait_for(process, lambda: list((place / "results" / "work").glob("predict/*/.detections.parquet.*")), 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    states = {record.state for step in shared.steps if (record := record_in(place, step)) is not None}
    assert states == {State.running}
    subprocess.run(command(shared, place), cwd=place, check=True, capture_output=True)
    assert {row: files_of(step, place) for row, step in predictions(steps, POST_HOC).items()} == wanted
    assert not list((place / "results" / "work").glob("predict/*"))


def test_two_processes(workplace: Path, alone: Alone, tmp_path: Path) -> None:
    """Each process takes every second image."""
    steps, wanted = rows(BOXES), alone(BOXES, POST_HOC)
    place = place_beside(tmp_path, workplace, *trainings(steps, POST_HOC))
    shared = passes_of(steps)[POST_HOC]
    two = [*command(shared, place), "--devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(two, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert {row: files_of(step, place) for row, step in predictions(steps, POST_HOC).items()} == wanted


def test_what_fails_harms_nobody(
    workplace: Path,
    alone: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One has an error in its code. The transform of another changes more than the classifier, which only a
    shared pass refuses."""
    steps, wanted = rows(BOXES), alone(BOXES, POST_HOC)
    monkeypatch.chdir(place_beside(tmp_path, workplace, *trainings(steps, POST_HOC)))
    shared, own = passes_of(steps)[POST_HOC], predictions(steps, POST_HOC)
    broken, moved = own["select,tail_threshold=10"], own["tau_norm"]
    plugin = broken.run.plugin_path
    calls = []

    def scores(self: nn.Module, logits: Tensor) -> Tensor:
        calls.append(self)
        raise RuntimeError("an error in the code")

    def move(detector: nn.Module, *_: Any, **__: Any) -> None:
        next(parameter for name, parameter in detector.named_parameters() if "rpn" in name).data.add_(0.01)

    select = load_object("methods.tau_norm.classifier:TauNormSelect", plugin)
    monkeypatch.setattr(select, "scores", scores)
    monkeypatch.setattr("methods.tau_norm.stages.normalise", move)
    make_shared(shared, Means())
    assert len(calls) == 2  # each once, at the first image
    failed, refused = record_in(Path(), broken), record_in(Path(), moved)
    assert failed is not None
    assert failed.state == State.failed
    assert failed.reason == "RuntimeError: an error in the code"
    assert refused is not None
    assert refused.state == State.failed
    assert "equal but for their classifiers" in (refused.reason or "")
    assert files_of(own["softmax"]) == wanted["softmax"]
    make(moved, Means())
    assert files_of(moved) != wanted["tau_norm"]


def test_who_shares_a_pass(
    workplace: Path, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints of one base that are ready together; no prediction waits for a separate retraining."""
    alone(BOXES, [*POST_HOC, *RETRAINED])
    steps = rows(BOXES)
    monkeypatch.chdir(place_beside(tmp_path, workplace, *trainings(steps, POST_HOC[:1])))
    passes = passes_of(steps)
    assert set(passes) == {POST_HOC, RETRAINED}  # ncm_fc looks at training images first
    shared = passes[RETRAINED]
    trained = shared.after
    assert trained is not None
    assert shared.inputs[0] is trained
    assert not any(isinstance(step, Step) and step.kind is RETRAIN for step in shared.inputs)
    folder = workplace / trained.steps[0].folder
    trained.steps[0].folder.parent.mkdir(parents=True)
    trained.steps[0].folder.symlink_to(folder.resolve())
    # the other is trained alone, and its prediction made alone
    assert [step.place for step in shared.unfinished] == [shared.steps[0].place]
    assert not shared.is_needed
    make(predictions(steps, POST_HOC)["softmax"], Means())
    assert len(passes[POST_HOC].unfinished) == 3
    assert passes[POST_HOC].name == passes_of(rows(BOXES))[POST_HOC].name
