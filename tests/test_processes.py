"""Several processes compute what one would, and end together: with the cause, or saved."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.detectors import build_detector
from benchmark.detectors.checkpoints import load
from benchmark.devices import VISIBLE
from benchmark.inference.predict import predict_dataset
from benchmark.processes import _cause
from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.records import State, read_record
from benchmark.training import run_stage
from benchmark.training.stages import read_training_data

RECIPES = Path(__file__).parent / "training" / "resuming.yaml"
SGD = {"optimizer": "sgd", "learning_rate": 1e-4, "clip_norm": 10.0, "batch_size": 4}
SGD |= {"iterations": 6, "checkpoint_every": 2}
# Batch norm is of one process. RoIs that few images share make the processes' numbers of them differ.
DETECTOR = {"norm": "frozen_statistics", "roi_background_min_iou": 0.1}
# float32, sums in another order, three iterations; weights that move little are rounded themselves
OF_LOSSES, OF_MOVES = 1e-4, 1e-3


def recipe(row: str, images_per_worker: int | None = 2, **schedule: Any) -> Run:
    run = find_run(f"{RECIPES}:{row}")
    (stage,) = run.stages
    assert stage.schedule is not None
    changed = stage.schedule.model_copy(update=SGD | schedule)
    worker = {"schedule": changed, "images_per_worker": images_per_worker}
    return run.model_copy(
        update={
            "detector": run.detector.model_copy(update=DETECTOR),
            "stages": [stage.model_copy(update=worker)],
        }
    )


def start(run: Run, folder: Path, inside: Path, init: Path | None = None) -> subprocess.Popen[str]:
    """The recipe's stage by two processes, into ``folder/checkpoint.pt``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(run.model_dump_json(by_alias=True))
    program = [
        sys.executable,
        "-m",
        "benchmark.cli",
        "train",
        str(folder / "recipe.json"),
        run.stages[0].name,
    ]
    program += [
        "-o",
        str(folder / "checkpoint.pt"),
        "--work",
        str(folder / "work"),
        "--devices",
        "2",
    ]
    program += ["--init", str(init)] if init else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", VISIBLE: ""}
    return subprocess.Popen(program, cwd=inside, env=environment, stderr=subprocess.PIPE, text=True)


def alone(run: Run, output: Path, init: Path | None = None) -> Path:
    work = output.parent / "work"
    run_stage(run, run.stages[0].name, output, init=init, devices=0, workers=0, work=work)
    return output


def losses(checkpoint: Path) -> dict[str, float]:
    line = json.loads((checkpoint.parent / "progress.jsonl").read_text().splitlines()[-1])
    return line["losses"] | {name: line[name] for name in ("loss", "meta_loss") if name in line}


@pytest.fixture(scope="module")
def base(workplace: Path) -> Path:
    """A sigmoid model after six iterations of one process."""
    old = Path.cwd()
    os.chdir(workplace)
    try:
        return alone(recipe("balms:0:base"), workplace / "of one process" / "checkpoint.pt")
    finally:
        os.chdir(old)


def check_equal(one: Path, two: Path, start: dict[str, torch.Tensor]) -> None:
    """Losses, and where the weights moved to."""
    assert losses(two) == pytest.approx(losses(one), rel=OF_LOSSES)
    states = load(one)["model"], load(two)["model"], start
    a, b, first = ({name: value.double() for name, value in state.items()} for state in states)
    moved, apart = (
        torch.cat([(x[name] - y[name]).flatten() for name in first]).norm() for x, y in ((a, first), (b, a))
    )
    assert apart <= OF_MOVES * moved


def test_two_processes_train_as_one_does(base: Path, inside: Path, tmp_path: Path) -> None:
    process = start(recipe("balms:0:base"), tmp_path, inside)
    assert process.wait() == 0, process.communicate()[1]
    run = recipe("balms:0:base")
    _, statistics = read_training_data(run)
    check_equal(base, tmp_path / "checkpoint.pt", build_detector(run, statistics).state_dict())
    record = read_record(tmp_path / "checkpoint.provenance.json")
    assert record is not None
    assert record["state"] == State.done
    assert record["facts"]["processes"] == 2


@pytest.mark.parametrize("images_per_worker", [1, 2, None])
def test_two_processes_keep_the_state_of_a_loss_as_one_does(
    inside: Path, tmp_path: Path, images_per_worker: int | None
) -> None:
    """EQL v2 sums gradient magnitudes over the RoIs of all workers, and its later losses depend on them."""
    run = recipe("eqlv2", images_per_worker, learning_rate=1e-3)
    one = alone(run, tmp_path / "one" / "checkpoint.pt")
    process = start(run, tmp_path / "two", inside)
    assert process.wait() == 0, process.communicate()[1]
    two = tmp_path / "two" / "checkpoint.pt"
    _, statistics = read_training_data(run)
    check_equal(one, two, build_detector(run, statistics).state_dict())
    states = load(one)["model"], load(two)["model"]
    for name in ("positive", "negative", "rois"):
        a, b = (state[f"classifiers.0.{name}.value"] for state in states)
        assert (a > 0).any()
        torch.testing.assert_close(b, a, rtol=OF_MOVES, atol=1e-6)


