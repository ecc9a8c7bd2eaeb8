"""Paired bootstrap over images: how much a number would change with other images of the same kind.

Images are drawn with replacement, as many as there are, and the same ones for every run. Matching is done
once; a draw only changes the weight of each image. The interval does not cover other training seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.evaluation.engine import IOU_THRESHOLDS, RECALL_THRESHOLDS
from benchmark.evaluation.evaluator import Evaluator
from benchmark.evaluation.metrics import Caps, Metric
from benchmark.evaluation.summary import bin_mean, mean_of
from benchmark.progress import tracked

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """The number of the evaluation and the percentile interval around it, as fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by metric: of each run in the given order, and of each later run minus the first."""

    runs: list[dict[str, Interval]]
    differences: list[dict[str, Interval]]


def bootstrap(
    evaluator: Evaluator,
    detections: Sequence[Path],
    iou_type: str,
    max_detections: Caps | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Percentile intervals of the metrics without size classes: AP, AP50, AP75, APr, APc, APf, bins, AR.

    ``iou_type`` is ``bbox`` or ``segm``; draws depend only on ``seed``. A category without an object in a
    draw is left out of the means of that draw, and a draw without a value is left out of the interval. Raises
    as ``Evaluator.evaluate``.
    """
    averages = [ImageWeights(evaluator, path, iou_type, max_detections) for path in detections]
    images = len(evaluator.truth.image_ids)
    generator = np.random.default_rng(seed)
    draws: list[list[dict[str, float | None]]] = [[] for _ in averages]
    for _ in tracked(range(resamples), "draws of images"):
        weights = np.bincount(generator.integers(images, size=images), minlength=images)
        for numbers, average in zip(draws, averages, strict=True):
            numbers.append(average(weights))
    first, points = draws[0], [average.points for average in averages]
    differences = [[_difference(a, b) for a, b in zip(other, first, strict=True)] for other in draws[1:]]
    return Bootstrap(
        [_intervals(point, drawn) for point, drawn in zip(points, draws, strict=True)],
        [
            _intervals(_difference(point, points[0]), drawn)
            for point, drawn in zip(points[1:], differences, strict=True)
        ],
    )


def _difference(a: dict[str, float | None], b: dict[str, float | None]) -> dict[str, float | None]:
    return {
        key: None if value is None or (other := b[key]) is None else value - other for key, value in a.items()
    }


def _intervals(
    points: dict[str, float | None], draws: Sequence[dict[str, float | None]]
) -> dict[str, Interval]:
    intervals = {}
    for key, value in points.items():
        drawn = [number for draw in draws if (number := draw[key]) is not None]
        if value is not None and drawn:
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(drawn, [tail, 1 - tail])
            intervals[key] = Interval(value, float(low), float(high))
    return intervals


class ImageWeights:
    """The numbers of one run as a function of the weight of each image.

    Precision only matters at correct detections, so of wrong ones only the number before each correct one is
    kept.
    """

    def __init__(
        self, evaluator: Evaluator, detections: Path, iou_type: str, max_detections: Caps | None
    ) -> None:
        known = evaluator.metrics(max_detections)
        highest = max(metric.max_detections or 0 for metric in known)
        self._metrics = [
            metric
            for metric in known
            if metric.kind in ("precision", "recall", "mean") and metric.area == "all" and not metric.fixed
            if metric.max_detections in (None, highest)
        ]
        self.points, matches = evaluator.match(detections, iou_type, self._metrics, max_detections)
        self._counts = evaluator.counts
        self._frequencies = evaluator.frequencies
        categories = len(self._frequencies)
        self._objects = matches.objects
        self._images = matches.images
        # every (threshold, category) is a contiguous range of the correct detections, in the order of the
        # matches
        threshold, detection = np.nonzero(matches.correct)
        self._cell = threshold * categories + matches.categories[detection]
        self._detection = detection
        self._image = matches.images[detection]
        self._start = np.searchsorted(self._cell, np.arange(len(IOU_THRESHOLDS) * categories))
        self._first = np.searchsorted(matches.categories, matches.categories[detection])
        # ignored ones are few: how many precede each correct one, and precede the category
        self._ignored_images = matches.images[np.nonzero(matches.ignored)[1]]
        before = np.cumsum(matches.ignored.ravel())
        before = np.append(0, before)
        offset = threshold * matches.correct.shape[1]
        self._ignored = before[offset + detection], before[offset + self._first]

    def __call__(self, weights: np.ndarray) -> dict[str, float | None]:
        """The metrics for ``weights`` int64 (I,), the number of times that each image counts."""
        categories = len(self._frequencies)
        objects = np.bincount(
            self._objects[:, 1], self._objects[:, 2] * weights[self._objects[:, 0]], categories
        )
        ahead = _sums(weights[self._images])
        ignored = _sums(weights[self._ignored_images])
        last, first = self._ignored
        counted = (ahead[self._detection + 1] - ahead[self._first]) - (ignored[last] - ignored[first])
        sums = _sums(weights[self._image])
        correct = sums[1:] - np.repeat(sums[self._start], np.diff(np.append(self._start, len(self._cell))))
        precision = correct / np.maximum(counted, 1)
        # the highest precision from each position on within its range; steps of 2 separate the ranges
        step = 2.0 * self._cell
        best = np.maximum.accumulate((precision - step)[::-1])[::-1] + step
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = correct / objects[self._cell % categories]
        reached = np.searchsorted(RECALL_THRESHOLDS, recall, side="right")
        gained = np.diff(reached, prepend=0)
        heads = self._start[self._start < len(self._cell)]
        heads = np.unique(heads)
        gained[heads] = reached[heads]
        shape = (len(IOU_THRESHOLDS), categories)
        size = shape[0] * shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            ap = np.bincount(self._cell, best * gained, size).reshape(shape) / len(RECALL_THRESHOLDS)
            ar = np.bincount(self._cell, weights[self._image], size).reshape(shape) / objects
        ap[:, objects == 0] = np.nan
        ar[:, objects == 0] = np.nan
        numbers: dict[str, float | None] = {}
        for metric in self._metrics:
            numbers[metric.key] = self._number(metric, ap, ar, numbers)
        return numbers

    def _number(
        self, metric: Metric, ap: np.ndarray, ar: np.ndarray, numbers: dict[str, float | None]
    ) -> float | None:
        if metric.kind == "mean":
            return mean_of(metric, numbers)
        if metric.bin is not None:
            assert self._counts is not None
            return bin_mean(ap.mean(axis=0), self._counts, metric.bin)
        values = ap if metric.kind == "precision" else ar
        if metric.iou is not None:
            values = values[np.isclose(IOU_THRESHOLDS, metric.iou)]
        if metric.frequency is not None:
            values = values[:, self._frequencies == metric.frequency]
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if defined.size else None


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums of the values before each position, and the total."""
    return np.concatenate([[0], np.cumsum(values)])
