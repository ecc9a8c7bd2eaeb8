"""From image files and annotations to what detectors train and predict on."""

from benchmark.images.dataset import ImageError, Sample, TestImages, TrainImages, load
from benchmark.images.target import Target

__all__ = ["ImageError", "Sample", "Target", "TestImages", "TrainImages", "load"]
