"""Initial weights of the head ``3fc_ft``: those of the trained box head."""

from typing import cast

from benchmark.detectors import Detector
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics
from methods.simcal.classifier import DualHead


def copy_box_head(detector: Detector, statistics: ClassStatistics) -> None:
    """Copy the box head's layers and the classifier into the calibrated head, weights and biases."""
    for module, layers in zip(detector.classifiers, detector.box_head_layers, strict=True):
        classifier = cast(DualHead, module)
        sources = [*layers, classifier.linear]
        copies = classifier.calibrated.linears
        if [layer.weight.shape for layer in sources] != [layer.weight.shape for layer in copies]:
            raise BenchmarkError(
                "the box head does not have the layers of the calibrated head",
                found=" and ".join(str(tuple(layer.weight.shape)) for layer in sources),
                expected=" and ".join(str(tuple(layer.weight.shape)) for layer in copies),
                remedy="use a head that starts from random weights (variant 3fc_rand)",
            )
        for copy, source in zip(copies, sources, strict=True):
            copy.load_state_dict(source.state_dict())
