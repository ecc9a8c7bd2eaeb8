"""Estimates the cost of an experiment before it runs: jobs, GPU-hours, disk space and missing files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmark.detectors import parameters_of
from benchmark.errors import BenchmarkError
from benchmark.recipes import LoadedExperiment, lineage, paths
from benchmark.recipes.models import Dataset, Run
from benchmark.recipes.paths import run_name
from benchmark.recipes.zoo import zoo
from benchmark.statistics import class_statistics
from benchmark.steps import Step, steps_of
from benchmark.steps.listing import EVALUATE, FIT, PREDICT, RETRAIN, TRAIN, TRANSFORM
from benchmark.steps.sharing import shared_passes

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
DETECTION_BYTES, MASK_BYTES = 20, 80
"""Compressed size of a stored detection and of its mask's run lengths."""
BYTES_OF_TRAINING = 12
"""Bytes per parameter: the parameter, its gradient and its momentum, in float32."""


@dataclass(frozen=True)
class Speed:
    """Images per second on one GPU in each kind of step, and their source; 0 means unknown."""

    train: float
    retrain: float
    predict: float
    source: str

    def of(self, step: Step) -> float:
        """The speed of a step."""
        if step.kind in (PREDICT, FIT):
            return self.predict
        return self.retrain if step.kind is RETRAIN else self.train

    def __str__(self) -> str:
        rates = f"{self.train:g} images/s in training, {self.retrain:g} in retraining, {self.predict:g} in"
        return f"{rates} prediction; {self.source}"


@dataclass(frozen=True)
class Job:
    """A job of the plan: a training stage or a prediction.

    ``images`` is the number of images it processes, ``hours`` its GPU-hours, ``megabytes`` the size of its
    output, ``rows`` the rows that need it, ``done`` whether it is finished. ``shared_by`` stages or
    predictions share its pass over the images; ``hours`` is then its share.
    """

    run: str
    name: str
    images: int
    hours: float
    megabytes: float
    rows: tuple[str, ...]
    done: bool
    shared_by: int = 1


@dataclass(frozen=True)
class ExperimentPlan:
    """The cost of an experiment.

    ``jobs`` in order; ``hours_saved``, the GPU-hours that shared passes save; ``throughput``, the speed of
    each detector; ``too_large``, trainings that do not fit the GPU; ``unknown``, what is not known and
    therefore not counted; ``missing``, files and packages that are missing.
    """

    experiment: LoadedExperiment
    jobs: list[Job]
    hours_saved: float
    throughput: dict[str, Speed]
    too_large: list[str]
    unknown: list[str]
    missing: list[str]

    def as_dict(self) -> dict[str, object]:
        """The plan as JSON values."""
        return {
            "experiment": self.experiment.name,
            "jobs": [vars(job) for job in self.jobs],
            "throughput": {detector: vars(speed) for detector, speed in self.throughput.items()},
            "too_large": self.too_large,
            "gpu_hours": sum(job.hours for job in self.jobs),
            "gpu_hours_saved_by_shared_passes": self.hours_saved,
            "gpu_hours_left": sum(job.hours for job in self.jobs if not job.done),
            "megabytes": sum(job.megabytes for job in self.jobs),
            "missing": self.missing,
        }

    def text(self) -> str:
        """The plan as a table and notes."""
        shared = [job for job in self.jobs if len(job.rows) > 1]
        trained = [job for job in self.jobs if job.name != "predict"]
        predicted = len(self.jobs) - len(trained)
        done = [job for job in self.jobs if job.done]
        width = max(len(job.run) for job in self.jobs)
        lines = [f"{'run':<{width}}  {'step':<10} {'images':>10} {'GPU-hours':>9} {'disk':>8}  {'':<5}  rows"]
        for job in self.jobs:
            rows = ", ".join(job.rows[:4]) + (f" and {len(job.rows) - 4} more" if job.rows[4:] else "")
            lines.append(
                f"{job.run:<{width}}  {job.name:<10} {job.images:>10,} {job.hours:>9.1f} "
                f"{_disk(job.megabytes):>8}  {_note(job):<5}  {rows}"
            )
        lines += [
            "",
            f"{_number(len(trained), 'stage')} ({len(shared)} shared by several rows), "
            f"{_number(predicted, 'prediction')} and {'evaluation' if predicted == 1 else 'evaluations'}, "
            f"{sum(job.hours for job in self.jobs):,.1f} GPU-hours, "
            f"{_disk(sum(job.megabytes for job in self.jobs))} of checkpoints and detections",
        ]
        if done:
            left = sum(job.hours for job in self.jobs if not job.done)
            lines.append(f"{len(done)} of {len(self.jobs)} jobs are done; {left:,.1f} GPU-hours are left")
        together = [job for job in self.jobs if job.shared_by > 1]
        if together:
            lines.append(
                f"{len(together)} jobs share passes over the images, which saves {self.hours_saved:,.1f} "
                "GPU-hours; each job counts with its share"
            )
        lines += [f"{detector}: {speed}" for detector, speed in self.throughput.items()]
        lines += [f"unknown, and not counted: {item}" for item in self.unknown]
        lines += [f"does not fit: {item}" for item in self.too_large]
        lines += ["", *(f"missing: {item}" for item in self.missing)] if self.missing else []
        return "\n".join(lines)


