"""Stages of a recipe: training, fitting, transforming."""

from benchmark.training.errors import TrainingDivergedError, TrainingError, TrainingInterruptedError
from benchmark.training.fitting import FitData, TrainingBoxes
from benchmark.training.stages import run_stage

__all__ = [
    "FitData",
    "TrainingBoxes",
    "TrainingDivergedError",
    "TrainingError",
    "TrainingInterruptedError",
    "run_stage",
]
