"""Experiments, datasets, detectors and methods as YAML: models, discovery, resolution to runs."""

from benchmark.recipes.experiments import (
    ExperimentRow,
    LoadedExperiment,
    describe,
    find_run,
    find_runs,
    lineage,
    load_dataset,
    load_experiment,
    with_detector,
)
from benchmark.recipes.explanation import differences_of, explain, explain_against
from benchmark.recipes.loading import RecipeError
from benchmark.recipes.plugins import load_object

__all__ = [
    "ExperimentRow",
    "LoadedExperiment",
    "RecipeError",
    "describe",
    "differences_of",
    "explain",
    "explain_against",
    "find_run",
    "find_runs",
    "lineage",
    "load_dataset",
    "load_experiment",
    "load_object",
    "with_detector",
]