def plan_experiment(
    experiment: LoadedExperiment, rates: Mapping[str, float] | None = None, gpu: str | None = None
) -> ExperimentPlan:
    """Plan all rows, including those that cannot run here yet, with one GPU for each step.

    Args:
        experiment: the experiment.
        rates: images per second in a full training by BACKEND/PRESET; default: measured in runs on this
            machine, or published by a model zoo.
        gpu: a name in ``workflows/zoo.yaml``; default: the first one there.

    Raises:
        BenchmarkError: unknown GPU, or a detector that the experiment does not use.
    """
    gpu = gpu or next(iter(zoo().gpus))
    steps, rows_of = _steps_with_rows(experiment)
    runs = [run for row in experiment.rows for item in row.runs for run in lineage(item)]
    detectors = dict.fromkeys(run.detector_name for run in runs)
    _check_names(rates or {}, detectors, gpu)
    run_of = {run.detector_name: run for run in runs}
    throughput = {name: _throughput(run_of[name], (rates or {}).get(name)) for name in detectors}
    megabytes = _checkpoint_sizes(runs)
    too_large: list[str] = []
    jobs: list[Job] = []
    images_of = {step.place: _images_seen(step) for step in steps if step.kind is not EVALUATE}
    shared_by = _sharing(steps, images_of)
    hours_saved = 0.0
    for step in steps:
        if step.kind is EVALUATE:
            continue
        run = step.run
        rate = throughput[run.detector_name].of(step)
        name = run_name(run).removeprefix(f"{run.budget}/")
        images = images_of[step.place]
        own_images, among = shared_by.get(step.place, (images, 1))
        hours = own_images / rate / 3600 if rate else 0.0
        hours_saved += (images - own_images) / rate / 3600 if rate else 0.0
        size = megabytes[_model(run)]
        if step.kind is TRAIN and not step.finished:
            too_large += _too_large(step, name, size, gpu)
        if step.kind is PREDICT:
            one = DETECTION_BYTES + MASK_BYTES * run.detector.masks
            size = images * run.test.max_detections * one / 1e6
        jobs.append(Job(name, step.name, images, hours, size, rows_of[step.place], step.finished, among))
    unknown = _unknown(runs, steps, throughput)
    return ExperimentPlan(experiment, jobs, hours_saved, throughput, too_large, unknown, _missing(experiment))


