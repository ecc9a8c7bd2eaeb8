"""Detectors of all back ends behind one interface."""

from benchmark.detectors.build import build_detector
from benchmark.detectors.interface import Detections, Detector, RoIBatch

__all__ = ["Detections", "Detector", "RoIBatch", "build_detector"]
