"""Stages of a recipe: training, fitting, transforming."""

from benchmark.training.errors import TrainingDivergedError, TrainingError, TrainingInterruptedError
from benchmark.training.fitting import FitData, TrainingBoxes
from benchmark.training.stages import StageJob, run_stage, train_stages

__all__ = [
    "FitData",
    "StageJob",
    "TrainingBoxes",
    "TrainingDivergedError",
    "TrainingError",
    "TrainingInterruptedError",
    "run_stage",
    "train_stages",
]
