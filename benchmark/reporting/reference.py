"""The numbers of an experiment that ship with the project, and whether other results are within their
noise."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.evaluation.uncertainty import CONFIDENCE
from benchmark.files import read_bytes, write_text
from benchmark.recipes import LoadedExperiment
from benchmark.recipes.project import project_root
from benchmark.reporting.collect import HEADLINE, RowResult, collect_row
from benchmark.reporting.differences import SeedSample
from benchmark.reporting.intervals import seed_samples
from benchmark.tables import csv_records

REFERENCES = "results/reference"
"""Folder of the shipped numbers, ``<experiment>.csv``."""
COLUMNS = ("row", "metric", "mean", "std", "std_over", "seeds", "result")

Noise = Literal["seeds", "images"]


@dataclass(frozen=True)
class Shipped:
    """A number that ships with the project, in percent.

    ``std`` is the standard deviation ``over`` seeds, or with one seed the bootstrap's over images. ``result``
    is the evaluation of the first seed.
    """

    row: str
    metric: str
    mean: float
    std: float
    over: Noise
    seeds: int
    result: str


@dataclass(frozen=True)
class Repeat:
    """Our number and the shipped one, in percent and points; ``same``: whether recipe and code are the
    same."""

    row: str
    metric: str
    ours: float
    shipped: float
    tolerance: float
    over: Noise
    seeds: int
    within: bool
    same: bool

    def __str__(self) -> str:
        word = "within" if self.within else "OUTSIDE"
        source = f"{self.seeds} seed{'s' * (self.seeds != 1)}, noise over {self.over}"
        return (
            f"{self.row}, {self.metric}: {self.ours:.2f}, shipped {self.shipped:.2f} ({source}), difference "
            f"{round(self.ours - self.shipped, 2) + 0.0:+.2f}, {word} the tolerance of {self.tolerance:.2f}"
        )


def write_reference(experiment: LoadedExperiment, output: Path | None = None) -> Path:
    """Write the headline numbers of the finished rows with their noise; returns the file.

    Raises ``BenchmarkError`` if no row is finished, and as the evaluation for missing data.
    """
    path = output if output is not None else reference_file(experiment.name)
    rows = [row for row in (collect_row(row, {}) for row in experiment.rows) if _is_done(row)]
    if not rows:
        raise BenchmarkError(
            f"no row of {experiment.name} is finished", remedy=f"make experiment EXPERIMENT={experiment.name}"
        )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        over: Noise = "seeds" if len(row.counted) > 1 else "images"
        drawn = seed_samples(row.counted, row.iou).samples[0] if over == "images" else None
        for key in HEADLINE:
            mean, std = row.mean(row.iou, key), _std(row, key, drawn)
            if mean is not None and std is not None:
                numbers = [f"{100 * mean:.3f}", f"{100 * std:.3f}", over, len(row.counted)]
                table.writerow([row.id, f"{row.iou}/{key}", *numbers, _result(row)])
    write_text(path, text.getvalue())
    return path


def _std(row: RowResult, key: str, drawn: SeedSample | None) -> float | None:
    if drawn is None:
        return row.spread(row.iou, key)
    return float(np.nanstd(drawn.draws[key], ddof=1)) if key in drawn.draws else None


def reference_file(experiment: str) -> Path:
    """The file of the shipped numbers of an experiment, if there is one."""
    return project_root() / REFERENCES / f"{experiment}.csv"


def read_reference(path: Path) -> list[Shipped]:
    """The shipped numbers in a file; raises ``BenchmarkError`` naming a bad line."""
    found = []
    for line in csv_records(read_bytes(path).decode()):
        try:
            over = next(kind for kind in get_args(Noise) if kind == line["std_over"])
            numbers = float(line["mean"]), float(line["std"])
            found.append(
                Shipped(line["row"], line["metric"], *numbers, over, int(line["seeds"]), line["result"])
            )
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise BenchmarkError(
                "bad line of shipped numbers", where=path, found=line, expected=error
            ) from None
    return found


def verify_repeat(experiment: LoadedExperiment) -> list[Repeat]:
    """Our finished rows compared with the shipped ones of the experiment; empty if none are shipped."""
    path = reference_file(experiment.reference)
    if not path.exists():
        return []
    return repeats([collect_row(row, {}) for row in experiment.rows], read_reference(path))


def repeats(rows: Sequence[RowResult], shipped: Sequence[Shipped]) -> list[Repeat]:
    """Whether each number could be the result of the same training.

    A tolerance is half of the prediction interval for the mean over our seeds (Hahn and Meeker, Statistical
    Intervals, 1991): Student's t times the standard deviation times sqrt(1 / their seeds + 1 / our seeds).
    The standard deviation over seeds is pooled over all rows, because the few seeds of one row do not
    determine it well. The level is Bonferroni's, so that all numbers are within tolerance with a probability
    of ``CONFIDENCE``.
    """
    from scipy import stats  # takes a second

    ours = {row.id: row for row in rows if _is_done(row)}
    judged = [
        (item, ours[item.row], value)
        for item in shipped
        if item.row in ours and (value := _mean(ours[item.row], item.metric)) is not None
    ]
    pooled = _pooled(shipped)
    found = []
    for item, row, value in judged:
        std, freedom = pooled[item.metric] if item.over == "seeds" else (item.std, np.inf)
        reach = float(stats.t.ppf(1 - (1 - CONFIDENCE) / len(judged) / 2, freedom))
        tolerance = reach * std * (1 / item.seeds + 1 / len(row.counted)) ** 0.5
        within = abs(value - item.mean) <= tolerance
        same = item.result in {run.steps[-1].step.place for run in row.runs if run.steps}
        found.append(
            Repeat(item.row, item.metric, value, item.mean, tolerance, item.over, item.seeds, within, same)
        )
    return found


def _pooled(shipped: Sequence[Shipped]) -> Mapping[str, tuple[float, int]]:
    """By metric, the standard deviation over seeds, pooled over all rows, and its degrees of freedom."""
    found = {}
    for metric in {item.metric for item in shipped}:
        items = [item for item in shipped if item.metric == metric and item.over == "seeds"]
        freedom = sum(item.seeds - 1 for item in items)
        if freedom:
            found[metric] = (
                (sum((item.seeds - 1) * item.std**2 for item in items) / freedom) ** 0.5,
                freedom,
            )
    return found


def summary(found: Sequence[Repeat]) -> str:
    """The result on one line."""
    rows = dict.fromkeys(item.row for item in found)
    outside = dict.fromkeys(item.row for item in found if not item.within)
    other = dict.fromkeys(item.row for item in found if not item.same)
    held = len(rows) - len(outside)
    text = (
        f"within the noise of the published run: {'no' if outside else 'yes'}, for {held} of {len(rows)} rows"
    )
    if outside:
        text += f"; not {', '.join(outside)}"
    if any(item.over == "images" for item in found):
        text += "; its noise is estimated from one seed and draws of images, and may be larger"
    if other:
        text += f"; {len(other)} of these rows are of another recipe or code than the published run"
    return text


def _mean(row: RowResult, metric: str) -> float | None:
    iou, _, key = metric.partition("/")
    value = row.mean(iou, key)
    return None if value is None else 100 * value


def _result(row: RowResult) -> str:
    return next(run.steps[-1].step.place for run in row.runs if run.done)


def _is_done(row: RowResult) -> bool:
    return any(run.done for run in row.runs)