def _steps_with_rows(experiment: LoadedExperiment) -> tuple[list[Step], dict[str, tuple[str, ...]]]:
    """Each step of the experiment's runs once, and by its place the ids of the rows that need it."""
    steps: dict[str, Step] = {}
    rows: dict[str, dict[str, None]] = {}
    for row in experiment.rows:
        for run in row.runs:
            for step in steps_of(run):
                if not step.kind.of_dataset:
                    steps.setdefault(step.place, step)
                    rows.setdefault(step.place, {})[row.id] = None
    return list(steps.values()), {place: tuple(ids) for place, ids in rows.items()}


def _unknown(runs: Iterable[Run], steps: Iterable[Step], throughput: Mapping[str, Speed]) -> list[str]:
    """What the plan does not know and therefore does not count."""
    images = [
        f"the images of {run.dataset_name} {split}"
        for run in runs
        for split in SPLITS
        if not _images(run.dataset, split)
    ]
    hours = [f"hours of {name}: state {name}=N" for name, speed in throughput.items() if not speed.train]
    return list(dict.fromkeys([*images, *_repeated(steps), *hours]))


def _check_names(rates: Mapping[str, float], detectors: Iterable[str], gpu: str) -> None:
    if gpu not in zoo().gpus:
        raise BenchmarkError(f"no GPU '{gpu}' is known", expected=", ".join(zoo().gpus))
    for name in rates:
        if name not in detectors:
            raise BenchmarkError(f"no row has the detector '{name}'", expected=", ".join(detectors))


def _too_large(step: Step, name: str, megabytes: float, gpu: str) -> list[str]:
    """A message if a training needs more memory than the GPU has, with the number of images that fit."""
    run = step.run
    known = zoo().rate_of(run.detector)
    stage = step.stage
    if known is None or stage is None or stage.schedule is None:
        return []
    fixed = megabytes / 4 * BYTES_OF_TRAINING / 1024
    each = max(known.memory_gb - fixed, 0.0) / known.images
    at_once = stage.images_per_worker or stage.schedule.images_per_step
    needed, there = fixed + at_once * each, zoo().gpus[gpu]
    if needed <= there:
        return []
    possible = int((there - fixed) / each)
    remedy = f"--images-at-once {possible}" if possible >= 1 else "not even one image fits"
    return [f"{name} {step.name} takes {needed:.0f} GB, {gpu} has {there:g}: {remedy}"]


def _images_seen(step: Step) -> int:
    """Number of images that a step processes, without those that a sampler repeats (``_repeated``)."""
    run = step.run
    if step.kind is PREDICT:
        return _images(run.dataset, "val")
    if step.kind is TRANSFORM:
        return 0
    epoch = _images(run.dataset, "train")
    schedule = step.stage.schedule if step.stage is not None else None
    if schedule is None:
        return epoch
    if schedule.epochs is not None:
        return round(schedule.epochs * epoch)
    return (schedule.iterations or 0) * schedule.reference_batch_size


def _sharing(steps: Iterable[Step], images: Mapping[str, int]) -> dict[str, tuple[float, int]]:
    """For every step in a shared pass, the number of images that count for it and the number of steps.

    A pass is as long as its longest step, and each step counts for an equal share. The part of a prediction
    after the classifier is not shared.
    """
    found: dict[str, tuple[float, int]] = {}
    for shared in shared_passes(steps):
        members = [step.place for step in shared.unfinished]
        longest = max((images[place] for place in members), default=0)
        part = zoo().prediction.shared if shared.predicts else 1.0
        own = longest * (1 - part + part / max(len(members), 1))
        found |= dict.fromkeys(members, (own, len(members)))
    return found


def _note(job: Job) -> str:
    if job.done:
        return "done"
    return f"1/{job.shared_by}" if job.shared_by > 1 else ""


