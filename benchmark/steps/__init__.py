"""Steps of a run, their keys, and the store of finished ones."""

from benchmark.steps.listing import (
    KINDS,
    PlannedStep,
    dataset_files,
    dataset_steps,
    find_step,
    own_steps,
    run_files,
    shared_steps,
    steps_of,
    steps_of_experiment,
)
from benchmark.steps.making import Means, StepError, made_dataset, made_files, make
from benchmark.steps.step import ABSENT, MAIN, Kind, Source, Step
from benchmark.steps.store import link, older, warn_of_old_layout

__all__ = [
    "ABSENT",
    "KINDS",
    "MAIN",
    "Kind",
    "Means",
    "PlannedStep",
    "Source",
    "Step",
    "StepError",
    "dataset_files",
    "dataset_steps",
    "find_step",
    "link",
    "made_dataset",
    "made_files",
    "make",
    "older",
    "own_steps",
    "run_files",
    "shared_steps",
    "steps_of",
    "steps_of_experiment",
    "warn_of_old_layout",
]
