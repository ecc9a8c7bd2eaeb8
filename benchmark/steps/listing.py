"""The list of a run's steps, which rules, plan, status, report, export and commands use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmark.numerics import method_version
from benchmark.recipes import LoadedExperiment, lineage
from benchmark.recipes.detector_settings import (
    InitialWeights,
    ModelSettings,
    TestingSettings,
    TrainingSettings,
)
from benchmark.recipes.models import Dataset, Run, Stage
from benchmark.recipes.paths import DatasetFiles, data_folder, split_file
from benchmark.recipes.project import working_root
from benchmark.statistics.groups import EDGES
from benchmark.steps.step import MAIN, Kind, Source, Step

SYNTHESIZE = Kind(
    "synthesize",
    {MAIN: "train.json", "val": "val.json", "images": "images"},
    areas=("data",),
    memory_mb=(1000, 1000),
    minutes=(30, 30),
    of_dataset=True,
)
CHECK = Kind(
    "check",
    {MAIN: "files.json", "problems": "problems.json"},
    areas=("data",),
    memory_mb=(16000, 16000),
    minutes=(120, 120),
    of_dataset=True,
    cores=8,
)
STATISTICS = Kind(
    "statistics",
    {MAIN: "class_statistics.csv"},
    areas=("data",),
    memory_mb=(8000, 8000),
    minutes=(30, 30),
    of_dataset=True,
)
INTERMEDIATES = Kind(
    "intermediates",
    {
        MAIN: "groups.csv",
        "class_weights": "class_weights.csv",
        "images": "images.parquet",
        "category_images": "category_images.parquet",
    },
    areas=("data",),
    memory_mb=(8000, 8000),
    minutes=(30, 30),
    of_dataset=True,
)


def _training(name: str, *more_areas: str) -> Kind:
    return Kind(
        name,
        {MAIN: "checkpoint.pt"},
        areas=("data", "images", "detectors", "classifiers", "training", *more_areas),
        memory_mb=(2000, 24000),
        minutes=(120, 2880),
        on_gpu=True,
    )


TRAIN, RETRAIN, TRANSFORM = map(_training, ("train", "retrain", "transform"))
FIT = _training("fit", "inference", "evaluation")  # its function may measure AP on training images
PREDICT = Kind(
    "predict",
    {MAIN: "detections.parquet", "weight_norms": "weight_norms.csv"},
    areas=("data", "images", "detectors", "classifiers", "inference"),
    memory_mb=(2000, 24000),
    minutes=(60, 480),
    on_gpu=True,
)
EVALUATE = Kind(
    "evaluate",
    {MAIN: "metrics.json", "per_class": "per_class.csv", "calibration": "calibration.csv"},
    areas=("data", "evaluation"),
    memory_mb=(2000, 24000),
    minutes=(30, 120),
)
KINDS = (SYNTHESIZE, CHECK, STATISTICS, INTERMEDIATES, TRAIN, RETRAIN, FIT, TRANSFORM, PREDICT, EVALUATE)


def steps_of(run: Run) -> list[Step]:
    """All steps from the dataset to the metrics, including those of bases and of their datasets, in an order
    in which they can be made."""
    steps: dict[str, Step] = {}
    of_datasets: dict[str, list[Step]] = {}
    before: Step | None = None
    for item in lineage(run):
        if item.dataset_name not in of_datasets:
            of_datasets[item.dataset_name] = dataset_steps(item.dataset)
        of_dataset = of_datasets[item.dataset_name]
        made = {step.kind.name: step for step in of_dataset if step.kind is not CHECK}
        after = {step.kind.name: step for step in of_dataset if step.kind is CHECK}
        tables = {step.kind.name: step for step in _intermediates(item, made, after)}
        for step in [*of_dataset, *tables.values()]:
            steps.setdefault(step.place, step)
        for stage in item.stages:
            before = replace(_stage_step(item, stage, made | tables, before), after=after)
            steps[before.place] = before
    assert before is not None
    reads = {
        "backend": run.detector_name.partition("/")[0],
        "detector": _changed(run.detector, ModelSettings, TestingSettings),
        "test": _without_defaults(run.test),
    }
    truth = _source(run.dataset, "val")
    predict = Step(
        PREDICT, "predict", run, reads, {**made, **tables, "checkpoint": before}, truth, after=after
    )
    cap = {"max_detections": run.test.max_detections}
    evaluate = Step(EVALUATE, "evaluate", run, cap, {**made, "detections": predict}, truth, after=after)
    return [*steps.values(), predict, evaluate]


def dataset_steps(dataset: Dataset) -> list[Step]:
    """The steps of a dataset: the generation of a synthetic one, or the check of a real one's files; and the
    counts of its categories."""
    generated, checked = {}, {}
    if dataset.synthetic is not None:
        # defaults are part of this key; `counts`, which came later, is only part of it where it is set
        reads = dataset.synthetic.model_dump(mode="json", exclude_none=True)
        generated["synthesize"] = Step(SYNTHESIZE, "synthesize", dataset, reads, {}, {})
    else:
        sources = {
            f"{split} annotations": _source(dataset, split)["annotations"] for split in ("train", "val")
        }
        checked["check"] = Step(CHECK, "check", dataset, {}, {}, sources)
    source = _source(dataset, "train")
    statistics = Step(STATISTICS, "statistics", dataset, {}, generated, source, after=checked)
    return [*generated.values(), *checked.values(), statistics]


def shared_steps(run: Run) -> list[Step]:
    """The steps before a run's own: those of its dataset, and the tables that its method reads."""
    steps = dataset_steps(run.dataset)
    made = {step.kind.name: step for step in steps}
    return [*steps, *_intermediates(run, made, {name: made[name] for name in made if name == CHECK.name})]


