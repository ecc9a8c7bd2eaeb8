"""Training: the benchmark's loop beside torchvision's reference and the runners of the frameworks."""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmark.annotations import vocabulary_hash
from benchmark.detectors import build_detector, checkpoints
from benchmark.recipes import find_run
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Run, Synthetic
from benchmark.recipes.paths import DatasetFiles
from benchmark.steps import dataset_files, made_dataset
from benchmark.training import StageJob, run_stage
from benchmark.training.stages import read_training_data

from .loading import lvis_files, write_images
from .measuring import ROOT, measure, median_ratio, table
from .peers import PEERS, Training
from .shared_passes import near_boxes_proposed
from .steps import between_steps

LVIS_CATEGORIES = 1230  # of version 0.5


@dataclass(frozen=True)
class Case:
    """A detector, its images, and how long and how often it trains.

    ``categories``: of a generated dataset; None for images of LVIS. ``images_per_worker``: None for the whole
    batch, as peers have it.
    """

    name: str
    preset: str
    edge: int
    batch: int
    categories: int | None
    workers: int = 0
    precision: str = "fp32"
    warm_up: int = 5
    measured: int = 12
    repetitions: int = 1
    images_per_worker: int | None = None

    def __str__(self) -> str:
        images = "images of `lvis_val_100.json`" if self.categories is None else "generated images"
        categories = self.categories or LVIS_CATEGORIES
        return f"`{self.preset}`, {self.batch} {images} of {self.edge} pixels with {categories} categories"


_FULL = "torchvision/mask_rcnn_r50_fpn"
CASES = {
    "cpu": [
        Case("smoke", "torchvision/tiny_mask_rcnn", 160, 4, 40, warm_up=3, measured=15),
        Case("R50", _FULL, 480, 2, None, warm_up=1, measured=1),
    ],
    "dry": [Case("dry", "torchvision/tiny_mask_rcnn", 64, 2, 40, warm_up=1, measured=2)],  # of tests.gpu
    "cuda": [
        Case(f"R50, {precision}", _FULL, 800, 16, 1203, 12, precision, warm_up=4, measured=8)
        for precision in ("fp32", "bf16-mixed")
    ],
}
OURS = "benchmark"
PARTS = {"all": "full training", "classifier": "one classifier"}
TEXT = """\
## Training beside other trainers

The benchmark's loop (`longtail train`, with its sampler, log and checks for divergence) beside torchvision's
reference loop with its `MaskRCNN`, MMDetection's model in MMEngine's `Runner` with its hooks, and
detectron2's in its `SimpleTrainer`: each with its own loading and its own form of masks. The same in all:
images and their order, batches, trunk and heads, numbers of proposals and of RoIs, classes, a softmax
classifier, random weights, and AdamW without clipping. To train one classifier, all else is frozen: the peers
take a whole training step, whose losses give the classifier its gradient; ours takes the features alone.

{cases}

CPU time on one thread from one update to the next, loading included: {lengths} iterations after {warm_up};
medians of {repetitions} processes, which take turns. Memory is the largest resident set of the
process. "RoIs" are what the classification layer gets of an image. What differs: torchvision has boxes and
masks for each category also at smoke size, where the others have one for all. Random weights propose hardly
any foreground: in all, boxes near the objects are added to the proposals, as in the sections above.

{rates}
{claims}
"""


def run_of(case: Case, part: str = "all") -> Run:
    """The smoke experiment's softmax model with detector and schedule of a case; ``part`` is what trains."""
    edges = {"train_short_edges": [case.edge], "test_short_edge": case.edge, "init": "none"}
    edges["long_edge"] = case.edge if case.categories is not None else 10 * case.edge
    settings = dict(detector_presets()[case.preset].settings) | edges
    run = find_run("smoke:softmax").model_copy(update={"base": None})  # from random weights
    (stage,) = run.stages
    assert stage.schedule is not None
    length = case.warm_up + case.measured
    changes: dict[str, Any] = {"iterations": length, "precision": case.precision, "clip_norm": None}
    changes |= {"reference_batch_size": case.batch, "checkpoint_every": 10 * length, "learning_rate": 1e-4}
    schedule = stage.schedule.model_copy(update=changes)
    stage = stage.model_copy(update={"schedule": schedule, "images_per_worker": case.images_per_worker})
    if part == "classifier":
        stage = stage.model_copy(update={"name": "retrain", "trainable": "classifier"})
    dataset, name = find_run("bags:9").dataset, "lvis_v0.5"
    if case.categories is not None:
        sizes = Synthetic(train_images=200, val_images=12, image_size=case.edge, categories=40, seed=0)
        if case.categories != sizes.categories:
            sizes = Synthetic(
                train_images=240,
                val_images=201,
                image_size=480,
                categories=case.categories,
                counts="lvis_v1",
                seed=0,
            )
        changed = {"synthetic": sizes, "categories": sizes.categories}
        dataset, name = run.dataset.model_copy(update=changed), run.dataset_name
    return run.model_copy(
        update={
            "dataset": dataset,
            "dataset_name": name,
            "detector": DetectorSettings(**settings),
            "detector_name": case.preset,
            "stages": [stage],
        }
    )


def files_of(run: Run) -> DatasetFiles:
    """Of the dataset of a case, in the working directory."""
    return lvis_files(Path.cwd()) if run.dataset.synthetic is None else dataset_files(run.dataset)


