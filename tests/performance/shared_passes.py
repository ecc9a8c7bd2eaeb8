"""Classifiers trained by one pass over the images, and each by a pass of its own."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmark.annotations import vocabulary_hash
from benchmark.detectors import build_detector, checkpoints
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.memory import KEEP_MEMORY
from benchmark.recipes import find_run
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Run, Schedule
from benchmark.steps import made_files
from benchmark.training import StageJob, train_stages
from benchmark.training.stages import read_training_data

from . import shared_testing
from .loading import lvis_files, write_images
from .measuring import measure, table
from .retraining import boxes_proposed_near
from .steps import between_steps

CLASSIFIERS = (1, 2, 4, 8, 12)


@dataclass(frozen=True)
class Size:
    """A detector, what an iteration looks at, how many are timed after how many, and how often."""

    preset: str
    images: str
    edge: int
    batch: int
    warm_up: int
    measured: int
    repetitions: int


SIZES = {
    "smoke": Size(
        "torchvision/tiny_mask_rcnn",
        "generated images of 160 pixels with 40 categories",
        edge=160,
        batch=4,
        warm_up=5,
        measured=40,
        repetitions=3,
    ),
    "R50": Size(
        "torchvision/mask_rcnn_r50_fpn",
        "images of `lvis_val_100.json`, 480 pixels high, with 1230 categories",
        edge=480,
        batch=2,
        warm_up=1,
        measured=5,
        repetitions=1,
    ),
}

TEXT = """\
## One pass, many classifiers

Retrainings of the last layer that start from the same frozen detector and see the same images share one pass
over these (`benchmark/steps/sharing.py`): the features are found once, and each classifier has its loss, its
optimiser, its log and its checkpoints. Here K classifiers with the focal loss, which differ in their learning
rates, are trained together, as the workflow trains them, and each alone; the checkpoints are compared, and
equal to the byte. CPU time of an iteration, loading of the images included, on one thread and with the
workflow's settings of memory: means over {measured} iterations after {warm_up}, medians of {repetitions}
processes, "alone" of one process more.
"Start" is what a process needs beside its iterations, which is in the times of neither: together it is paid
once, alone K times. Boxes near the objects are added to the proposals, because the random weights propose
hardly any.
Sharing makes K trainings K times as cheap at most: what is above that, and how neighbouring lines scatter, is
the noise of a machine with other work.

{sizes}

{table}

