"""Changes of the trained softmax classifier, without gradients."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from benchmark.classifiers import CategoricalClassifier
from benchmark.detectors import Detector
from benchmark.statistics import ClassStatistics
from benchmark.training import FitData
from methods.tau_norm.classifier import TauNormSelect, tau_normalised


def normalise(detector: Detector, statistics: ClassStatistics, tau: float) -> dict[str, float]:
    """Normalise every row, background included; biases stay (``tools/test_lvis.py`` of the release)."""
    for classifier in detector.classifiers:
        weight = cast(CategoricalClassifier, classifier).linear.weight
        weight.copy_(tau_normalised(weight, tau))
    return {"tau": tau}


def normalise_copy(detector: Detector, statistics: ClassStatistics, tau: float) -> dict[str, float]:
    """Fill the copy: rows of categories normalised, the background row unchanged (``test_lvis_tnorm.py``)."""
    for module in detector.classifiers:
        classifier = cast(TauNormSelect, module)
        classifier.copy.load_state_dict(classifier.linear.state_dict())
        rows = classifier.copy.weight[: statistics.num_classes]
        rows.copy_(tau_normalised(rows, tau))
    return {"tau": tau}


def search_tau(
    detector: Detector,
    data: FitData,
    statistics: ClassStatistics,
    taus: Sequence[float],
) -> dict[str, Any]:
    """Normalise with the tau that classifies the training RoIs best, with equal weight for each label.

    The measure is the mean over labels (including background) of the fraction of its RoIs whose largest logit
    is correct; RoIs are sampled as in training, from images without augmentation. In a cascade every
    classifier is measured on the RoIs of its head, and all are normalised with the same tau. Of equal taus
    the smallest is used.

    Args:
        detector: the trained one.
        data: the training images; one pass over them is made.
        statistics: training counts.
        taus: candidates.
    """
    linears = [cast(CategoricalClassifier, classifier).linear for classifier in detector.classifiers]
    weights = [[tau_normalised(linear.weight, tau) for tau in taus] for linear in linears]
    right = torch.zeros(len(taus), statistics.num_classes + 1, device=linears[0].weight.device)
    seen = torch.zeros(statistics.num_classes + 1, device=linears[0].weight.device)
    for images, targets in data.batches():
        stages = detector.box_features(images, targets)
        for linear, candidates, rois in zip(linears, weights, stages, strict=True):
            seen += rois.labels.bincount(minlength=len(seen))
            for weight, count in zip(candidates, right, strict=True):
                guess = (rois.features @ weight.T + linear.bias).argmax(dim=1)
                count += rois.labels[guess == rois.labels].bincount(minlength=len(seen))
    accuracy = (right / seen)[:, seen > 0].mean(dim=1)
    best = taus[int(accuracy.argmax())]
    curve = {f"{tau:g}": round(float(value), 6) for tau, value in zip(taus, accuracy, strict=True)}
    return normalise(detector, statistics, best) | {"balanced_accuracy_by_tau": curve}
