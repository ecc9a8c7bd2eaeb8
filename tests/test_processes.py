"""Several processes compute the same as one, and end together: with the cause, or resumable."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import all_ended, instance_masks, wait_for, wait_for_success
from places import made_in, make_command, place_beside, record_in, step_of

from benchmark.detectors import build_detector
from benchmark.detectors.checkpoints import load
from benchmark.devices import VISIBLE
from benchmark.images import Target
from benchmark.inference.predict import predict_dataset
from benchmark.processes import _cause, fabric_of
from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.records import Record, State
from benchmark.steps import Means, Step, dataset_files, made_dataset, make
from benchmark.training import StageJob, run_stage
from benchmark.training.stages import read_training_data

RECIPES = Path(__file__).parent / "training" / "resuming.yaml"
SGD = {"optimizer": "sgd", "learning_rate": 1e-4, "clip_norm": 10.0, "batch_size": 4}
SGD |= {"iterations": 6, "checkpoint_every": 2}
# Batch norm is of one process. RoIs that few images share make the processes' numbers of them differ.
DETECTOR = {"norm": "frozen_statistics", "roi_background_min_iou": 0.1}
# float32, sums in another order, three iterations; weights that move little are rounded themselves
OF_LOSSES, OF_MOVES = 1e-4, 1e-3


class _Seen(torch.nn.Linear):
    """Records its inputs, and the type in which it computes."""

    def forward(self, images: list[torch.Tensor], targets: list[Target]) -> torch.Tensor:
        self.given = images, targets
        computed = super().forward(images[0])
        self.computed_in = computed.dtype
        return computed


def test_mixed_precision_rounds_no_boxes() -> None:
    """bfloat16 represents only every eighth pixel beyond 1024; it is for arithmetic, not for a detector's
    inputs."""
    boxes, image = torch.tensor([[1001.3, 20.7, 1014.1, 33.2]]), torch.rand(2, 4)
    target = Target(boxes, torch.tensor([1]), instance_masks(torch.ones(1, 8, 8)))
    model = _Seen(4, 4)
    fabric_of(0, "bf16-mixed").setup_module(model)([image], [target])
    (given,), (ground_truth,) = model.given
    assert given.equal(image)
    assert ground_truth.boxes.equal(boxes)
    assert ground_truth.masks is not None
    assert ground_truth.masks.vertices.dtype == torch.float64
    assert model.computed_in == torch.bfloat16


def recipe(row: str, images_per_worker: int | None = 2, **schedule: Any) -> Run:
    return changed(find_run(f"{RECIPES}:{row}"), images_per_worker, schedule)


def changed(run: Run, images_per_worker: int | None, schedule: dict[str, Any]) -> Run:
    """The run with another detector, for its base too."""
    (stage,) = run.stages
    assert stage.schedule is not None
    new = stage.schedule.model_copy(update=SGD | schedule)
    worker = {"schedule": new, "images_per_worker": images_per_worker}
    return run.model_copy(
        update={
            "detector": run.detector.model_copy(update=DETECTOR),
            "stages": [stage.model_copy(update=worker)],
            "base": changed(run.base, 2, {}) if run.base is not None else None,
        }
    )


def start(run: Run, place: Path, step: str | None = None) -> subprocess.Popen[str]:
    """Start a stage of a recipe, or another step, with two processes in a working directory."""
    program = make_command(run, step or run.stages[0].name, place, "--devices", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", VISIBLE: ""}
    return subprocess.Popen(program, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)


def checkpoint_of_two_processes(run: Run, place: Path) -> Path:
    """The checkpoint that two processes make."""
    process = start(run, place)
    wait_for_success(process)
    return place / step_of(run, run.stages[0].name).output()


def train_in_one_process(run: Run, output: Path, init: Path | None = None) -> Path:
    files = dataset_files(run.dataset)
    run_stage(StageJob(run, run.stages[0].name, files, output, init=init), devices=0, workers=0)
    return output


def losses(checkpoint: Path) -> dict[str, float]:
    line = json.loads((checkpoint.parent / "progress.jsonl").read_text().splitlines()[-1])
    return line["losses"] | {name: line[name] for name in ("loss", "meta_loss") if name in line}


@pytest.fixture(scope="module")
def base_step(workplace: Path) -> Step:
    """A sigmoid model after six iterations of one process, in the store of the workplace."""
    run = recipe("balms").base
    assert run is not None
    return made_in(workplace, run, "train")


@pytest.fixture
def base(base_step: Step, workplace: Path) -> Path:
    return workplace / base_step.output()


@pytest.fixture
def place(workplace: Path, tmp_path: Path) -> Path:
    """A working directory with the dataset and without trainings."""
    return place_beside(tmp_path / "place", workplace)


def check_equal(one: Path, two: Path, start: dict[str, torch.Tensor]) -> None:
    """Compare losses and the changes of weights."""
    assert losses(two) == pytest.approx(losses(one), rel=OF_LOSSES)
    states = load(one)["model"], load(two)["model"], start
    a, b, first = ({name: value.double() for name, value in state.items()} for state in states)
    moved, apart = (
        torch.cat([(x[name] - y[name]).flatten() for name in first]).norm() for x, y in ((a, first), (b, a))
    )
    assert apart <= OF_MOVES * moved


@pytest.mark.usefixtures("inside")
def test_two_processes_train_as_one_does(base: Path, place: Path) -> None:
    run = recipe("balms:0:base")
    two = checkpoint_of_two_processes(run, place)
    _, statistics = read_training_data(run, dataset_files(run.dataset))
    check_equal(base, two, build_detector(run, statistics).state_dict())
    record = record_in(place, step_of(run, "train"))
    assert record is not None
    assert record.state == State.done
    assert (record.facts["processes"], record.facts["batch_size"]) == (2, 4)


@pytest.mark.parametrize("images_per_worker", [1, None])
@pytest.mark.usefixtures("inside")
def test_two_processes_keep_the_state_of_a_loss_as_one_does(
    place: Path, tmp_path: Path, images_per_worker: int | None
) -> None:
    """EQL v2 sums gradient magnitudes over the RoIs of all workers, and its later losses depend on them."""
    run = recipe("eqlv2", images_per_worker, learning_rate=1e-3)
    one, two = (
        train_in_one_process(run, tmp_path / "one" / "checkpoint.pt"),
        checkpoint_of_two_processes(run, place),
    )
    _, statistics = read_training_data(run, dataset_files(run.dataset))
    check_equal(one, two, build_detector(run, statistics).state_dict())
    states = load(one)["model"], load(two)["model"]
    for name in ("positive", "negative", "rois"):
        a, b = (state[f"classifiers.0.{name}.value"] for state in states)
        assert (a > 0).any()
        torch.testing.assert_close(b, a, rtol=OF_MOVES, atol=1e-6)


@pytest.mark.parametrize("backend", ["mmdet", "detectron2"])
@pytest.mark.usefixtures("inside")
def test_two_processes_train_a_model_of_another_framework_as_one_does(
    backend: str, place: Path, tmp_path: Path
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"back end '{backend}' is not installed")
    run = recipe("balms:0:base", iterations=3)
    run = run.model_copy(update={"detector_name": f"{backend}/tiny_mask_rcnn"})
    one, two = (
        train_in_one_process(run, tmp_path / "one" / "checkpoint.pt"),
        checkpoint_of_two_processes(run, place),
    )
    _, statistics = read_training_data(run, dataset_files(run.dataset))
    check_equal(one, two, build_detector(run, statistics).state_dict())


@pytest.mark.parametrize("images_per_worker", [1, None])
@pytest.mark.usefixtures("inside")
def test_two_processes_learn_weights_of_categories_as_one_does(
    base_step: Step, base: Path, workplace: Path, tmp_path: Path, images_per_worker: int | None
) -> None:
    """BALMS has virtual steps and meta batches per worker, and two processes may share a worker."""
    run = recipe("balms", images_per_worker, iterations=3)
    one = train_in_one_process(run, tmp_path / "one" / "checkpoint.pt", base)
    two = checkpoint_of_two_processes(run, place_beside(tmp_path / "two", workplace, base_step))
    check_equal(one, two, load(base)["model"])
    assert load(one)["model"]["classifiers.0.reweighter"].any()


def test_two_processes_detect_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an odd number of images."""
    run = recipe("balms:0:base", iterations=2)
    assert run.dataset.synthetic is not None
    sizes = run.dataset.synthetic.model_copy(update={"val_images": 7})
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"synthetic": sizes})})
    monkeypatch.chdir(place)
    made_dataset(run.dataset)
    make(step_of(run, "train"), Means())
    process = start(run, place, "predict")
    wait_for_success(process)
    step = step_of(run, "predict")
    checkpoint, files = step.inputs["checkpoint"].output(), dataset_files(run.dataset)
    predict_dataset(run, files, checkpoint, place / "one.parquet", workers=0, devices=0)
    assert step.output().read_bytes() == (place / "one.parquet").read_bytes()
    record = record_in(place, step)
    assert record is not None
    assert record.facts["images"] == 7


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


