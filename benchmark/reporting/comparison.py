"""Comparison of two rows: paired differences with intervals, and the categories that changed most."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import BenchmarkError
from benchmark.evaluation.metrics import METRICS
from benchmark.recipes.models import Run
from benchmark.reporting.collect import RunResult, collect_run
from benchmark.reporting.differences import FEWEST_SEEDS, excludes_zero, paired_estimate
from benchmark.reporting.intervals import paired, seed_samples
from benchmark.reporting.tables import WORDS

MOVED = 10
"""Number of categories that are shown in each direction."""


class ComparisonError(BenchmarkError):
    """Two runs cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """A metric of both rows, means over seeds, and second minus first with its 95 % interval, as fractions.

    ``clear``: whether the interval as printed covers at least three seeds and excludes zero.
    """

    metric: str
    first: float
    second: float
    low: float
    high: float
    clear: bool


@dataclass(frozen=True)
class Moved:
    """A category's AP in both runs, as fractions."""

    name: str
    frequency: str
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """The second row compared with the first; ``seeds`` are the pairs of seeds that count, and ``moved``
    contains the categories with AP in both, largest gain first."""

    first: str
    second: str
    iou: str
    seeds: list[list[int]]
    differences: list[Difference]
    moved: list[Moved]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def text(self) -> str:
        """Both parts as text, in percent and points."""
        width = max((len(item.metric) for item in self.differences), default=0)
        many = len(self.seeds) > 1
        over = "seeds and images" if many else "images"
        names = [
            f"{name} (seed{'s' * many} {', '.join(str(pair[side]) for pair in self.seeds)})"
            for side, name in enumerate((self.first, self.second))
        ]
        lines = [f"{names[1]} minus {names[0]}, {WORDS[self.iou]}s; 95 % intervals over {over}", ""]
        if not any(item.first or item.second for item in self.differences):
            return "\n".join([*lines, "No detection matched an object in either: every number is 0."])
        for item in self.differences:
            metric = METRICS[item.metric]
            before, after = metric.format(item.first), metric.format(item.second)
            change, low, high = (
                f"{value * metric.scale:+.{metric.digits}f}"
                for value in (item.second - item.first, item.low, item.high)
            )
            mark = "  *" if item.clear else ""
            values = f"{before:>6} -> {after:>6}"
            numbers = f"{values}  {change:>6} [{low}, {high}]{mark}"
            lines.append(f"{item.metric:<{width}}  {numbers:<38}  {metric.meaning}")
        lines += ["", self._note()]
        gained = [moved for moved in self.moved if moved.second > moved.first]
        lost = [moved for moved in self.moved if moved.second < moved.first]
        counts = f"{len(gained)} gain and {len(lost)} lose"
        lines += ["", f"Of {len(self.moved)} categories {counts}. Most of all:"]
        for moved in [*gained[:MOVED], *lost[-MOVED:]]:
            points = (moved.second - moved.first) * 100
            values = f"{moved.first * 100:5.1f} -> {moved.second * 100:5.1f}"
            lines.append(f"{points:+6.1f}  {values}  {moved.name} ({moved.frequency})")
        return "\n".join(lines)

    def _note(self) -> str:
        if len(self.seeds) >= FEWEST_SEEDS:
            return "* the interval does not contain 0"
        have = "one seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return (
            f"{have}: no difference is marked, because another seed may change its sign; compare rows with "
            f"{FEWEST_SEEDS} or more"
        )


def compare(first: Sequence[Run], second: Sequence[Run]) -> Comparison:
    """Compare two rows on the same validation images, over the seeds that both have finished. Each row is
    given by the runs of its seeds; two single runs may have different seeds.

    With one seed, the intervals are percentiles over draws of images; with several, see
    ``benchmark.reporting.differences``. Raises ``ComparisonError`` if no seed is done in both rows or the
    datasets differ, and as the evaluation for missing detections.
    """
    _check_comparable(first[0], second[0])
    results = _paired_results(first, second)
    flat = [result for pair in results for result in pair]
    iou = "segm" if all("segm" in result.metrics for result in flat) else "bbox"
    differences = _differences_of_one(flat, iou) if len(results) == 1 else _differences(flat, iou)
    moved = _moved([[pair[side] for pair in results] for side in (0, 1)], iou)
    return Comparison(
        first[0].title,
        second[0].title,
        iou,
        [[result.run.seed for result in pair] for pair in results],
        differences,
        moved,
    )


