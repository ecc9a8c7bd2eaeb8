"""Paths below ``results/`` and in the data folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmark.recipes.models import Dataset, Run
from benchmark.recipes.options import value_name
from benchmark.recipes.project import working_root

RECORD = "record.json"
PROGRESS = "progress.jsonl"


def data_folder() -> Path:
    """The folder with real data sets: ``$LONGTAIL_DATA``, or ``data`` of the project."""
    return Path(os.environ["LONGTAIL_DATA"]) if "LONGTAIL_DATA" in os.environ else working_root() / "data"


def results_folder() -> Path:
    """The folder of everything generated, and of ``reference/``, ``reported/`` and ``smoke/``, which come
    with the project."""
    return working_root() / "results"


def store_folder() -> Path:
    """Finished steps, each in ``<kind>/<key>``; they never change."""
    return results_folder() / "store"


def work_folder() -> Path:
    """Unfinished steps, each in ``<kind>/<key>``."""
    return results_folder() / "work"


def logs_folder() -> Path:
    """Output of the workflow's commands, for each step in ``<kind>/<key>.log``."""
    return results_folder() / "logs"


def links_folder() -> Path:
    """Links to finished steps under readable names."""
    return results_folder() / "runs"


def experiment_folder(experiment: str) -> Path:
    """Tables and plots of an experiment."""
    return results_folder() / "experiments" / experiment


def run_name(run: Run) -> str:
    """``<budget>/<dataset>/<backend>/<detector>/<method>[+<variant>][,<option>=<value>...]/seed<k>``.

    Options are those that a row changes. Schedule settings of a row appear as ``schedule.<key>=<value>``,
    released files as ``<table>=released``.
    """
    method = f"{run.method}+{run.variant}" if run.variant else run.method
    schedule = {f"schedule.{key}": value for key, value in run.row_schedule.items()}
    changes = run.row_options | schedule | dict.fromkeys(run.released, "released")
    for key, value in changes.items():
        method += f",{key}={value_name(value)}"
    return f"{run.budget}/{run.dataset_name}/{run.detector_name}/{method}/seed{run.seed}"


@dataclass(frozen=True)
class DatasetFiles:
    """Paths of the files of a dataset: in the data folder for real ones, in the store for generated ones.

    ``intermediates`` is the folder of the tables that a run's method reads; None if it reads none.
    """

    train: Path
    val: Path
    train_images: Path
    val_images: Path
    stuff_maps: Path | None
    statistics: Path
    intermediates: Path | None = None


def split_file(dataset: Dataset, split: str, part: str) -> Path:
    """The ``annotations``, ``images`` or ``stuff_maps`` of split ``train`` or ``val`` of a real dataset."""
    return data_folder() / str(getattr(getattr(dataset, split), part))