LONG = {"iterations": 1000}


@pytest.fixture
def training(inside: Path, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A long training with two processes that has written a checkpoint."""
    run = recipe("softmax", **LONG)
    process, work = start(run, place), place / step_of(run, "train").work
    wait_for(process, lambda: list(work.glob("resume/*.sha256")), 240)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def ended(place: Path) -> Callable[[], Record]:
    """The record of that training."""

    def read() -> Record:
        record = record_in(place, step_of(recipe("softmax", **LONG), "train"))
        assert record is not None
        return record

    return read


@pytest.mark.parametrize("rank", [0, 1])
def test_a_death_ends_the_job_with_its_cause(
    training: subprocess.Popen[str], ended: Callable[[], Record], rank: int
) -> None:
    """The others would otherwise wait half an hour for the dead process."""
    started = dict(ranks(training.pid))
    os.kill(started[rank], signal.SIGKILL)
    _, messages = training.communicate(timeout=120)
    assert training.returncode == 1
    reason = f"process {rank} of 2 was killed by SIGKILL"
    assert messages.rpartition("error: ")[2].startswith(reason)
    assert "memory" in messages
    assert (ended().state, ended().reason) == (State.interrupted, reason)
    assert all_ended(list(started.values()))


def test_the_death_of_the_command_leaves_no_process(training: subprocess.Popen[str]) -> None:
    started = dict(ranks(training.pid))
    assert len(started) == 2
    training.kill()
    training.wait()
    assert all_ended(list(started.values()))


def test_a_signal_to_one_process_saves_and_stops_all(
    training: subprocess.Popen[str], ended: Callable[[], Record], place: Path
) -> None:
    os.kill(dict(ranks(training.pid))[1], signal.SIGTERM)
    _, messages = training.communicate(timeout=120)
    assert training.returncode == 3, messages
    assert ended().state == State.interrupted
    assert "it continues here" in messages
    newest = max(place.glob("results/work/*/*/resume/*.pt"))
    iteration = torch.load(newest, weights_only=True)["iteration"]
    assert f"after iteration {iteration} of 500" in (ended().reason or "")


@pytest.mark.parametrize(
    ("codes", "ended", "texts", "rank"),
    [
        ([1, -9], [0, 1], ["RuntimeError: Connection closed by peer", ""], 1),
        ([1, 2], [0, 1], ["RuntimeError: [gloo] unbound", "cannot decode the file of image 3"], 1),
        ([2, 1], [1, 0], ["cannot write checkpoint.pt", "DistBackendError: NCCL error"], 0),
        ([3, 1], [0, 1], ["", "CUDA out of memory"], 1),
        ([-6, 1], [0, 1], ["", "CUDA out of memory"], 1),  # NCCL's watchdog ends the others like this
        ([-6, 1], [0, 1], ["", "DistBackendError: NCCL error"], 0),
        ([-9, 1], [1], ["", "CUDA out of memory"], 1),  # ended by the command, as it hung
    ],
)
def test_the_cause_is_told_from_what_follows_from_it(
    codes: list[int], ended: list[int], texts: list[str], rank: int
) -> None:
    assert _cause(codes, ended, texts) == rank
