"""Experiments, datasets, detectors and methods as YAML: models, discovery, resolution to runs."""

from benchmark.recipes.experiments import (
    ExperimentRow,
    LoadedExperiment,
    all_runs,
    describe,
    find_run,
    load_dataset,
    load_experiment,
    with_bases,
    with_detector,
)
from benchmark.recipes.explanation import explain
from benchmark.recipes.loading import RecipeError
from benchmark.recipes.plugins import load_object

__all__ = [
    "ExperimentRow",
    "LoadedExperiment",
    "RecipeError",
    "all_runs",
    "describe",
    "explain",
    "find_run",
    "load_dataset",
    "load_experiment",
    "load_object",
    "with_bases",
    "with_detector",
]
