"""What an experiment will cost, before anything of it runs: jobs, GPU-hours, disk, files still missing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmark.detectors import parameters_of
from benchmark.recipes import LoadedExperiment, lineage, paths
from benchmark.recipes.models import Dataset, Run
from benchmark.recipes.paths import run_name
from benchmark.statistics import class_statistics
from benchmark.steps import Step, steps_of
from benchmark.steps.listing import EVALUATE, PREDICT, TRAIN, TRANSFORM

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
FORWARD_SPEED = 2.0
"""Images/s without a backward pass through the trunk (retraining, prediction) against a full training."""
DETECTION_BYTES, MASK_BYTES = 20, 80
"""A stored detection, compressed, and its mask, of which the outline's run lengths are most."""


@dataclass(frozen=True)
class Job:
    """A job of the plan: a training stage or a prediction.

    ``images`` that it looks at, ``hours`` of one GPU, ``megabytes`` of its output, ``rows`` that need it, and
    whether it is ``done``.
    """

    run: str
    name: str
    images: int
    hours: float
    megabytes: float
    rows: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class ExperimentPlan:
    """The jobs of an experiment in their order, where the throughput of each detector comes from, splits of
    which the number of images is not known, and what is missing."""

    experiment: LoadedExperiment
    jobs: list[Job]
    throughput: dict[str, tuple[float, str]]
    unknown: list[str]
    missing: list[str]

    def as_dict(self) -> dict[str, object]:
        """For scripts."""
        return {
            "experiment": self.experiment.name,
            "jobs": [vars(job) for job in self.jobs],
            "throughput": {
                detector: {"images_per_second": rate, "source": source}
                for detector, (rate, source) in self.throughput.items()
            },
            "gpu_hours": sum(job.hours for job in self.jobs),
            "gpu_hours_left": sum(job.hours for job in self.jobs if not job.done),
            "megabytes": sum(job.megabytes for job in self.jobs),
            "missing": self.missing,
        }

    def text(self) -> str:
        """For people."""
        shared = [job for job in self.jobs if len(job.rows) > 1]
        trained = [job for job in self.jobs if job.name != "predict"]
        predicted = len(self.jobs) - len(trained)
        done = [job for job in self.jobs if job.done]
        width = max(len(job.run) for job in self.jobs)
        lines = [f"{'run':<{width}}  {'step':<10} {'images':>10} {'GPU-hours':>9} {'disk':>8}  {'':<4}  rows"]
        for job in self.jobs:
            rows = ", ".join(job.rows[:4]) + (f" and {len(job.rows) - 4} more" if job.rows[4:] else "")
            lines.append(
                f"{job.run:<{width}}  {job.name:<10} {job.images:>10,} {job.hours:>9.1f} "
                f"{_disk(job.megabytes):>8}  {'done' if job.done else '':<4}  {rows}"
            )
        lines += [
            "",
            f"{len(trained)} stages ({len(shared)} shared by several rows), {predicted} predictions and "
            f"evaluations, {sum(job.hours for job in self.jobs):,.1f} GPU-hours, "
            f"{_disk(sum(job.megabytes for job in self.jobs))} of checkpoints and detections",
        ]
        if done:
            left = sum(job.hours for job in self.jobs if not job.done)
            lines.append(f"done are {len(done)} of {len(self.jobs)} jobs; {left:,.1f} GPU-hours are left")
        lines += [
            f"{detector}: {rate:g} images/s, {source}" for detector, (rate, source) in self.throughput.items()
        ]
        lines += [f"unknown, and not counted: the images of {item}" for item in self.unknown]
        lines += ["", *(f"missing: {item}" for item in self.missing)] if self.missing else []
        return "\n".join(lines)


