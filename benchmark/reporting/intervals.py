"""Uncertainty of the rows' numbers and their differences, from draws of images with saved detections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.evaluation import Evaluator
from benchmark.evaluation.metrics import METRICS
from benchmark.evaluation.uncertainty import (
    CONFIDENCE,
    RESAMPLES,
    Bootstrap,
    ImageWeights,
    Interval,
    bootstrap,
)
from benchmark.progress import tracked
from benchmark.reporting.collect import HEADLINE, RowResult, RunResult
from benchmark.reporting.differences import FEWEST_SEEDS, Distinctions, Pair, SeedSample, distinguish
from benchmark.steps import dataset_files

KEYS = (*HEADLINE, "bAP")
DRAWS = 200
"""Number of draws of images for a variance; intervals need more (Efron and Tibshirani 1993, section 6.4)."""


@dataclass(frozen=True)
class RowIntervals:
    """Intervals of a row's first counted seed by metric, and of its difference to ``base`` if any."""

    row: RowResult
    seed: int
    values: dict[str, Interval]
    base: RowResult | None
    differences: dict[str, Interval]


@dataclass(frozen=True)
class ImageSamples:
    """Samples of runs in the given order, and the number of images."""

    samples: list[SeedSample]
    images: int


def row_intervals(rows: Sequence[RowResult], resamples: int = RESAMPLES) -> dict[str, RowIntervals]:
    """Intervals by row id; rows with the same dataset and IoU type share the draws, and the first is their
    base.

    Raises as ``Evaluator`` for data that are missing or were changed.
    """
    certain: dict[str, RowIntervals] = {}
    for rivals in _rivals(rows):
        first = [row.counted[0] for row in rivals]
        found = paired(first, rivals[0].iou, resamples)
        for number, (row, result) in enumerate(zip(rivals, first, strict=True)):
            base, differences = (rivals[0], found.differences[number - 1]) if number else (None, {})
            seed = result.run.seed
            certain[row.id] = RowIntervals(row, seed, found.runs[number], base, differences)
    return certain


def paired(results: Sequence[RunResult], iou: str, resamples: int = RESAMPLES) -> Bootstrap:
    """The bootstrap of runs with numbers on one dataset; the others are compared with the first."""
    return bootstrap(
        _evaluator(results[0]),
        [result.file("predict", "detections.parquet") for result in results],
        iou,
        max_detections={"lvis": results[0].run.test.max_detections},
        resamples=resamples,
    )


def row_distinctions(rows: Sequence[RowResult], resamples: int = DRAWS) -> Distinctions:
    """Which rows differ significantly in the headline metrics, among those with the same dataset and IoU
    type.

    Raises as ``Evaluator`` for data that are missing or were changed.
    """
    pairs: list[Pair] = []
    for rivals in _rivals(rows):
        enough = [row for row in rivals if len(row.counted) >= FEWEST_SEEDS]
        if len(enough) > 1:
            found = seed_samples([run for row in enough for run in row.counted], rivals[0].iou, resamples)
            by_seed = iter(found.samples)
            samples = {row.id: {run.run.seed: next(by_seed) for run in row.counted} for row in enough}
            pairs += distinguish(samples, HEADLINE, found.images)
    return Distinctions(pairs)


def seed_samples(results: Sequence[RunResult], iou: str, resamples: int = DRAWS) -> ImageSamples:
    """The numbers of runs with numbers on one dataset, over the same draws of its images."""
    evaluator = _evaluator(results[0])
    images = len(evaluator.truth.image_ids)
    generator = np.random.default_rng(0)
    weights = [
        np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(resamples)
    ]
    samples = []
    for result in results:
        caps = {"lvis": result.run.test.max_detections}
        average = ImageWeights(evaluator, result.file("predict", "detections.parquet"), iou, caps)
        drawn = [average(weight) for weight in tracked(weights, f"draws, {result.run.title}")]
        values = {key: value for key, value in average.points.items() if value is not None}
        draws = {key: np.array([numbers[key] for numbers in drawn], np.float64) for key in values}
        samples.append(SeedSample(values, draws))  # None becomes NaN
    return ImageSamples(samples, images)


def _evaluator(result: RunResult) -> Evaluator:
    statistics = result.file("statistics", "class_statistics.csv")
    return Evaluator(dataset_files(result.run.dataset).val, statistics if statistics.exists() else None)


def interval_table(certain: Mapping[str, RowIntervals], resamples: int = RESAMPLES) -> str:
    """A Markdown table of the intervals, each row followed by its difference; empty if there are none."""
    lines: list[str] = []
    for item in certain.values():
        ends = [str(item.seed), item.row.iou]
        cells = [item.row.id, item.row.title, *ends]
        lines.append(_line([*cells, *(shown(item.values.get(key), "") for key in KEYS)]))
        if item.base is not None:
            cells = [item.row.id, f"minus {item.base.title}", *ends]
            lines.append(_line([*cells, *(shown(item.differences.get(key), "+") for key in KEYS)]))
    if not lines:
        return ""
    header = ["row", "method", "seed", "IoU", *(METRICS[key].title for key in KEYS)]
    rule = "| " + " | ".join(["---"] * 4 + ["--:"] * len(KEYS)) + " |"
    words = (
        f"With {CONFIDENCE:.0%} intervals over images: {resamples:,} draws with replacement, the same for "
        "all rows of\na dataset. They do not cover other training seeds."
    )
    return "\n".join([words, "", _line(header), rule, *lines]) + "\n"


def _rivals(rows: Sequence[RowResult]) -> list[list[RowResult]]:
    """Rows with numbers, in groups that can be compared."""
    groups: dict[tuple[str, str, int], list[RowResult]] = {}
    for row in rows:
        if row.counted:
            run = row.runs[0].run
            groups.setdefault((run.dataset_name, row.iou, run.test.max_detections), []).append(row)
    return list(groups.values())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def shown(interval: Interval | None, sign: str) -> str:
    """Value and interval in percent, with ``sign`` as in a format string; empty for None."""
    if interval is None:
        return ""
    value, low, high = (
        f"{number * 100:{sign}.1f}" for number in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"
