"""Detectors of all back ends behind one interface."""

from benchmark.detectors.build import build_detector, parameters_of
from benchmark.detectors.interface import ChooseRoIs, Detections, Detector, RoIBatch, stage_losses

__all__ = [
    "ChooseRoIs",
    "Detections",
    "Detector",
    "RoIBatch",
    "build_detector",
    "parameters_of",
    "stage_losses",
]