def _paired_results(first: Sequence[Run], second: Sequence[Run]) -> list[tuple[RunResult, RunResult]]:
    if len(first) == len(second) == 1:
        pairs = [(first[0], second[0])]
    else:
        others = {run.seed: run for run in second}
        pairs = [(run, others[run.seed]) for run in first if run.seed in others]
    if not pairs:
        raise ComparisonError(
            "the rows have no seed in common",
            found=" and ".join(", ".join(str(run.seed) for run in runs) for runs in (first, second)),
        )
    results = [(collect_run(one, None), collect_run(other, None)) for one, other in pairs]
    done = [pair for pair in results if all(result.done for result in pair)]
    if not done:
        result = next(result for result in results[0] if not result.done)
        raise ComparisonError(
            f"'{result.run.title}' has no result to compare",
            found=result.status,
            remedy="longtail make RECIPE finishes a run",
        )
    return done


def _check_comparable(first: Run, second: Run) -> None:
    if first.dataset_name != second.dataset_name:
        raise ComparisonError(
            "runs of different datasets cannot be paired",
            found=f"{first.dataset_name} and {second.dataset_name}",
            expected="one dataset",
        )
    if first.test.max_detections != second.test.max_detections:
        raise ComparisonError(
            "the runs keep different numbers of detections",
            found=f"{first.test.max_detections} and {second.test.max_detections}",
        )


def _differences_of_one(results: Sequence[RunResult], iou: str) -> list[Difference]:
    """Differences of two runs, over images only, so none is clear."""
    found = paired(results, iou)
    return [
        Difference(key, found.runs[0][key].value, found.runs[1][key].value, item.low, item.high, False)
        for key, item in found.differences[0].items()
        if key in METRICS
    ]


def _differences(results: Sequence[RunResult], iou: str) -> list[Difference]:
    """Differences between paired runs of the first and the second row."""
    found = seed_samples(results, iou)
    rows = [dict(enumerate(found.samples[side::2])) for side in (0, 1)]
    differences = []
    for key in found.samples[0].values:
        estimate = paired_estimate(rows[0], rows[1], key, found.images)
        if estimate is None or key not in METRICS:
            continue
        both = [seed for seed in rows[0] if all(key in row[seed].values for row in rows)]
        first, second = (float(np.mean([row[seed].values[key] for seed in both])) for row in rows)
        low, high = estimate.interval()
        clear = estimate.seeds >= FEWEST_SEEDS and excludes_zero(key, low, high)
        differences.append(Difference(key, first, second, low, high, clear))
    return differences


def _moved(sides: Sequence[Sequence[RunResult]], iou: str) -> list[Moved]:
    """Categories with a mean AP over the seeds of both sides."""
    tables = [[_table_of_categories(result, iou) for result in results] for results in sides]
    first = tables[0][0]
    values = [
        np.mean([table[f"{iou}_AP"].reindex(first.index).to_numpy(np.float64) for table in side], axis=0)
        for side in tables
    ]
    moved = [
        Moved(str(name), str(letter), float(a), float(b))
        for name, letter, a, b in zip(first["name"], first["frequency"], *values, strict=True)
        if np.isfinite(a) and np.isfinite(b)
    ]
    return sorted(moved, key=lambda item: item.first - item.second)


def _table_of_categories(result: RunResult, iou: str) -> pd.DataFrame:
    path = result.file("evaluate", "per_class.csv")
    try:
        return pd.read_csv(path).set_index("id")[["name", "frequency", f"{iou}_AP"]]
    except (OSError, ValueError, KeyError) as error:
        raise ComparisonError(
            "not a table of categories", where=path, found=error, remedy="run longtail evaluate again"
        ) from None