{testing}"""


def stage_jobs(size: Size, classifiers: list[int], iterations: int, place: Path) -> list[StageJob]:
    """Retrainings with different learning rates, of a detector with random weights, in a folder."""
    run = find_run("ablations:focal_cls")
    edges = {"train_short_edges": [size.edge], "long_edge": 10 * size.edge, "init": "none"}
    settings = DetectorSettings(**(dict(detector_presets()[size.preset].settings) | edges))
    run = run.model_copy(update={"detector": settings, "detector_name": size.preset})
    if size.preset.endswith("r50_fpn"):
        run = run.model_copy(update={"dataset": find_run("bags:9").dataset, "dataset_name": "lvis_v0.5"})
        write_images(place)
        files = lvis_files(place)
    else:
        files = made_files(run)
    annotations, statistics = read_training_data(run, files)
    vocabulary = vocabulary_hash(annotations.categories)
    init = place / "base.pt"
    checkpoints.save(init, checkpoints.finished(run, "train", build_detector(run, statistics), vocabulary))
    runs = {number: changed_schedule(run, size.batch, number, iterations) for number in classifiers}
    outputs = {number: place / str(number) / "checkpoint.pt" for number in classifiers}
    return [StageJob(runs[number], "retrain", files, outputs[number], init) for number in classifiers]


def changed_schedule(run: Run, batch: int, number: int, iterations: int, precision: str = "fp32") -> Run:
    """A recipe that trains so long; its learning rate is that of a classifier with a number."""
    (stage,) = run.stages
    assert stage.schedule is not None
    changes: dict[str, Any] = {"iterations": iterations, "learning_rate": 1e-4 * (1 + number)}
    changes |= {"reference_batch_size": batch, "batch_size": batch, "precision": precision}
    schedule = Schedule(**(stage.schedule.model_dump() | changes))
    own = stage.model_copy(update={"schedule": schedule, "images_per_worker": None})
    return run.model_copy(update={"stages": [own]})


@contextmanager
def near_boxes_proposed() -> Iterator[None]:
    """Every detector proposes boxes near the objects too: a quarter of the RoIs that train is foreground."""
    first = TwoStageDetector._first_rois

    def with_near(self: TwoStageDetector, boxes: list[Tensor], targets: list[Any]) -> Any:
        near = [boxes_proposed_near(target.boxes, self.settings.roi_samples) for target in targets]
        return first(self, [torch.cat(pair) for pair in zip(boxes, near, strict=True)], targets)

    with patch.object(TwoStageDetector, "_first_rois", with_near):
        yield


def retrain(name: str, first: str, last: str, place: str) -> None:
    """Train the classifiers from one number to another together; prints the seconds of an iteration."""
    Path(place).mkdir(parents=True, exist_ok=True)
    size, numbers = SIZES[name], [*range(int(first), int(last))]
    iterations = size.warm_up + size.measured
    jobs = stage_jobs(size, numbers, iterations, Path(place))
    timing = between_steps(len(jobs) * size.warm_up, len(jobs) * iterations, "cpu")
    with near_boxes_proposed(), timing as seconds:
        for job, facts in train_stages(jobs, devices=0, workers=0):
            assert not isinstance(facts, Exception), (job.output, facts)
    print(seconds() / size.measured)


def _seconds(name: str, first: int, last: int, place: Path) -> tuple[float, float]:
    """CPU seconds of an iteration, and of all else; shown at once, because all take minutes."""
    code = "import sys; from tests.performance.shared_passes import *; retrain(*sys.argv[1:])"
    done = measure(code, name, str(first), str(last), str(place))
    each = float(done.output.splitlines()[-1])
    print(f"{name}, classifiers {first} to {last - 1}: {each:.3f} s", file=sys.stderr, flush=True)
    return each, done.cpu_seconds - (SIZES[name].warm_up + SIZES[name].measured) * each


def costs(name: str, place: Path) -> tuple[dict[int, float], float, float]:
    """CPU seconds of an iteration with K classifiers together and with one alone, and of a process's start.

    Raises ``RuntimeError`` where the checkpoints of two together and of each alone differ.
    """
    together: dict[int, list[float]] = {count: [] for count in CLASSIFIERS}
    starts = []
    for repetition in range(SIZES[name].repetitions):
        for count in CLASSIFIERS:
            each, start = _seconds(name, 0, count, place / f"{name} {count} {repetition}")
            together[count].append(each)
            starts.append(start)
    second, _ = _seconds(name, 1, 2, place / f"{name} second alone")
    for file, alone in (("0/checkpoint.pt", f"{name} 1 0"), ("1/checkpoint.pt", f"{name} second alone")):
        if (place / alone / file).read_bytes() != (place / f"{name} 2 0" / file).read_bytes():
            raise RuntimeError(
                f"a classifier trained together with another is not that trained alone ({name})"
            )
    medians = {count: median(seconds) for count, seconds in together.items()}
    return medians, median([*together[1], second]), median(starts)


def section() -> str:
    """Markdown."""
    rows, old = [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, KEEP_MEMORY):
        os.chdir(folder)
        try:
            for name in SIZES:
                together, alone, start = costs(name, Path(folder))
                for count, seconds in together.items():
                    apart = count * alone
                    cells = [f"{1000 * seconds:,.0f} ms", f"{1000 * apart:,.0f} ms", f"{apart / seconds:.1f}"]
                    rows.append([f"{name}, K = {count}", *cells, f"{start:.1f} s"])
        finally:
            os.chdir(old)

    def of_each(field: str) -> str:
        return ", ".join(f"{getattr(size, field)} ({name})" for name, size in SIZES.items())

    sizes = "\n".join(
        f"- {name}: `{size.preset}`, {size.batch} {size.images}" for name, size in SIZES.items()
    )
    columns = ["classifiers", "together", "each alone", "alone / together", "start"]
    return TEXT.format(
        warm_up=of_each("warm_up"),
        measured=of_each("measured"),
        repetitions=of_each("repetitions"),
        sizes=sizes,
        table=table(columns, rows),
        testing=shared_testing.section(),
    )
