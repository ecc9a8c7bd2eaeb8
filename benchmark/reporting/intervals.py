"""How certain the rows' numbers and their differences are: intervals over images from saved detections."""

from collections.abc import Sequence

from benchmark.evaluation import Evaluator
from benchmark.evaluation.metrics import METRICS
from benchmark.evaluation.uncertainty import CONFIDENCE, RESAMPLES, Interval, bootstrap
from benchmark.recipes.paths import annotations_path, run_folder, statistics_path
from benchmark.reporting.collect import HEADLINE, RowResult

KEYS = (*HEADLINE, "bAP")


def interval_table(rows: Sequence[RowResult], resamples: int = RESAMPLES) -> str:
    """A Markdown table: each row's first finished seed with its intervals, and how it differs from the first.

    Rows of one dataset and IoU type are drawn together. Empty where no run is done. Raises what
    ``Evaluator`` raises for data that are gone or were changed.
    """
    lines: list[str] = []
    for rivals in _rivals(rows):
        runs = [next(run.run for run in row.runs if run.done) for row in rivals]
        dataset, iou = runs[0].dataset, rivals[0].iou
        statistics = statistics_path(dataset)
        evaluator = Evaluator(annotations_path(dataset, "val"), statistics if statistics.exists() else None)
        found = bootstrap(
            evaluator,
            [run_folder(run) / "detections.parquet" for run in runs],
            iou,
            max_detections=runs[0].test.max_detections,
            resamples=resamples,
        )
        for number, (row, run) in enumerate(zip(rivals, runs, strict=True)):
            cells = [row.row.row.id, row.title, str(run.seed), iou]
            lines.append(_line([*cells, *(_interval(found.runs[number].get(key), "") for key in KEYS)]))
            if number:
                cells = [row.row.row.id, f"minus {rivals[0].title}", str(run.seed), iou]
                difference = found.differences[number - 1]
                lines.append(_line([*cells, *(_interval(difference.get(key), "+") for key in KEYS)]))
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
    """Rows with a finished run, by what can be compared."""
    groups: dict[tuple[str, str, int], list[RowResult]] = {}
    for row in rows:
        if any(run.done for run in row.runs):
            run = row.runs[0].run
            groups.setdefault((run.dataset_name, row.iou, run.test.max_detections), []).append(row)
    return list(groups.values())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _interval(interval: Interval | None, sign: str) -> str:
    if interval is None:
        return ""
    value, low, high = (
        f"{number * 100:{sign}.1f}" for number in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"