@pytest.mark.parametrize("backend", ["mmdet", "detectron2"])
def test_two_processes_train_a_model_of_another_framework_as_one_does(
    backend: str, inside: Path, tmp_path: Path
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"back end '{backend}' is not installed")
    run = recipe("balms:0:base", iterations=3)
    run = run.model_copy(update={"detector_name": f"{backend}/tiny_mask_rcnn"})
    one = alone(run, tmp_path / "one" / "checkpoint.pt")
    process = start(run, tmp_path / "two", inside)
    assert process.wait() == 0, process.communicate()[1]
    _, statistics = read_training_data(run)
    check_equal(one, tmp_path / "two" / "checkpoint.pt", build_detector(run, statistics).state_dict())


@pytest.mark.parametrize("images_per_worker", [1, 2, None])
def test_two_processes_learn_weights_of_categories_as_one_does(
    base: Path, inside: Path, tmp_path: Path, images_per_worker: int | None
) -> None:
    """BALMS' virtual steps and meta batches are of each worker, that two processes may share."""
    run = recipe("balms", images_per_worker, iterations=3)
    one = alone(run, tmp_path / "one" / "checkpoint.pt", base)
    process = start(run, tmp_path / "two", inside, base)
    assert process.wait() == 0, process.communicate()[1]
    check_equal(one, tmp_path / "two" / "checkpoint.pt", load(base)["model"])
    assert load(one)["model"]["classifiers.0.reweighter"].any()


def test_two_processes_detect_the_same_bytes(base: Path, inside: Path, tmp_path: Path) -> None:
    """There is an odd number of images."""
    data = tmp_path / "results" / "data"
    shutil.copytree(inside / "results" / "data", data)
    file = data / "synthetic_tiny" / "val.json"
    content = json.loads(file.read_text())
    content["images"] = content["images"][:7]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    file.write_text(json.dumps(content))
    run = recipe("balms:0:base")
    (tmp_path / "recipe.json").write_text(run.model_dump_json(by_alias=True))
    program = [sys.executable, "-m", "benchmark.cli", "predict", "recipe.json", "-c", str(base)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", VISIBLE: ""}
    subprocess.run(
        [*program, "-o", "two.parquet", "--devices", "2"], cwd=tmp_path, env=environment, check=True
    )
    os.chdir(tmp_path)  # the fixture `inside` goes back
    predict_dataset(run, base, tmp_path / "one.parquet", workers=0, devices=0)
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    record = read_record(tmp_path / "two.provenance.json")
    assert record is not None
    assert record["facts"]["images"] == 7


def ranks(parent: int) -> Iterator[tuple[int, int]]:
    """Rank and process id of the processes that ``parent`` has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if f"\nPPid:\t{parent}\n" in status:
            yield from ((int(v[11:]), int(folder.name)) for v in variables if v.startswith(b"LOCAL_RANK="))


@pytest.fixture
def training(inside: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long training by two processes that has saved a checkpoint."""
    process = start(recipe("softmax", iterations=1000), tmp_path, inside)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("work/*/*.sha256")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def gone(pids: list[int], within: float = 30) -> bool:
    deadline = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("rank", [0, 1])
def test_a_death_ends_the_job_with_its_cause(
    training: subprocess.Popen[str], tmp_path: Path, rank: int
) -> None:
    """Not after the half hour that the others would wait for the dead one."""
    started = dict(ranks(training.pid))
    os.kill(started[rank], signal.SIGKILL)
    _, messages = training.communicate(timeout=120)
    assert training.returncode == 1
    reason = f"process {rank} of 2 was ended by SIGKILL"
    assert messages.rpartition("error: ")[2].startswith(reason)
    assert "memory" in messages
    record = read_record(tmp_path / "checkpoint.provenance.json")
    assert record is not None
    assert (record["state"], record["reason"]) == (State.interrupted, reason)
    assert gone(list(started.values()))


def test_the_death_of_the_command_leaves_no_process(training: subprocess.Popen[str]) -> None:
    started = dict(ranks(training.pid))
    assert len(started) == 2
    training.kill()
    training.wait()
    assert gone(list(started.values()))


def test_a_signal_to_one_process_saves_and_stops_all(training: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(dict(ranks(training.pid))[1], signal.SIGTERM)
    _, messages = training.communicate(timeout=120)
    assert training.returncode == 3, messages
    record = read_record(tmp_path / "checkpoint.provenance.json")
    assert record is not None
    assert record["state"] == State.interrupted
    assert "it continues here" in messages
    newest = max(tmp_path.glob("work/*/*.pt"))
    assert f"after iteration {torch.load(newest, weights_only=True)['iteration']} of 500" in record["reason"]


@pytest.mark.parametrize(
    ("codes", "ended", "texts", "rank"),
    [
        ([1, -9], [0, 1], ["RuntimeError: Connection closed by peer", ""], 1),
        ([1, 2], [0, 1], ["RuntimeError: [gloo] unbound", "cannot decode the file of image 3"], 1),
        ([2, 1], [1, 0], ["cannot write checkpoint.pt", "DistBackendError: NCCL error"], 0),
        ([3, 1], [0, 1], ["", "CUDA out of memory"], 1),
        ([-9, 1], [1], ["", "CUDA out of memory"], 1),  # ended by the command, as it hung
    ],
)
def test_the_cause_is_told_from_what_follows_from_it(
    codes: list[int], ended: list[int], texts: list[str], rank: int
) -> None:
    assert _cause(codes, ended, texts) == rank
