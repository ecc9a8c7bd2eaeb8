"""One pass over the training images for the mean feature of every category."""

from typing import cast

import torch

from benchmark.detectors import Detector
from benchmark.statistics import ClassStatistics
from benchmark.training import FitData
from methods.ncm_fc.classifier import NearestClassMean


def mean_features(detector: Detector, data: FitData, statistics: ClassStatistics) -> dict[str, int]:
    """Mean embedding over all ground-truth boxes of a category, for each classifier of its own features."""
    classifiers = [cast(NearestClassMean, classifier) for classifier in detector.classifiers]
    sums = [torch.zeros_like(classifier.means, dtype=torch.float64) for classifier in classifiers]
    counts = sums[0].new_zeros(statistics.num_classes)
    for images, targets in data.batches():
        stages = detector.ground_truth_features(images, targets)
        for classifier, total, rois in zip(classifiers, sums, stages, strict=True):
            total.index_add_(0, rois.labels, classifier.embedding(rois.features).double())
        counts += stages[0].labels.bincount(minlength=statistics.num_classes)
    for classifier, total in zip(classifiers, sums, strict=True):
        classifier.means.copy_(total / counts.clamp(min=1)[:, None])
    return {"boxes": int(counts.sum()), "categories_without_boxes": int((counts == 0).sum())}
