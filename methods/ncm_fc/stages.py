"""One pass over the training images for the mean feature of every category."""

from collections.abc import Iterable
from typing import Any, cast

import torch

from benchmark.detectors import Detector
from benchmark.statistics import ClassStatistics
from methods.ncm_fc.classifier import NearestClassMean


def mean_features(
    detector: Detector, batches: Iterable[tuple[list[Any], list[Any]]], statistics: ClassStatistics
) -> dict[str, int]:
    """Mean embedding over all ground-truth boxes of a category."""
    classifier = cast(NearestClassMean, detector.classifiers[0])
    means = classifier.means
    sums = torch.zeros_like(means, dtype=torch.float64)
    counts = sums.new_zeros(statistics.num_classes)
    for images, targets in batches:
        rois = detector.ground_truth_features(images, targets)
        sums.index_add_(0, rois.labels, classifier.embedding(rois.features).double())
        counts += rois.labels.bincount(minlength=statistics.num_classes)
    means.copy_(sums / counts.clamp(min=1)[:, None])
    return {"boxes": int(counts.sum()), "categories_without_boxes": int((counts == 0).sum())}