def _intermediates(run: Run, made: Mapping[str, Step], after: Mapping[str, Step]) -> list[Step]:
    """The step that makes the intermediate files of the method; empty if it declares none."""
    if not run.intermediates:
        return []
    reads = {"edges": list(run.options.get("edges", EDGES))}
    sources = _source(run.dataset, "train")
    for table, released in run.released.items():
        path = data_folder() / released.file
        sources[table] = Source(path, f"released/{released.file}", released.sha256)
    before = {name: step for name, step in made.items() if name == SYNTHESIZE.name}
    return [Step(INTERMEDIATES, "intermediates", run.dataset, reads, before, sources, after=after)]


def own_steps(run: Run) -> list[Step]:
    """The steps of a run itself, without its dataset and bases."""
    return [step for step in steps_of(run) if step.owner is run]


def find_step(run: Run, name: str) -> Step | None:
    """A step of a run or its dataset by name, or any step of the run or its bases by KIND/KEY."""
    if "/" in name:
        return next((step for step in steps_of(run) if step.place == name), None)
    return next((step for step in [*shared_steps(run), *own_steps(run)] if step.name == name), None)


@dataclass(frozen=True)
class PlannedStep:
    """A step of an experiment, and the recipe of one of the rows that need it."""

    step: Step
    recipe: str


def steps_of_experiment(experiment: LoadedExperiment) -> dict[str, PlannedStep]:
    """The steps of all rows that can run here, each once, by KIND/KEY, in an order in which they can be
    made."""
    found: dict[str, PlannedStep] = {}
    for row in experiment.rows:
        for run in row.runs if row.skipped is None else []:
            recipe = f"{experiment.path}:{row.id}:{run.seed}"
            for step in steps_of(run):
                found.setdefault(step.place, PlannedStep(step, recipe))
    return found


def dataset_files(dataset: Dataset) -> DatasetFiles:
    """The files of a dataset, whether or not they exist, without the tables that methods read."""
    steps = {step.kind.name: step for step in dataset_steps(dataset)}
    statistics = steps["statistics"].output()
    if dataset.synthetic is not None:
        made = steps["synthesize"]
        images = made.output("images")
        return DatasetFiles(made.output(), made.output("val"), images, images, None, statistics)
    maps = dataset.train.stuff_maps if dataset.train is not None else None
    return DatasetFiles(
        train=split_file(dataset, "train", "annotations"),
        val=split_file(dataset, "val", "annotations"),
        train_images=split_file(dataset, "train", "images"),
        val_images=split_file(dataset, "val", "images"),
        stuff_maps=data_folder() / maps if maps is not None else None,
        statistics=statistics,
    )


def run_files(run: Run) -> DatasetFiles:
    """The files of a run's dataset, with the intermediate files that its method reads."""
    steps = {step.kind.name: step for step in shared_steps(run)}
    tables = steps.get(INTERMEDIATES.name)
    return replace(dataset_files(run.dataset), intermediates=tables.folder if tables is not None else None)


def _stage_step(run: Run, stage: Stage, made: Mapping[str, Step], before: Step | None) -> Step:
    reads: dict[str, Any] = {
        "seed": run.seed,
        "backend": run.detector_name.partition("/")[0],
        "detector": _changed(run.detector, *_groups(run, stage, before)),
        "classifier": run.classifier,
        "options": run.options,
        "stage": _without_defaults(stage),
    }
    reads["stage"].get("schedule", {}).pop("checkpoint_every", None)
    if stage.kind == "fit":
        reads["test"] = _without_defaults(run.test)
    sources = _source(run.dataset, "train")
    weights = run.detector.weights_file
    if before is None and weights is not None:
        sources = {**sources, "weights": Source(working_root() / weights, f"weights/{Path(weights).name}")}
    inputs = {**made} | ({"init": before} if before is not None else {})
    return Step(_kind(stage), stage.name, run, reads, inputs, sources, method_version(Path(run.plugin_path)))


def _kind(stage: Stage) -> Kind:
    if stage.kind == "train":
        return RETRAIN if stage.trainable == "classifier" else TRAIN
    return FIT if stage.kind == "fit" else TRANSFORM


def _groups(run: Run, stage: Stage, before: Step | None) -> Iterable[type[BaseModel]]:
    """The groups of detector settings that a stage reads."""
    yield ModelSettings
    yield TrainingSettings
    if before is None or run.starts_elsewhere(stage):
        yield InitialWeights
    if stage.kind != "train":
        yield TestingSettings  # a pass over the data uses images at test size


def _source(dataset: Dataset, split: str) -> dict[str, Source]:
    """The annotations of a real dataset; a step makes those of a generated one."""
    if dataset.synthetic is not None:
        return {}
    path = split_file(dataset, split, "annotations")
    return {"annotations": Source(path, path.relative_to(data_folder()).as_posix())}


def _changed(settings: BaseModel, *groups: type[BaseModel]) -> dict[str, Any]:
    """The settings of some groups that differ from their default values.

    Without the framework, which only sets defaults of other settings, and without the paths of weights.
    """
    names = {name for group in groups for name in group.model_fields} - {"framework", "weights"}
    return settings.model_dump(mode="json", include=names, exclude_defaults=True)


def _without_defaults(settings: BaseModel) -> dict[str, Any]:
    return settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
