"""One stage of a recipe, from checkpoint to checkpoint."""

import hashlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmark.annotations import (
    AnnotationFile,
    Vocabulary,
    check_same_vocabulary,
    read_annotations,
    vocabulary_hash,
)
from benchmark.cost import gpu_uuids
from benchmark.detectors import build_detector, checkpoints
from benchmark.images import TrainImages
from benchmark.processes import fabric_of
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Stage
from benchmark.recipes.paths import (
    annotations_path,
    images_folder,
    initial_checkpoint_path,
    statistics_path,
    stuff_maps_folder,
)
from benchmark.records import fingerprint, record_step
from benchmark.sampling import seeded
from benchmark.seeds import derive_seed
from benchmark.statistics import ClassStatistics
from benchmark.training.errors import TrainingError
from benchmark.training.fitting import FitData
from benchmark.training.loop import train
from benchmark.training.resume import ResumeFolder


def read_training_data(run: Run) -> tuple[AnnotationFile, ClassStatistics]:
    """Annotations and class statistics of the training split.

    Raises:
        TrainingError: the two speak of different categories, or of another number than the dataset has.
    """
    annotations = read_annotations(annotations_path(run.dataset, "train"))
    path = statistics_path(run.dataset)
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
    output: Path,
    *,
    init: Path | None,
    devices: int,
    workers: int,
    work: Path,
    images_at_once: int | None = None,
) -> None:
    """Run stage ``name`` and write its checkpoint, with ``progress.jsonl`` and the record beside it.

    Args:
        run: the recipe.
        name: one of its stages.
        output: the finished checkpoint.
        init: checkpoint to start from; None for the detector's initial weights.
        devices: processes that were started for this, one per GPU (or per CPU replica), of which only
            trainings use more than the first; 0 for the CPU even where there is a GPU.
        workers: data loading processes of each.
        work: folder of unfinished trainings; the one of this stage is keyed by all that it depends on.
        images_at_once: where all parameters train, a pass is over at most so many images; None for no bound.

    The function of a fit stage is called as ``function(detector, data, statistics, **options)`` with
    ``FitData``, that of a transform stage without it; either may return a dictionary of facts for the record.

    Raises:
        BenchmarkError: bad input of any kind, divergence, or an interruption.
    """
    stage = _stage(run, name)
    needed = initial_checkpoint_path(run, name)
    if init is None and needed is not None:
        raise TrainingError(
            f"stage '{name}' of recipe {run.row} starts from a checkpoint and was given none",
            expected=f"--init CHECKPOINT; the workflow keeps it at {needed}",
            remedy="train the stage before this one first",
        )
    precision = stage.schedule.precision if stage.schedule else "fp32"
    if stage.kind != "train":
        if int(os.environ.get("LOCAL_RANK", 0)):
            return
        devices = min(devices, 1)
    fabric = fabric_of(devices, precision)
    fabric.launch()
    inputs = {
        "annotations": annotations_path(run.dataset, "train"),
        "statistics": statistics_path(run.dataset),
    } | ({"init": init} if init else {})
    recipe = run.model_dump(mode="json", by_alias=True) | {"stage": name, "digest": run.digest(name)}
    recorder = (
        record_step(output, f"{stage.kind} {name}", recipe, inputs)
        if fabric.is_global_zero
        else nullcontext()
    )
    with recorder as record:
        if record is not None and fabric.device.type == "cuda":
            record.use_gpus(gpu_uuids(fabric.world_size))
        annotations, statistics = read_training_data(run)
        vocabulary = vocabulary_hash(annotations.categories)
        conventions = checkpoints.conventions_of(init)
        as_trained = checkpoints.with_conventions(run, conventions)
        detector = build_detector(as_trained, statistics, initial_weights=init is None)
        if init is not None:
            checkpoints.load_weights(
                detector, init, run, vocabulary, except_classifier=stage.reset == "classifier"
            )
        if record is not None and detector.initial_weights:
            record.add(**detector.initial_weights)
        categories = _categories(stage, statistics)
        resume = ResumeFolder(work / _work_key(run, stage, inputs))
        if stage.kind == "train":
            data = TrainImages(
                annotations,
                images_folder(run.dataset, "train"),
                run.detector,
                derive_seed(run.seed, "augmentation", run.dataset_name, name),
                masks=stage.trainable == "all" and run.detector.masks,
                stuff_maps=stuff_maps_folder(run.dataset)
                if stage.trainable == "all" and run.detector.semantic_branch
                else None,
                categories=categories,
            )
            facts = train(
                fabric,
                detector,
                data,
                run,
                stage,
                resume=resume,
                log_path=output.parent / "progress.jsonl",
                workers=workers,
                images_at_once=images_at_once,
            )
            if record is not None:
                record.add(**facts)
                print(_describe(facts), file=sys.stderr)
        else:
            function = load_object(stage.function or "", run.plugin_path)
            detector.to(fabric.device).eval()
            # a pass over the data may sample RoIs
            with torch.no_grad(), seeded(derive_seed(run.seed, stage.kind, run.dataset_name, name)):
                if stage.kind == "fit":
                    seen = FitData(run, stage, annotations, categories, fabric.device, workers)
                    found = function(detector, seen, statistics, **stage.options)
                else:
                    found = function(detector, statistics, **stage.options)
            if record is not None and found:
                record.add(**found)
        if fabric.is_global_zero:
            detector.cpu()
            checkpoints.save(output, checkpoints.finished(run, name, detector, vocabulary, conventions))
            resume.clear()


def _stage(run: Run, name: str) -> Stage:
    stages = {stage.name: stage for stage in run.stages}
    if name not in stages:
        raise TrainingError(f"recipe {run.row} has no stage '{name}'", expected=" or ".join(stages))
    return stages[name]


def _categories(stage: Stage, statistics: ClassStatistics) -> set[int] | None:
    """Ids of the categories whose annotations the stage sees; None for all."""
    if stage.annotations is None:
        return None
    few = statistics.instance_counts <= stage.annotations.max_instance_count
    return set(statistics.category_ids[few].tolist())


def _work_key(run: Run, stage: Stage, inputs: dict[str, Path]) -> str:
    """Changes with everything that an unfinished training must not be continued across."""
    parts = [run.digest(stage.name)]
    for path in inputs.values():
        print_of_file = fingerprint(path)
        parts.append(str(print_of_file.get("sha256") or sorted(print_of_file.items())))
    for path in sorted(Path(run.plugin_path).rglob("*.py")):
        parts.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _describe(facts: dict[str, float | int | str]) -> str:
    scale = facts["learning_rate_scale"]
    scaled = "" if scale == 1 else f" (the recipe's, times {scale:g} for the batch size)"
    return (
        f"trained {facts['iterations']} iterations of {facts['batch_size']} images "
        f"at learning rate {facts['learning_rate']:g}{scaled} on {facts['device']}"
    )
