"""How certain the rows' numbers and their differences are: intervals over images from saved detections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.evaluation import Evaluator
from benchmark.evaluation.metrics import METRICS
from benchmark.evaluation.uncertainty import CONFIDENCE, RESAMPLES, Bootstrap, Interval, bootstrap
from benchmark.reporting.collect import HEADLINE, RowResult, RunResult
from benchmark.steps import dataset_files

KEYS = (*HEADLINE, "bAP")


@dataclass(frozen=True)
class RowIntervals:
    """Intervals of a row's first counted seed by metric, and of its difference to ``base`` if any."""

    row: RowResult
    seed: int
    values: dict[str, Interval]
    base: RowResult | None
    differences: dict[str, Interval]


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
    statistics = results[0].file("statistics", "class_statistics.csv")
    run = results[0].run
    evaluator = Evaluator(dataset_files(run.dataset).val, statistics if statistics.exists() else None)
    return bootstrap(
        evaluator,
        [result.file("predict", "detections.parquet") for result in results],
        iou,
        max_detections={"lvis": run.test.max_detections},
        resamples=resamples,
    )


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
