"""How certain the rows' numbers and their differences are, from saved detections: draws of images."""

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
"""Of images for a variance; the ends of an interval need more (Efron and Tibshirani 1993, section 6.4)."""


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
    """Runs in the order asked for, and the number of images that were drawn from."""

    samples: list[SeedSample]
    images: int


def row_intervals(rows: Sequence[RowResult], resamples: int = RESAMPLES) -> dict[str, RowIntervals]:
    """Intervals by row id; rows of one dataset and IoU type are drawn together, and the first is their base.

    Raises what ``Evaluator`` raises for data that are gone or were changed.
    """
    certain: dict[str, RowIntervals] = {}
    for rivals in _rivals(rows):
        first = [row.counted[0] for row in rivals]
        found = paired(first, rivals[0].iou, resamples)
        for number, (row, result) in enumerate(zip(rivals, first, strict=True)):
            base, differences = (rivals[0], found.differences[number - 1]) if number else (None, {})
            seed = result.run.seed
            certain[row.row.row.id] = RowIntervals(row, seed, found.runs[number], base, differences)
    return certain


def paired(results: Sequence[RunResult], iou: str, resamples: int = RESAMPLES) -> Bootstrap:
    """The bootstrap of runs with numbers on one dataset; the first is what the others are compared with."""
    return bootstrap(
        _evaluator(results[0]),
        [result.file("predict", "detections.parquet") for result in results],
        iou,
        max_detections={"lvis": results[0].run.test.max_detections},
        resamples=resamples,
    )


def row_distinctions(rows: Sequence[RowResult], resamples: int = DRAWS) -> Distinctions:
    """Which rows are told apart in the headline metrics, among those of one dataset and IoU type.

    Raises what ``Evaluator`` raises for data that are gone or were changed.
    """
    pairs: list[Pair] = []
    for rivals in _rivals(rows):
        enough = [row for row in rivals if len(row.counted) >= FEWEST_SEEDS]
        if len(enough) > 1:
            found = seed_samples([run for row in enough for run in row.counted], rivals[0].iou, resamples)
            by_seed = iter(found.samples)
            samples = {row.row.row.id: {run.run.seed: next(by_seed) for run in row.counted} for row in enough}
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
    """A Markdown table of the intervals, each row followed by its difference; empty where there are none."""
    lines: list[str] = []
    for item in certain.values():
        ends = [str(item.seed), item.row.iou]
        cells = [item.row.row.row.id, item.row.title, *ends]
        lines.append(_line([*cells, *(shown(item.values.get(key), "") for key in KEYS)]))
        if item.base is not None:
            cells = [item.row.row.row.id, f"minus {item.base.title}", *ends]
            lines.append(_line([*cells, *(shown(item.differences.get(key), "+") for key in KEYS)]))
    if not lines:
        return ""
    header = ["row", "method", "seed", "IoU", *(METRICS[key].title for key in KEYS)]
    rule = "| " + " | ".join(["---"] * 4 + ["--:"] * len(KEYS)) + " |"
    words = (
        f"With {CONFIDENCE:.0%} intervals over images: {resamples:,} draws with replacement, the same for "
        "all rows of\na dataset. They do not tell how much another training seed changes."
    )
    return "\n".join([words, "", _line(header), rule, *lines]) + "\n"


def _rivals(rows: Sequence[RowResult]) -> list[list[RowResult]]:
    """Rows with numbers, by what can be compared."""
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
