"""One stage of a recipe, from checkpoint to checkpoint."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from benchmark.annotations import (
    AnnotationFile,
    Vocabulary,
    check_same_vocabulary,
    read_annotations,
    vocabulary_hash,
)
from benchmark.detectors import Detector, build_detector, checkpoints
from benchmark.detectors.layouts import is_by_class
from benchmark.images import TrainImages
from benchmark.notices import data_warnings
from benchmark.processes import fabric_of
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Stage
from benchmark.recipes.paths import PROGRESS, DatasetFiles
from benchmark.sampling import seeded
from benchmark.seeds import derive_seed
from benchmark.statistics import ClassStatistics, read_tables, warn_unless_divided
from benchmark.training.errors import TrainingError
from benchmark.training.fitting import FitData
from benchmark.training.learners import Learner
from benchmark.training.loop import train
from benchmark.training.passes import ImagePass, Trunk
from benchmark.training.resume import ResumeFolder

_LOGGER = logging.getLogger(__name__)


def read_training_data(run: Run, files: DatasetFiles) -> tuple[AnnotationFile, ClassStatistics]:
    """Annotations and class statistics of the training split.

    Raises:
        TrainingError: the two have different categories, or not the number of categories of the dataset.
    """
    annotations = read_annotations(files.train)
    path = files.statistics
    statistics = ClassStatistics.read(path)
    check_same_vocabulary(
        statistics.as_vocabulary(f"class statistics {path}"),
        Vocabulary.of(f"annotations {annotations.path}", annotations.categories),
        TrainingError,
        remedy=f"count again: longtail stats {annotations.path} -o {path}",
    )
    statistics.check_number(run.dataset.categories, run.dataset_name, annotations.path, TrainingError)
    return annotations, statistics


@dataclass(frozen=True, eq=False)
class StageJob:
    """A stage of a recipe to run, with its files.

    Args:
        run: the recipe.
        name: one of its stages.
        files: files of its dataset.
        output: path of the finished checkpoint, with ``progress.jsonl`` beside it. Checkpoints for resuming
            are in ``resume`` beside it until the stage is done, so its folder must be used only for this
            stage with these inputs.
        init: checkpoint to start from; None for the detector's initial weights.

    Raises:
        TrainingError: there is no such stage, or it starts from a checkpoint and none is given.
    """

    run: Run
    name: str
    files: DatasetFiles
    output: Path
    init: Path | None

    def __post_init__(self) -> None:
        if self.init is None and (self.run.base is not None or self.stage is not self.run.stages[0]):
            raise TrainingError(
                f"stage '{self.name}' of recipe {self.run.row} starts from a checkpoint and was given none"
            )

    @property
    def stage(self) -> Stage:
        """The stage with that name."""
        stages = {stage.name: stage for stage in self.run.stages}
        if self.name not in stages:
            raise TrainingError(
                f"recipe {self.run.row} has no stage '{self.name}'", expected=" or ".join(stages)
            )
        return stages[self.name]

    def detector(self, statistics: ClassStatistics, vocabulary: str) -> tuple[Detector, dict[str, Any]]:
        """The detector with the initial weights of the stage, and the conventions of these weights if they
        differ from the recipe's. A checkpoint of other categories fills all but the last layers."""
        conventions = checkpoints.conventions_of(self.init)
        as_trained = checkpoints.with_conventions(self.run, conventions)
        tables = read_tables(self.files.intermediates, self.run.intermediates, statistics)
        detector = build_detector(as_trained, statistics, initial_weights=self.init is None, tables=tables)
        if self.init is not None and self.run.starts_elsewhere(self.stage):
            by_class = partial(is_by_class, settings=detector.settings)
            checkpoints.load_weights(detector, self.init, self.run, None, fresh=by_class)
        elif self.init is not None:
            fresh = checkpoints.is_classifier if self.stage.reset == "classifier" else None
            checkpoints.load_weights(detector, self.init, self.run, vocabulary, fresh=fresh)
        return detector, conventions

    def write_checkpoint(self, detector: Detector, vocabulary: str, conventions: dict[str, Any]) -> None:
        """Write the finished checkpoint."""
        content = checkpoints.finished(self.run, self.stage.name, detector, vocabulary, conventions)
        checkpoints.save(self.output, content)

    @property
    def resume(self) -> ResumeFolder:
        """Checkpoints for resuming."""
        return ResumeFolder(self.output.parent / "resume")


