"""Compute the metrics of the registry from precision and recall of every category."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.evaluation.engine import AREAS, IOU_THRESHOLDS, Curves
from benchmark.evaluation.metrics import Bin, Metric


def in_bin(counts: np.ndarray, limits: Bin) -> np.ndarray:
    """Which of the training counts (C,) are in a bin; bool (C,)."""
    low, high = limits
    return (counts >= low) & (counts < (np.inf if high is None else high))


def mean_precision(metric: Metric, precision: np.ndarray, categories: np.ndarray) -> float | None:
    """Mean over all defined values of a selection of precision (T, R, C, A), in one step as in lvis-api.

    ``categories`` is bool (C,). None if no value is defined.
    """
    return _mean(metric, precision[..., AREAS.index(metric.area)], categories)


def mean_recall(
    metric: Metric, recall: np.ndarray, categories: np.ndarray, caps: Sequence[int]
) -> float | None:
    """The same for recall (T, C, A, M) at one of ``caps``."""
    assert metric.max_detections is not None
    cap = caps.index(metric.max_detections)
    return _mean(metric, recall[:, :, AREAS.index(metric.area), cap], categories)


def _mean(metric: Metric, values: np.ndarray, categories: np.ndarray) -> float | None:
    if metric.iou is not None:
        values = values[np.isclose(IOU_THRESHOLDS, metric.iou)]
    if not categories.all():
        values = values[..., categories]
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def bin_mean(per_category: np.ndarray, counts: np.ndarray, limits: Bin) -> float | None:
    """Mean of AP over the categories of a bin, as in SimCal; None if the bin is empty.

    ``per_category`` (C,) is AP, NaN without ground truth; ``counts`` (C,) are training instances.
    """
    values = per_category[in_bin(counts, limits) & ~np.isnan(per_category)]
    return float(values.mean()) if len(values) else None


def mean_of(metric: Metric, numbers: Mapping[str, float | None]) -> float | None:
    """The mean of other metrics that are defined: empty bins are left out. None if there are none."""
    defined = [value for key in metric.of if (value := numbers[key]) is not None]
    return sum(defined) / len(defined) if defined else None


def per_category(curves: Curves) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR of each category (C,), NaN without ground truth."""
    count = curves.precision.shape[2]
    return (
        _mean_over_first_axis(curves.precision[..., 0].reshape(-1, count)),
        _mean_over_first_axis(curves.recall[:, :, 0, -1]),
    )


def _mean_over_first_axis(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of (K, C)."""
    return np.where((values > -1).all(axis=0), values.mean(axis=0), np.nan)