def _repeated(steps: Iterable[Step]) -> list[str]:
    """A message if samplers repeat images: this makes epochs longer by an amount that depends on the data."""
    longer = 0
    for step in steps:
        stage = step.stage
        if stage is not None and stage.schedule is not None and stage.schedule.epochs is not None:
            longer += stage.sampler is not None and stage.sampler.kind != "uniform"
    stages = _number(longer, "stage")
    return [f"repeated images, which make the epochs of {stages} longer"] if longer else []


def _images(dataset: Dataset, split: Split) -> int:
    """Number of images of a split, from the dataset's file or else from its annotations; 0 if unknown."""
    if dataset.synthetic is not None:
        return dataset.synthetic.train_images if split == "train" else dataset.synthetic.val_images
    if dataset.subset is not None:
        return dataset.subset.train_images if split == "train" else dataset.subset.val_images
    annotations = paths.split_file(dataset, split, "annotations")
    stated = {paths.data_folder() / file.path: file.images for file in dataset.files}.get(annotations)
    if stated is None and annotations.is_file():
        stated = class_statistics(annotations).num_images
    return stated or 0


def _throughput(run: Run, stated: float | None) -> Speed:
    """The speed of a detector: the stated one, else the measured one, else that of a model zoo."""
    faster = zoo().retraining.times
    known = zoo().rate_of(run.detector)
    per_training = known.predict / known.train if known else faster
    measured = _measured(run.detector_name)
    if stated is not None:
        rate, source = stated, "as stated"
    elif measured:
        rate, source = round(median(measured), 2), f"median of {len(measured)} measurements of runs here"
    elif known is not None:
        rate, source = known.train, f"one V100, {known.source}"
    else:
        rate, source = 0.0, "not measured yet"
    return Speed(rate, round(rate * faster, 2), round(rate * per_training, 2), source)


def _measured(detector: str) -> list[float]:
    """Images per second in the full trainings of a detector, from their logs."""
    rates = []
    for log in paths.links_folder().glob(f"*/*/{detector}/*/seed*/train/{paths.PROGRESS}"):
        lines = log.read_text().splitlines()
        rates += [json.loads(line)["images_per_second"] for line in lines if line.endswith("}")]
    return rates


def _model(run: Run) -> str:
    """Everything that the size of a checkpoint depends on."""
    return repr((run.detector_name, run.detector, run.classifier, run.options, run.dataset.categories))


def _checkpoint_sizes(runs: Iterable[Run]) -> dict[str, float]:
    """Megabytes of a finished checkpoint by ``_model``. Builds every model once, without weights."""
    sizes: dict[str, float] = {}
    for run in runs:
        if _model(run) not in sizes:
            sizes[_model(run)] = parameters_of(_countable(run)) * 4 / 1e6
    return sizes


def _countable(run: Run) -> Run:
    """A similar run in torchvision, which is always installed, to count parameters.

    A hybrid task cascade becomes a cascade, and deformable convolutions become plain ones, which changes the
    number of parameters by a few percent.
    """
    changes: dict[str, object] = {"deformable": False, "semantic_branch": False}
    if run.detector.architecture == "htc":
        changes["architecture"] = "cascade_mask_rcnn"
    preset = run.detector_name.partition("/")[2]
    detector = run.detector.model_copy(update=changes)
    return run.model_copy(update={"detector_name": f"torchvision/{preset}", "detector": detector})


def _missing(experiment: LoadedExperiment) -> list[str]:
    """Everything that is missing, and the rows that need it."""
    reasons: dict[str, list[str]] = {}
    for row in experiment.rows:
        for reason in (row.skipped or "").splitlines():
            reasons.setdefault(reason, []).append(row.id)
    everywhere = len(experiment.rows)
    return [
        reason if len(rows) == everywhere else f"for {', '.join(rows)}: {reason}"
        for reason, rows in reasons.items()
    ]


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _disk(megabytes: float) -> str:
    return f"{megabytes:,.0f} MB" if megabytes < 10_000 else f"{megabytes / 1000:,.0f} GB"