def run_stage(
    job: StageJob, *, devices: int, workers: int, images_at_once: int | None = None
) -> dict[str, Any]:
    """Run a stage and write its checkpoint.

    Args:
        job: the stage.
        devices: number of started processes, one per GPU (or per CPU replica); only trainings use more than
            the first. 0 for the CPU even if there is a GPU.
        workers: data loading processes for each process.
        images_at_once: largest number of images in a pass if all parameters train; None for no limit.

    The function of a fit stage is called as ``function(detector, data, statistics, **options)`` with
    ``FitData``, that of a transform stage without ``data``. Both may return a dictionary of facts for the
    record.

    Returns:
        Facts for the record.

    Raises:
        BenchmarkError: bad input of any kind, divergence, or an interruption.
    """
    if job.stage.kind == "train":
        ended = train_stages([job], devices=devices, workers=workers, images_at_once=images_at_once)
        ((_, facts),) = ended
        assert not isinstance(facts, Exception)
        return facts
    if int(os.environ.get("LOCAL_RANK", 0)):
        return {}
    fabric = fabric_of(min(devices, 1))
    fabric.launch()
    with data_warnings(_LOGGER.warning) as warned:
        annotations, statistics = read_training_data(job.run, job.files)
        vocabulary = vocabulary_hash(annotations.categories)
        detector, conventions = job.detector(statistics, vocabulary)
        detector.to(fabric.device).eval()
        categories = trained_categories(job.stage, statistics)
        images = job.files.train_images
        seen = FitData(job.run, job.stage, annotations, images, categories, fabric.device, workers)
        facts = _without_gradients(job.stage, job.run, detector, seen, statistics)
    job.write_checkpoint(detector, vocabulary, conventions)
    return detector.initial_weights | facts | _warnings_fact(warned)


def train_stages(
    jobs: Sequence[StageJob], *, devices: int, workers: int, images_at_once: int | None = None
) -> Iterator[tuple[StageJob, dict[str, Any] | Exception]]:
    """Train stages in one pass over their images. Yields each stage when it ends, with facts for its record
    or the error that ended it.

    Several stages train their classifiers on the features of the same frozen detector: they have the same
    images in the same order and start from the same checkpoint. Each checkpoint has the same bytes as if its
    stage were trained alone. With only one stage, its error is raised.

    Args:
        jobs: train stages. If there are several processes, the jobs of the first process are run; all other
            processes must have them too.
        devices: as in ``run_stage``, like the other arguments.

    Raises:
        BenchmarkError: bad input of any kind, or an interruption.
    """
    first = jobs[0]
    assert first.stage.schedule is not None
    fabric = fabric_of(devices, first.stage.schedule.precision)
    fabric.launch()
    chosen = fabric.broadcast([str(job.output) for job in jobs])
    jobs = [job for job in jobs if str(job.output) in chosen]
    annotations, statistics = read_training_data(first.run, first.files)
    vocabulary = vocabulary_hash(annotations.categories)
    data = _train_images(first, annotations, statistics)
    images = ImagePass(fabric, data, [(job.run, job.stage) for job in jobs])
    del annotations  # a gigabyte of objects; the data keep what they need
    trunk = Trunk(fabric, images)
    started: dict[Learner, _StartedStage] = {}
    for job in jobs:
        try:
            start = _start(job, fabric, trunk, statistics, vocabulary, images_at_once)
        except Exception as error:
            if len(jobs) == 1 or fabric.world_size > 1:
                raise
            yield job, error
        else:
            started[start.learner] = start
    if not started:
        return
    title = first.run.title if len(jobs) == 1 else f"{len(jobs)} classifiers,"
    ended = train(fabric, images, list(started), title=f"{title} {first.stage.name}", workers=workers)
    for learner, failure in ended:
        start = started.pop(learner)
        if failure is not None:
            yield start.job, failure
            continue
        facts = learner.facts()
        if fabric.is_global_zero:
            _LOGGER.info(_describe(facts))
            start.job.write_checkpoint(learner.detector, vocabulary, start.conventions)
            start.job.resume.clear()
        yield start.job, facts | start.facts