def made(case: Case) -> None:
    """Write the dataset of a case to the working directory."""
    if case.categories is None:
        write_images(Path.cwd())
    else:
        made_dataset(run_of(case).dataset)


@contextmanager
def project_folder() -> Iterator[Path]:
    """A working directory with the recipes of the project."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Snakefile", "workflows", "methods"):
            (Path(folder) / name).symlink_to(ROOT / name)
        with chdir(folder):
            yield Path(folder)


def train(name: str, case: Case, part: str, device: torch.device) -> None:
    """Train with the benchmark's loop, or with a peer's."""
    run = run_of(case, part=part)
    files = files_of(run)
    annotations, counts = read_training_data(run, files)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        place = Path(folder)
        if name == OURS:
            init = None
            if part == "classifier":
                init = place / "base.pt"
                vocabulary = vocabulary_hash(annotations.categories)
                base = checkpoints.finished(run_of(case), "train", build_detector(run, counts), vocabulary)
                checkpoints.save(init, base)
            (stage,) = run.stages
            job = StageJob(run, stage.name, files, place / "checkpoint.pt", init)
            with near_boxes_proposed():
                run_stage(job, devices=int(device.type == "cuda"), workers=case.workers)
            return
        training = Training(
            run,
            counts,
            annotations,
            files.train_images,
            case.batch,
            case.workers,
            case.warm_up + case.measured,
            device,
            classifier_only=part == "classifier",
            bf16=case.precision == "bf16-mixed",
        )
        PEERS[name][1](training, place)


def seconds_of(name: str, case: Case, part: str, device: torch.device) -> tuple[float, float]:
    """Seconds of an iteration, of CPU or, on a GPU, wall time, and RoIs of an image.

    Whatever the loop, its iterations end with the step of an optimiser.
    """
    rows = []
    outputs = (case.categories or LVIS_CATEGORIES) + 1

    def seen(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Linear) and module.out_features == outputs:
            rows.append(len(given[0]))

    steps = case.warm_up + case.measured
    handle = register_module_forward_pre_hook(seen)
    try:
        with between_steps(case.warm_up, steps, device.type) as seconds:
            train(name, case, part, device)
    finally:
        handle.remove()
    return seconds() / case.measured, sum(rows) / steps / case.batch


def print_seconds(name: str, number: str, part: str, folder: str) -> None:
    """Print those of a case of the CPU as JSON, computed in a folder."""
    os.chdir(folder)
    print(json.dumps(seconds_of(name, CASES["cpu"][int(number)], part, torch.device("cpu"))))


def _measured(name: str, number: int, part: str, place: Path) -> tuple[float, float, float]:
    """Seconds and RoIs as ``seconds_of`` has them, and megabytes; shown at once, because all take minutes."""
    code = "import sys; from tests.performance.training import *; print_seconds(*sys.argv[1:])"
    done = measure(code, name, str(number), part, str(place))
    seconds, rois = json.loads(done.output.splitlines()[-1])
    case = CASES["cpu"][number]
    line = f"{case.name}, {PARTS[part]}, {name}: {seconds:.3f} s an iteration, {done.peak_megabytes:,.0f} MB"
    print(line, file=sys.stderr, flush=True)
    return seconds, rois, done.peak_megabytes


def _rows(number: int, part: str, place: Path) -> tuple[list[list[str]], str]:
    """Rows of a table, and how ours compares with the best."""
    case = CASES["cpu"][number]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (OURS, *PEERS)}
    for _ in range(case.repetitions):
        for name, own in found.items():
            own.append(_measured(name, number, part, place))
    seconds = {name: [one for one, _, _ in own] for name, own in found.items()}
    rows = []
    for name, own in found.items():
        _, rois, megabytes = (max(values) for values in zip(*own, strict=True))
        rate = case.batch / statistics.median(seconds[name])
        ratio = median_ratio(seconds[name], seconds[OURS])
        label = OURS if name == OURS else PEERS[name][0]
        cells = [f"{rate:,.2f}", f"{rois:.0f}", f"{megabytes:,.0f}", f"{ratio:.2f}"]
        rows.append([f"{case.name}, {PARTS[part]}: {label}", *cells])
    best = min(PEERS, key=lambda name: statistics.median(seconds[name]))
    ratio = median_ratio(seconds[best], seconds[OURS])
    return rows, f"- {PARTS[part]}, {case.name}: {ratio:.2f} times as many images as {PEERS[best][0]}"


def section() -> str:
    """Markdown."""
    rows, claims = [], []
    cases = CASES["cpu"]
    with project_folder() as place:
        for number, case in enumerate(cases):
            made(case)
            for part in PARTS:
                more, claim = _rows(number, part, place)
                rows += more
                claims.append(claim)

    def of_each(values: list[int]) -> str:
        return ", ".join(f"{value} ({case.name})" for value, case in zip(values, cases, strict=True))

    return TEXT.format(
        cases="\n".join(f"- {case.name}: {case}" for case in cases),
        repetitions=of_each([case.repetitions for case in cases]),
        lengths=of_each([case.measured for case in cases]),
        warm_up=of_each([case.warm_up for case in cases]),
        rates=table(["", "images/s of CPU time", "RoIs", "memory, MB", "CPU time / benchmark's"], rows),
        claims="Beside the best peer, the benchmark trains\n\n" + ";\n".join(claims) + ".",
    )
