"""Two runs side by side: paired differences with intervals, and the categories that moved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import BenchmarkError
from benchmark.evaluation.metrics import METRICS
from benchmark.recipes.models import Run
from benchmark.reporting.collect import RunResult, collect_run
from benchmark.reporting.intervals import paired
from benchmark.reporting.tables import WORDS

MOVED = 10
"""Categories shown in each direction."""


class ComparisonError(BenchmarkError):
    """Two runs that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """A metric of both runs and second minus first, with its 95 % interval over images, as fractions."""

    metric: str
    first: float
    second: float
    low: float
    high: float


@dataclass(frozen=True)
class Moved:
    """A category's AP in both runs, as fractions."""

    name: str
    frequency: str
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """The second run against the first; ``moved`` holds categories with AP in both, largest gain first."""

    first: str
    second: str
    iou: str
    differences: list[Difference]
    moved: list[Moved]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def text(self) -> str:
        """Both parts for people, in percent and points."""
        width = max((len(item.metric) for item in self.differences), default=0)
        lines = [f"{self.second} minus {self.first}, {WORDS[self.iou]}s; 95 % intervals over images", ""]
        for item in self.differences:
            metric = METRICS[item.metric]
            numbers = [metric.format(item.first), metric.format(item.second)]
            change, low, high = (
                f"{value * metric.scale:+.{metric.digits}f}"
                for value in (item.second - item.first, item.low, item.high)
            )
            clear = "  *" if item.low > 0 or item.high < 0 else ""
            values = f"{numbers[0]:>6} -> {numbers[1]:>6}"
            lines.append(f"{item.metric:<{width}}  {values}  {change:>6} [{low}, {high}]{clear}")
        lines += ["", "* the interval does not hold 0; another training seed may still change the sign"]
        gained = [moved for moved in self.moved if moved.second > moved.first]
        lost = [moved for moved in self.moved if moved.second < moved.first]
        counts = f"{len(gained)} gain and {len(lost)} lose"
        lines += ["", f"Of {len(self.moved)} categories {counts}. Most of all:"]
        for moved in [*gained[:MOVED], *lost[-MOVED:]]:
            points = (moved.second - moved.first) * 100
            values = f"{moved.first * 100:5.1f} -> {moved.second * 100:5.1f}"
            lines.append(f"{points:+6.1f}  {values}  {moved.name} ({moved.frequency})")
        return "\n".join(lines)


def compare(first: Run, second: Run) -> Comparison:
    """Compare two finished runs on the same validation images.

    Raises ``ComparisonError`` where one is not done or they are of different datasets, and what the
    evaluation raises for detections that are gone.
    """
    results = []
    for run in (first, second):
        result = collect_run(run, None)
        if not result.done:
            raise ComparisonError(
                f"'{run.title}' has no result to compare",
                found=result.status,
                remedy="longtail make RECIPE finishes a run",
            )
        results.append(result)
    if first.dataset_name != second.dataset_name:
        raise ComparisonError(
            "runs of different datasets cannot be paired",
            found=f"{first.dataset_name} and {second.dataset_name}",
            expected="one dataset",
        )
    iou = "segm" if all("segm" in result.metrics for result in results) else "bbox"
    if first.test.max_detections != second.test.max_detections:
        raise ComparisonError(
            "the runs keep different numbers of detections",
            found=f"{first.test.max_detections} and {second.test.max_detections}",
        )
    found = paired(results, iou)
    differences = [
        Difference(key, found.runs[0][key].value, found.runs[1][key].value, item.low, item.high)
        for key, item in found.differences[0].items()
        if key in METRICS
    ]
    return Comparison(_name(first), _name(second), iou, differences, _moved(results, iou))


def _name(run: Run) -> str:
    return f"{run.title} (seed {run.seed})"


def _moved(results: Sequence[RunResult], iou: str) -> list[Moved]:
    tables = []
    for result in results:
        path = result.file("evaluate", "per_class.csv")
        try:
            tables.append(pd.read_csv(path).set_index("id")[["name", "frequency", f"{iou}_AP"]])
        except (OSError, ValueError, KeyError) as error:
            raise ComparisonError(
                "not a table of categories", where=path, found=error, remedy="run longtail evaluate again"
            ) from None
    values = [table[f"{iou}_AP"].reindex(tables[0].index).to_numpy(np.float64) for table in tables]
    moved = [
        Moved(str(name), str(letter), float(a), float(b))
        for name, letter, a, b in zip(tables[0]["name"], tables[0]["frequency"], *values, strict=True)
        if np.isfinite(a) and np.isfinite(b)
    ]
    return sorted(moved, key=lambda item: item.first - item.second)
