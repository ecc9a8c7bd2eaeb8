"""Detectors of all back ends behind one interface."""

from benchmark.detectors.build import build_detector, parameters_of
from benchmark.detectors.interface import (
    CASCADE_WEIGHTS,
    ChooseRoIs,
    Detections,
    Detector,
    RoIBatch,
    TestFeatures,
    TrainingPass,
    classifier_losses,
    mean_losses,
    weighted,
)

__all__ = [
    "CASCADE_WEIGHTS",
    "ChooseRoIs",
    "Detections",
    "Detector",
    "RoIBatch",
    "TestFeatures",
    "TrainingPass",
    "build_detector",
    "classifier_losses",
    "mean_losses",
    "parameters_of",
    "weighted",
]