def plan_experiment(experiment: LoadedExperiment, images_per_second: float) -> ExperimentPlan:
    """Plan every row, also those that cannot run here yet.

    Args:
        experiment: what is planned.
        images_per_second: throughput of one GPU in a full training, where none has been measured here.
    """
    steps: dict[str, tuple[Step, list[str]]] = {}
    for row in experiment.rows:
        for run in row.runs:
            for step in steps_of(run):
                if not step.kind.of_dataset:
                    steps.setdefault(step.place, (step, []))[1].append(row.row.id)
    runs = [run for row in experiment.rows for item in row.runs for run in lineage(item)]
    detectors = dict.fromkeys(run.detector_name for run in runs)
    throughput = {name: _throughput(name, images_per_second) for name in detectors}
    megabytes = _checkpoint_sizes(runs)
    planned = []
    for step, rows in steps.values():
        if step.kind is EVALUATE:
            continue
        run = step.run
        rate = throughput[run.detector_name][0]
        name = run_name(run).removeprefix(f"{run.budget}/")
        images = _images_seen(step)
        hours = images / (rate if step.kind is TRAIN else rate * FORWARD_SPEED) / 3600
        if step.kind is PREDICT:
            one = DETECTION_BYTES + MASK_BYTES * run.detector.masks
            size = images * run.test.max_detections * one / 1e6
        else:
            size = megabytes[_model(run)]
        planned.append(Job(name, step.name, images, hours, size, tuple(dict.fromkeys(rows)), step.finished))
    unknown = [
        f"{run.dataset_name} {split}" for run in runs for split in SPLITS if not _images(run.dataset, split)
    ]
    missing = _missing(experiment, runs)
    return ExperimentPlan(experiment, planned, throughput, list(dict.fromkeys(unknown)), missing)


def _images_seen(step: Step) -> int:
    """Images that a step looks at. Samplers that repeat images make epochs longer; that is left out."""
    run = step.run
    if step.kind is PREDICT:
        return _images(run.dataset, "val")
    if step.kind is TRANSFORM:
        return 0
    epoch = _images(run.dataset, "train")
    schedule = next(stage.schedule for stage in run.stages if stage.name == step.name)
    if schedule is None:
        return epoch
    if schedule.epochs is not None:
        return round(schedule.epochs * epoch)
    return (schedule.iterations or 0) * schedule.reference_batch_size


def _images(dataset: Dataset, split: Split) -> int:
    """Images of a split as the dataset's file states them, or as its annotation file has them; 0: unknown."""
    if dataset.synthetic is not None:
        return dataset.synthetic.train_images if split == "train" else dataset.synthetic.val_images
    if dataset.subset is not None:
        return dataset.subset.train_images if split == "train" else dataset.subset.val_images
    annotations = paths.split_file(dataset, split, "annotations")
    stated = {paths.data_folder() / file.path: file.images for file in dataset.files}.get(annotations)
    if stated is None and annotations.is_file():
        stated = class_statistics(annotations).num_images
    return stated or 0


def _throughput(detector: str, stated: float) -> tuple[float, str]:
    """Images per second of a full training, and where that is from."""
    rates = []
    for log in paths.links_folder().glob(f"*/*/{detector}/*/seed*/train/{paths.PROGRESS}"):
        lines = log.read_text().splitlines()
        rates += [json.loads(line)["images_per_second"] for line in lines if line.endswith("}")]
    if rates:
        return round(median(rates), 2), f"median of {len(rates)} measurements of runs here"
    return stated, "assumed; --images-per-second states another"


def _model(run: Run) -> str:
    """What the size of a checkpoint depends on."""
    return repr((run.detector_name, run.detector, run.classifier, run.options, run.dataset.categories))


def _checkpoint_sizes(runs: Iterable[Run]) -> dict[str, float]:
    """Megabytes of a finished checkpoint, by ``_model``: every model is built once, without weights."""
    sizes: dict[str, float] = {}
    for run in runs:
        if _model(run) not in sizes:
            sizes[_model(run)] = parameters_of(run) * 4 / 1e6
    return sizes


def _missing(experiment: LoadedExperiment, runs: Iterable[Run]) -> list[str]:
    """Files of the datasets that are not there, and why rows cannot run."""
    files = []
    for run in runs:
        for file in run.dataset.files:
            stuff = run.dataset.is_of_stuff(file)
            if (run.detector.semantic_branch or not stuff) and not (paths.data_folder() / file.path).exists():
                command = f"longtail data prepare {run.dataset_name}" + " --stuff-maps" * stuff
                files.append(f"{paths.data_folder() / file.path} ({command})")
        if run.dataset.subset is not None:
            for split in SPLITS:
                path = paths.split_file(run.dataset, split, "annotations")
                if not path.is_file():
                    files.append(f"{path} (longtail data prepare {run.dataset_name})")
    reasons: dict[str, list[str]] = {}
    for row in experiment.rows:
        if row.skipped is not None:
            reasons.setdefault(row.skipped, []).append(row.row.id)
    skipped = [f"for {', '.join(rows)}: {reason}" for reason, rows in reasons.items()]
    return list(dict.fromkeys([*files, *skipped]))


def _disk(megabytes: float) -> str:
    return f"{megabytes:,.0f} MB" if megabytes < 10_000 else f"{megabytes / 1000:,.0f} GB"
