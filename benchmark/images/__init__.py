"""From image files and annotations to the input of detectors."""

from benchmark.images.dataset import Sample, TestImages, TrainImages, load
from benchmark.images.files import ImageError
from benchmark.images.masks import InstanceMasks
from benchmark.images.target import Target

__all__ = ["ImageError", "InstanceMasks", "Sample", "Target", "TestImages", "TrainImages", "load"]
