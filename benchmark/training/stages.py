"""One stage of a recipe, from checkpoint to checkpoint."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmark.annotations import (
    AnnotationFile,
    Vocabulary,
    check_same_vocabulary,
    read_annotations,
    vocabulary_hash,
)
from benchmark.detectors import Detector, build_detector, checkpoints
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
from benchmark.training.loop import train
from benchmark.training.resume import ResumeFolder


def read_training_data(run: Run, files: DatasetFiles) -> tuple[AnnotationFile, ClassStatistics]:
    """Annotations and class statistics of the training split.

    Raises:
        TrainingError: the two speak of different categories, or of another number than the dataset has.
    """
    annotations = read_annotations(files.train)
    path = files.statistics
    statistics = ClassStatistics.read(path)
    check_same_vocabulary(
        statistics.spoken(f"class statistics {path}"),
        Vocabulary.of(f"annotations {annotations.path}", annotations.categories),
        TrainingError,
        remedy=f"count again: longtail stats {annotations.path} -o {path}",
    )
    if statistics.num_classes != run.dataset.categories:
        raise TrainingError(
            f"not the categories of dataset {run.dataset_name}",
            where=annotations.path,
            found=f"{statistics.num_classes} categories",
            expected=f"{run.dataset.categories}",
            remedy="check that LVIS v0.5 (1230 categories) and v1 (1203) are not mixed up",
        )
    return annotations, statistics


def run_stage(
    run: Run,
    name: str,
    files: DatasetFiles,
    output: Path,
    *,
    init: Path | None,
    devices: int,
    workers: int,
    images_at_once: int | None = None,
) -> dict[str, Any]:
    """Run stage ``name`` and write its checkpoint, with ``progress.jsonl`` beside it.

    Checkpoints for resuming lie in ``resume`` beside it until the stage is done: the folder of ``output``
    must be of this stage with these inputs only.

    Args:
        run: the recipe.
        name: one of its stages.
        files: of its dataset.
        output: the finished checkpoint.
        init: checkpoint to start from; None for the detector's initial weights.
        devices: processes that were started for this, one per GPU (or per CPU replica), of which only
            trainings use more than the first; 0 for the CPU even where there is a GPU.
        workers: data loading processes of each.
        images_at_once: where all parameters train, a pass is over at most so many images; None for no bound.

    The function of a fit stage is called as ``function(detector, data, statistics, **options)`` with
    ``FitData``, that of a transform stage without it; either may return a dictionary of facts for the record.

    Returns:
        Facts for the record.

    Raises:
        BenchmarkError: bad input of any kind, divergence, or an interruption.
    """
    stage = _stage(run, name)
    if init is None and (run.base is not None or stage is not run.stages[0]):
        raise TrainingError(f"stage '{name}' of recipe {run.row} starts from a checkpoint and was given none")
    if stage.kind != "train":
        if int(os.environ.get("LOCAL_RANK", 0)):
            return {}
        devices = min(devices, 1)
    fabric = fabric_of(devices, stage.schedule.precision if stage.schedule else "fp32")
    fabric.launch()
    with data_warnings(_say if fabric.is_global_zero else None) as warned:
        annotations, statistics = read_training_data(run, files)
        vocabulary = vocabulary_hash(annotations.categories)
        conventions = checkpoints.conventions_of(init)
        as_trained = checkpoints.with_conventions(run, conventions)
        tables = read_tables(files.intermediates, run.intermediates, statistics)
        detector = build_detector(as_trained, statistics, initial_weights=init is None, tables=tables)
        if init is not None:
            checkpoints.load_weights(
                detector, init, run, vocabulary, except_classifier=stage.reset == "classifier"
            )
        categories = trained_categories(stage, statistics)
        resume = ResumeFolder(output.parent / "resume")
        if stage.kind == "train":
            whole = stage.trainable == "all"
            data = TrainImages(
                annotations,
                files.train_images,
                run.detector,
                derive_seed(run.seed, "augmentation", name),
                masks=whole and run.detector.masks,
                stuff_maps=files.stuff_maps if whole and run.detector.semantic_branch else None,
                categories=categories,
            )
            del annotations  # a gigabyte of objects, of which the data hold what they need
            facts: dict[str, Any] = train(
                fabric,
                detector,
                data,
                run,
                stage,
                resume=resume,
                log_path=output.with_name(PROGRESS),
                workers=workers,
                images_at_once=images_at_once,
            )
            if fabric.is_global_zero:
                print(_describe(facts), file=sys.stderr)
        else:
            detector.to(fabric.device).eval()
            seen = FitData(run, stage, annotations, files.train_images, categories, fabric.device, workers)
            facts = _without_gradients(stage, run, detector, seen, statistics)
    if fabric.is_global_zero:
        detector.cpu()
        checkpoints.save(output, checkpoints.finished(run, name, detector, vocabulary, conventions))
        resume.clear()
    return detector.initial_weights | facts | ({"warnings": warned} if warned else {})


def _say(warning: str) -> None:
    print(f"warning: {warning}", file=sys.stderr, flush=True)


def _without_gradients(
    stage: Stage, run: Run, detector: Detector, data: FitData, statistics: ClassStatistics
) -> dict[str, Any]:
    """Carry out a fit or transform stage; returns what its function says for the record."""
    function = load_object(stage.function or "", run.plugin_path)
    # a pass over the data may sample RoIs
    with torch.no_grad(), seeded(derive_seed(run.seed, stage.kind, stage.name)):
        if stage.kind == "fit":
            return function(detector, data, statistics, **stage.options) or {}
        return function(detector, statistics, **stage.options) or {}


def _stage(run: Run, name: str) -> Stage:
    stages = {stage.name: stage for stage in run.stages}
    if name not in stages:
        raise TrainingError(f"recipe {run.row} has no stage '{name}'", expected=" or ".join(stages))
    return stages[name]


def trained_categories(stage: Stage, statistics: ClassStatistics) -> set[int] | None:
    """Ids of the categories whose annotations the stage sees; None for all."""
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
