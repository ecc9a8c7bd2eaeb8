"""What an experiment will cost, before anything of it runs: jobs, GPU-hours, disk, files still missing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from benchmark.detectors import parameters_of
from benchmark.recipes import LoadedExperiment, paths, with_bases
from benchmark.recipes.models import Dataset, Run, Stage
from benchmark.statistics import class_statistics

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
FORWARD_SPEED = 2.0
"""Images/s without a backward pass through the trunk (retraining, prediction) against a full training."""
DETECTION_BYTES, MASK_BYTES = 20, 80
"""A stored detection, compressed, and its mask, of which the outline's run lengths are most."""


@dataclass(frozen=True)
class Step:
    """A job of the plan: a training stage or a prediction.

    ``images`` that it looks at, ``hours`` of one GPU, ``megabytes`` of its output, ``rows`` that need it.
    """

    run: str
    name: str
    images: int
    hours: float
    megabytes: float
    rows: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """The steps of an experiment in their order, where the throughput of each detector comes from, splits of
    which the number of images is not known, and what is missing."""

    experiment: LoadedExperiment
    steps: list[Step]
    throughput: dict[str, tuple[float, str]]
    unknown: list[str]
    missing: list[str]

    def as_dict(self) -> dict[str, object]:
        """For scripts."""
        return {
            "experiment": self.experiment.name,
            "steps": [vars(step) for step in self.steps],
            "throughput": {
                detector: {"images_per_second": rate, "source": source}
                for detector, (rate, source) in self.throughput.items()
            },
            "gpu_hours": sum(step.hours for step in self.steps),
            "megabytes": sum(step.megabytes for step in self.steps),
            "missing": self.missing,
        }

    def text(self) -> str:
        """For people."""
        shared = [step for step in self.steps if len(step.rows) > 1]
        trained = [step for step in self.steps if step.name != "predict"]
        predicted = len(self.steps) - len(trained)
        width = max(len(step.run) for step in self.steps)
        lines = [f"{'run':<{width}}  {'step':<10} {'images':>10} {'GPU-hours':>9} {'disk':>8}  rows"]
        for step in self.steps:
            rows = ", ".join(step.rows[:4]) + (f" and {len(step.rows) - 4} more" if step.rows[4:] else "")
            lines.append(
                f"{step.run:<{width}}  {step.name:<10} {step.images:>10,} {step.hours:>9.1f} "
                f"{_disk(step.megabytes):>8}  {rows}"
            )
        lines += [
            "",
            f"{len(trained)} stages ({len(shared)} shared by several rows), {predicted} predictions and "
            f"evaluations, {sum(step.hours for step in self.steps):,.1f} GPU-hours, "
            f"{_disk(sum(step.megabytes for step in self.steps))} of checkpoints and detections",
        ]
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
    runs: dict[Path, Run] = {}
    users: dict[Path, list[str]] = {}
    for row in experiment.rows:
        for run in row.runs:
            for item in reversed(list(with_bases(run))):
                folder = paths.run_folder(item)
                runs.setdefault(folder, item)
                users.setdefault(folder, []).append(row.row.id)
    evaluated: dict[Path, list[str]] = {}
    for row in experiment.rows:
        for run in row.runs:
            evaluated.setdefault(paths.run_folder(run), []).append(row.row.id)
    detectors = dict.fromkeys(run.detector_name for run in runs.values())
    throughput = {name: _throughput(name, images_per_second) for name in detectors}
    megabytes = _checkpoint_sizes(runs.values())
    steps = []
    for folder, run in runs.items():
        rate = throughput[run.detector_name][0]
        rows = tuple(dict.fromkeys(users[folder]))
        name = str(folder.relative_to(paths.RESULTS / "runs" / run.budget))
        for stage in run.stages:
            images = _images_seen(run, stage)
            full = stage.kind == "train" and stage.trainable == "all"
            hours = images / (rate if full else rate * FORWARD_SPEED) / 3600
            steps.append(Step(name, stage.name, images, hours, megabytes[_model(run)], rows))
        if folder in evaluated:
            images = _images(run.dataset, "val")
            one = DETECTION_BYTES + MASK_BYTES * run.detector.masks
            stored = images * run.test.max_detections * one / 1e6
            hours = images / (rate * FORWARD_SPEED) / 3600
            steps.append(Step(name, "predict", images, hours, stored, tuple(evaluated[folder])))
    unknown = [
        f"{run.dataset_name} {split}"
        for run in runs.values()
        for split in SPLITS
        if not _images(run.dataset, split)
    ]
    missing = _missing(experiment, runs.values())
    return ExperimentPlan(experiment, steps, throughput, list(dict.fromkeys(unknown)), missing)


def _images_seen(run: Run, stage: Stage) -> int:
    """Images that a stage looks at. Samplers that repeat images make epochs longer; that is left out."""
    if stage.kind == "transform":
        return 0
    epoch = _images(run.dataset, "train")
    if stage.schedule is None:
        return epoch
    if stage.schedule.epochs is not None:
        return round(stage.schedule.epochs * epoch)
    return (stage.schedule.iterations or 0) * stage.schedule.reference_batch_size


def _images(dataset: Dataset, split: Split) -> int:
    """Images of a split as the dataset's file states them, or as its annotation file has them; 0: unknown."""
    if dataset.synthetic is not None:
        return dataset.synthetic.train_images if split == "train" else dataset.synthetic.val_images
    annotations = paths.annotations_path(dataset, split)
    stated = {paths.data_folder() / file.path: file.images for file in dataset.files}.get(annotations)
    if stated is None and annotations.is_file():
        stated = class_statistics(annotations).num_images
    return stated or 0


def _throughput(detector: str, stated: float) -> tuple[float, str]:
    """Images per second of a full training, and where that is from."""
    rates = []
    for log in paths.RESULTS.glob(f"runs/*/*/{detector}/*/seed*/train/progress.jsonl"):
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
    reasons: dict[str, list[str]] = {}
    for row in experiment.rows:
        if row.skipped is not None:
            reasons.setdefault(row.skipped, []).append(row.row.id)
    skipped = [f"for {', '.join(rows)}: {reason}" for reason, rows in reasons.items()]
    return list(dict.fromkeys([*files, *skipped]))


def _disk(megabytes: float) -> str:
    return f"{megabytes:,.0f} MB" if megabytes < 10_000 else f"{megabytes / 1000:,.0f} GB"