@dataclass(frozen=True)
class _StartedStage:
    """A stage in training, the conventions of its weights, and facts that are known before it ends."""

    job: StageJob
    learner: Learner
    conventions: dict[str, Any]
    facts: dict[str, Any]


def _start(
    job: StageJob,
    fabric: Fabric,
    trunk: Trunk,
    statistics: ClassStatistics,
    vocabulary: str,
    images_at_once: int | None,
) -> _StartedStage:
    with data_warnings(_LOGGER.warning if fabric.is_global_zero else None) as warned:
        detector, conventions = job.detector(statistics, vocabulary)
        trained_categories(job.stage, statistics)  # for its warnings
        learner = Learner(
            fabric,
            trunk.images,
            trunk.features(detector) if job.stage.trainable == "classifier" else None,
            detector,
            job.run,
            job.stage,
            resume=job.resume,
            log_path=job.output.with_name(PROGRESS),
            images_at_once=images_at_once,
        )
    return _StartedStage(job, learner, conventions, detector.initial_weights | _warnings_fact(warned))


def _train_images(job: StageJob, annotations: AnnotationFile, statistics: ClassStatistics) -> TrainImages:
    run, stage, files = job.run, job.stage, job.files
    whole = stage.trainable == "all"
    with data_warnings():  # ``_start`` reports the warnings
        categories = trained_categories(stage, statistics)
    return TrainImages(
        annotations,
        files.train_images,
        run.detector,
        derive_seed(run.seed, "augmentation", stage.name),
        masks=whole and run.detector.masks,
        stuff_maps=files.stuff_maps if whole and run.detector.semantic_branch else None,
        categories=categories,
    )


def _warnings_fact(warned: list[str]) -> dict[str, Any]:
    return {"warnings": warned} if warned else {}


def _without_gradients(
    stage: Stage, run: Run, detector: Detector, data: FitData, statistics: ClassStatistics
) -> dict[str, Any]:
    """Run a fit or transform stage; returns the facts of its function for the record."""
    function = load_object(stage.function or "", run.plugin_path)
    # a pass over the data may sample RoIs
    with torch.no_grad(), seeded(derive_seed(run.seed, stage.kind, stage.name)):
        if stage.kind == "fit":
            return function(detector, data, statistics, **stage.options) or {}
        return function(detector, statistics, **stage.options) or {}


def trained_categories(stage: Stage, statistics: ClassStatistics) -> set[int] | None:
    """Ids of the categories whose annotations the stage uses; None for all."""
    if stage.annotations is None:
        return None
    few = statistics.instance_counts <= stage.annotations.max_instance_count
    setting = f"stage {stage.name}, max_instance_count {stage.annotations.max_instance_count}"
    warn_unless_divided(few, setting, "trained on", "training instances", statistics.instance_counts)
    return set(statistics.category_ids[few].tolist())


def _describe(facts: dict[str, float | int | str]) -> str:
    scale = facts["learning_rate_scale"]
    scaled = "" if scale == 1 else f" (the recipe's, times {scale:g} for the batch size)"
    return (
        f"trained {facts['iterations']} iterations of {facts['batch_size']} images "
        f"at learning rate {facts['learning_rate']:g}{scaled} on {facts['device']}"
    )
