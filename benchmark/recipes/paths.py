"""Where everything lies: the results tree and the data folder, relative to the working directory."""

import os
from pathlib import Path

from benchmark.recipes.models import Dataset, Run

RESULTS = Path("results")


def data_folder() -> Path:
    """The folder with real data sets: ``$LONGTAIL_DATA``, or ``data`` in the working directory."""
    return Path(os.environ.get("LONGTAIL_DATA", "data"))


def dataset_folder(dataset: Dataset) -> Path:
    """Folder of what is generated for a dataset (statistics; of a synthetic one also its images)."""
    return RESULTS / "data" / dataset.name


def annotations_path(dataset: Dataset, split: str) -> Path:
    """The annotation file of split ``train`` or ``val``."""
    if dataset.synthetic is not None:
        return dataset_folder(dataset) / f"{split}.json"
    return data_folder() / getattr(dataset, split).annotations


def images_folder(dataset: Dataset, split: str) -> Path:
    """The image folder of split ``train`` or ``val``."""
    if dataset.synthetic is not None:
        return dataset_folder(dataset) / "images"
    return data_folder() / getattr(dataset, split).images


def stuff_maps_folder(dataset: Dataset) -> Path | None:
    """The folder of the training split's stuff maps, if the dataset has any."""
    if dataset.train is None or dataset.train.stuff_maps is None:
        return None
    return data_folder() / dataset.train.stuff_maps


def statistics_path(dataset: Dataset) -> Path:
    """Class statistics of the training split."""
    return dataset_folder(dataset) / "class_statistics.csv"


def run_folder(run: Run) -> Path:
    """``results/runs/<budget>/<dataset>/<backend>/<detector>/<method>[+<variant>]/seed<k>``."""
    method = f"{run.method}+{run.variant}" if run.variant else run.method
    return RESULTS / "runs" / run.budget / run.dataset_name / run.detector_name / method / f"seed{run.seed}"


def checkpoint_path(run: Run, stage: str) -> Path:
    """The finished checkpoint of a stage."""
    return run_folder(run) / stage / "checkpoint.pt"


def final_checkpoint_path(run: Run) -> Path:
    """The checkpoint that is evaluated: that of the last stage."""
    return checkpoint_path(run, run.stages[-1].name)


def initial_checkpoint_path(run: Run, stage: str) -> Path | None:
    """The checkpoint that a stage starts from; None for initial weights."""
    names = [item.name for item in run.stages]
    position = names.index(stage)
    if position > 0:
        return checkpoint_path(run, names[position - 1])
    return final_checkpoint_path(run.base) if run.base is not None else None


def record_path(output: Path) -> Path:
    """The status and provenance record beside a step's output, e.g. ``checkpoint.provenance.json``."""
    return output.with_name(f"{output.stem}.provenance.json")


def progress_path(checkpoint: Path) -> Path:
    """The losses of a training, line by line, beside its checkpoint."""
    return checkpoint.with_name("progress.jsonl")


def lock_path(output: Path) -> Path:
    """The file that the process which makes an output keeps locked, e.g. ``.checkpoint.lock``."""
    return output.with_name(f".{output.stem}.lock")


def log_path(run: Run, step: str) -> Path:
    """What a step of the workflow printed; ``step`` is a stage's name, ``predict`` or ``evaluate``."""
    name = step if step in ("predict", "evaluate") else f"train_{step}"
    return RESULTS / "logs" / run_folder(run).relative_to(RESULTS / "runs") / f"{name}.log"


def experiment_folder(experiment: str) -> Path:
    """Tables and plots of an experiment."""
    return RESULTS / "experiments" / experiment
