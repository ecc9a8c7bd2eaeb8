"""Unfinished trainings: damaged checkpoints are skipped, and the same command ends with the same bytes."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import wait_for, wait_for_success
from places import place_beside

from benchmark.detectors.checkpoints import load
from benchmark.recipes import find_run
from benchmark.recipes.paths import RECORD
from benchmark.steps import Means, Step, make, steps_of
from benchmark.training.resume import ResumeFolder

RECIPES = Path(__file__).parent / "resuming.yaml"
STAGES = {
    "all": ("softmax", "train"),
    "state of a loss": ("eqlv2", "train"),
    "classifier": ("bags", "retrain"),
    "meta": ("balms", "retrain"),
    "chosen RoIs": ("simcal", "calibrate"),
    "fit": ("ncm_fc", "means"),
    "transform": ("simcal", "copy"),
}


def state(iteration: int) -> dict[str, object]:
    return {"model": {"x": torch.full((3,), float(iteration))}, "iteration": iteration}


@pytest.fixture
def folder(tmp_path: Path) -> ResumeFolder:
    """Three checkpoints saved, two kept."""
    folder = ResumeFolder(tmp_path / "key")
    for iteration in (2, 4, 6):
        folder.save(iteration, state(iteration))
    assert sorted(path.name for path in folder.folder.glob("*.pt")) == [
        f"iteration_0000000{i}.pt" for i in (4, 6)
    ]
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def alter(path: Path) -> None:
    """Flip one bit of a weight in a file that PyTorch still reads."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((3,), 6.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [truncate, alter, cut_off])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(
    folder: ResumeFolder, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    newest = folder.newest()
    assert newest is not None
    assert load(newest)["iteration"] == 6
    damage(newest)
    before = folder.newest()
    assert before is not None
    assert load(before)["iteration"] == 4
    assert str(newest) in caplog.text
    folder.save(6, state(6))
    folder.save(8, state(8))
    assert len(list(folder.folder.glob("*.pt"))) == 2
    folder.clear()
    assert not folder.folder.exists()
    assert folder.newest() is None


def test_a_full_disk_leaves_the_last_good_checkpoint(folder: ResumeFolder) -> None:
    """In a separate process whose files are limited to 3 kB: writing the checkpoint fails."""
    code = f"""
import resource, torch
from pathlib import Path
from benchmark.errors import FileError
from benchmark.training.resume import ResumeFolder
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    ResumeFolder(Path({str(folder.folder)!r})).save(8, {{"model": {{"x": torch.zeros(1000)}}}})
except FileError as error:
    assert "remedy" in str(error)
else:
    raise AssertionError("it was written")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    newest = folder.newest()
    assert newest is not None
    assert load(newest)["iteration"] == 6
    assert len(list(folder.folder.iterdir())) == 4


@pytest.fixture(scope="module")
def finished(workplace: Path) -> dict[str, Step]:
    """All stages without interruption, with all steps before them, in the store of the workplace."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for kind, (row, stage) in STAGES.items():
            run = find_run(f"{RECIPES}:{row}")
            for step in steps_of(run):
                if step.kind.trains and kind not in found:
                    make(step, Means())
                    if step.name == stage and step.owner is run:
                        found[kind] = step
    return found


def start(kind: str, place: Path) -> subprocess.Popen[str]:
    row, stage = STAGES[kind]
    program = [sys.executable, "-m", "benchmark.cli", "make", f"{RECIPES}:{row}", stage]
    return subprocess.Popen(program, cwd=place, stderr=subprocess.PIPE, text=True)


def place_of(step: Step, workplace: Path, folder: Path) -> Path:
    """A working directory with all inputs of a step."""
    before = [item for item in step.inputs.values() if item.kind.trains]
    return place_beside(folder, workplace, *before)


@pytest.mark.parametrize("kind", STAGES)
def test_a_stage_that_is_killed_at_random_ends_in_the_same_bytes(
    finished: dict[str, Step], workplace: Path, tmp_path: Path, kind: str
) -> None:
    """Killed at a random moment after its record says that it runs (it may have ended by then)."""
    step = finished[kind]
    place = place_of(step, workplace, tmp_path)
    process = start(kind, place)
    wait_for(process, lambda: any((place / folder / RECORD).is_file() for folder in (step.work, step.folder)))
    time.sleep(random.Random(f"kill {kind}").uniform(0, 1))
    process.kill()
    process.wait()
    process = start(kind, place)
    wait_for_success(process)
    assert (place / step.output()).read_bytes() == (workplace / step.output()).read_bytes()
    assert not (place / step.work).exists()


def test_a_kill_while_a_checkpoint_is_written_loses_nothing_before_it(
    finished: dict[str, Step], workplace: Path, tmp_path: Path
) -> None:
    step = finished["all"]
    place = place_of(step, workplace, tmp_path)
    resume = place / step.work / "resume"
    process = start("all", place)
    wait_for(process, lambda: any(".iteration_00000004.pt." in path.name for path in resume.glob(".iter*")))
    process.kill()
    process.wait()
    process = start("all", place)
    wait_for_success(process)
    assert (place / step.output()).read_bytes() == (workplace / step.output()).read_bytes()
    assert not (place / step.work).exists()
