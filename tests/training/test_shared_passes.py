"""A classifier that is trained together with others has the same bytes as if trained alone, whatever happens
to them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import wait_for
from places import place_beside, record_in
from shared_pass import EXPERIMENT, pass_of, retrainings

from benchmark.recipes import load_object
from benchmark.records import State
from benchmark.steps import Means, Step, make, steps_of
from benchmark.steps.making import make_shared

TOGETHER = ("bags", "two_groups", "reweighted_groups", "acsl", "focal", "inverse_count")
META = ("balanced_softmax", "balms", "balms_unadjusted")
TORCHVISION, MMDET = "torchvision/tiny_mask_rcnn", "mmdet/tiny_mask_rcnn"
CASES = [(TORCHVISION, TOGETHER), (TORCHVISION, META), (MMDET, ("two_groups", "acsl"))]

Alone = dict[tuple[str, str], bytes]


@pytest.fixture(scope="module")
def bases(workplace: Path) -> Path:
    """The workplace, with every base model in its store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for detector, rows in CASES:
            for step in (retrainings(detector)[row] for row in rows):
                for before in steps_of(step.run):
                    if before.key == step.key:
                        break
                    make(before, Means())
    return workplace


@pytest.fixture(scope="module")
def alone(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The checkpoint of every row trained alone, by detector and row."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for detector, rows in CASES:
            steps = retrainings(detector)
            place = beside(tmp_path_factory.mktemp("alone"), bases, *(steps[row] for row in rows))
            patch.chdir(place)
            for row in rows:
                make(steps[row], Means())
                found[detector, row] = steps[row].output().read_bytes()
    return found


def beside(folder: Path, bases: Path, *steps: Step) -> Path:
    """A working directory with the base models of some steps, without retrainings."""
    before = {step.inputs["init"].place: step.inputs["init"] for step in steps}
    return place_beside(folder, bases, *before.values())


@pytest.mark.parametrize(("detector", "rows"), CASES)
def test_together_as_alone(
    bases: Path,
    alone: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    detector: str,
    rows: tuple[str, ...],
) -> None:
    """Different methods and lengths, some with a meta step; their costs add up to that of the pass."""
    steps = {row: step for row, step in retrainings(detector).items() if row in rows}
    monkeypatch.chdir(beside(tmp_path, bases, *steps.values()))
    shared, begin = pass_of([*steps.values()]), time.monotonic()
    assert set(shared.steps) == set(steps.values())
    make_shared(shared, Means())
    duration = time.monotonic() - begin
    records = [record_in(Path(), step) for step in steps.values()]
    for row, step in steps.items():
        assert step.output().read_bytes() == alone[detector, row], row
    assert {record.facts["shared_by"] for record in records if record is not None} == {len(rows)}
    cost = sum(record.cost.wall_s for record in records if record is not None)
    assert 0.5 * duration < cost <= duration + 0.1
    assert shared.done.exists()
    assert not any(step.work.exists() for step in steps.values())


def test_killed_and_resumed(bases: Path, alone: Alone, tmp_path: Path) -> None:
    """Killed in the middle, when only some may have a checkpoint."""
    steps = {row: step for row, step in retrainings(TORCHVISION).items() if row in TOGETHER}
    place = beside(tmp_path, bases, *steps.values())
    command = [sys.executable, str(EXPERIMENT.with_name("shared_pass.py")), TORCHVISION, *steps]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE)
    wait_for(process, lambda: list((place / "results" / "work").glob("retrain/*/resume/iteration_*.sha256")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    states = [record.state for step in steps.values() if (record := record_in(place, step)) is not None]
    assert State.running in states
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    for row, step in steps.items():
        assert (place / step.output()).read_bytes() == alone[TORCHVISION, row], row
    resumed = [record_in(place, step) for step in steps.values()]
    assert max(record.facts["resumed_at"] for record in resumed if record is not None) == 2


def test_what_fails_harms_nobody(
    bases: Path, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One diverges, one has an error in its code; their records state this."""
    steps = {row: step for row, step in retrainings(TORCHVISION, {"focal": 1e30}).items() if row in TOGETHER}
    monkeypatch.chdir(beside(tmp_path, bases, *steps.values()))
    run = steps["acsl"].run
    original = load_object(run.classifier, run.plugin_path).loss

    def broken(self: torch.nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if list(steps["acsl"].work.glob("resume/*.pt")):
            raise RuntimeError("an error in the code")
        found: dict[str, torch.Tensor] = original(self, logits, labels)
        return found

    monkeypatch.setattr(load_object(run.classifier, run.plugin_path), "loss", broken)
    make_shared(pass_of([*steps.values()]), Means())
    diverged, failed = record_in(Path(), steps["focal"]), record_in(Path(), steps["acsl"])
    assert diverged is not None
    assert failed is not None
    assert (diverged.state, failed.state) == (State.diverged, State.failed)
    assert failed.reason == "RuntimeError: an error in the code"
    assert "broken" in (failed.traceback or "")
    assert not steps["focal"].finished
    assert not steps["acsl"].finished
    for row in set(TOGETHER) - {"focal", "acsl"}:
        assert steps[row].output().read_bytes() == alone[TORCHVISION, row], row


def test_two_processes_share_a_pass(bases: Path, tmp_path: Path) -> None:
    """With the command of the workflow, compared with one of its trainings alone with two processes."""
    rows = ("two_groups", "inverse_count")
    lines = EXPERIMENT.read_text().splitlines()
    kept = [line for line in lines if "id:" not in line or any(f"id: {row}," in line for row in rows)]
    recipe = tmp_path / EXPERIMENT.name
    recipe.write_text("\n".join(kept))
    steps = {row: step for row, step in retrainings(TORCHVISION).items() if row in rows}
    one, checkpoints = steps["two_groups"], []
    for job in ((str(recipe), pass_of([*steps.values()]).name), (f"{recipe}:two_groups", one.place)):
        place = beside(tmp_path / str(len(checkpoints)), bases, one)
        command = [sys.executable, "-m", "benchmark.cli", "make", *job, "--devices", "2"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        checkpoints.append((place / one.output()).read_bytes())
    assert checkpoints[0] == checkpoints[1]
