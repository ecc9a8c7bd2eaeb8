"""The search for gamma on training images; the release has neither the value of the paper nor a search."""

from collections.abc import Sequence
from typing import Any, cast

from benchmark.detectors import Detector
from benchmark.statistics import ClassStatistics
from benchmark.training import FitData
from methods.norcal.classifier import NorCal


def search_gamma(
    detector: Detector, data: FitData, statistics: ClassStatistics, gammas: Sequence[float], images: int
) -> dict[str, Any]:
    """Choose the gamma with the highest AP on training images, the same for all heads; the smallest if equal.

    Args:
        detector: the trained one.
        data: the training split; validation images are not used.
        statistics: training counts.
        gammas: candidates.
        images: number of training images for the AP.
    """
    curve = {}
    for gamma in gammas:
        for classifier in detector.classifiers:
            cast(NorCal, classifier).gamma.fill_(gamma)
        curve[gamma] = data.average_precision(detector, images) or 0.0
    best = max(curve, key=curve.__getitem__)
    for classifier in detector.classifiers:
        cast(NorCal, classifier).gamma.fill_(best)
    return {"gamma": best, "training_ap_by_gamma": {f"{key:g}": round(ap, 6) for key, ap in curve.items()}}
