"""The pass over training images that collects mean and variance of the logits."""

from typing import cast

from benchmark.detectors import Detector
from benchmark.statistics import ClassStatistics
from benchmark.training import FitData
from methods.logn.classifier import LogitNormalised


def collect(
    detector: Detector, data: FitData, statistics: ClassStatistics, momentum: float, passes: float
) -> dict[str, float]:
    """Observe the raw logits of the sampled RoIs, image by image, augmented and shuffled as in training.

    Args:
        detector: the trained one.
        data: the training split, with the stage's sampler.
        statistics: training counts.
        momentum: m of each image.
        passes: over the images.

    Returns:
        Facts for the record: number of images, and the remaining weight of the initial values, (1 -
        m)^images.
    """
    classifiers = [cast(LogitNormalised, classifier) for classifier in detector.classifiers]
    seen = 0
    for images, targets in data.drawn(passes, size=1):
        for classifier, rois in zip(classifiers, detector.box_features(images, targets), strict=True):
            classifier.observe(classifier.linear(rois.features), momentum)
        seen += len(images)
    return {"images": seen, "share_of_start_values": (1 - momentum) ** seen}
