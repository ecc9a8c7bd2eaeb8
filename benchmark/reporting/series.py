"""Data of the plots: values of every category and training curves, read from the results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.files import file_error
from benchmark.recipes.models import Run
from benchmark.reporting.collect import RowResult, RunResult
from benchmark.statistics import ClassStatistics
from benchmark.steps import Step

BANDWIDTH = 0.25
"""Bandwidth of the smoothed curves, in decades of the count."""

Values = NDArray[np.float64]


class SeriesReader:
    """Reads series, each file once, and collects ``notes`` on files that cannot be read."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}
        self._statistics: dict[Path, ClassStatistics | None] = {}
        self._tables: dict[Path, pd.DataFrame | None] = {}

    @property
    def notes(self) -> list[str]:
        """One line for each problem."""
        return list(self._notes)

    def statistics(self, row: RowResult) -> ClassStatistics | None:
        """The class statistics of a row's dataset; None if the row has no numbers."""
        return self._counts(row.counted[0]) if row.counted else None

    def _counts(self, result: RunResult) -> ClassStatistics | None:
        path = result.file("statistics", "class_statistics.csv")
        if path not in self._statistics:
            try:
                self._statistics[path] = ClassStatistics.read(path)
            except BenchmarkError as error:
                self.note(error)
                self._statistics[path] = None
        return self._statistics[path]

    def class_ap(self, row: RowResult, iou: str) -> Values | None:
        """AP (C,) of every category in ascending id, the mean over a row's counted seeds.

        Fractions, NaN if undefined; None if no finished run has them.
        """
        found = [self._column(item, "evaluate", "per_class.csv", f"{iou}_AP") for item in row.counted]
        values = [item for item in found if item is not None]
        return np.asarray(np.mean(values, axis=0), np.float64) if values else None

    def weight_norms(self, row: RowResult) -> Values | None:
        """L2 norms (C,) of the classifier's weight vectors, the mean over a row's counted seeds.

        None if the method does not have a vector for each category, or none were written.
        """
        there = [item for item in row.counted if item.file("predict", "weight_norms.csv").exists()]
        found = [self._column(item, "predict", "weight_norms.csv", "norm") for item in there]
        values = [item for item in found if item is not None and np.isfinite(item).any()]
        return np.asarray(np.mean(values, axis=0), np.float64) if values else None

    def calibration(self, row: RowResult) -> pd.DataFrame | None:
        """Bins of scores of a row's first counted seed: ``score``, ``precision`` (fractions), ``count``.

        From ``calibration.csv``, which has them by ``iou``; None without that file.
        """
        path = row.counted[0].file("evaluate", "calibration.csv") if row.counted else None
        if path is None or not path.is_file():
            return None
        try:
            table = pd.read_csv(path)
            bins = table.loc[
                (table["iou"] == row.iou) & (table["count"] > 0), ["score", "precision", "count"]
            ]
            return bins.astype(float).sort_values("score")
        except (OSError, ValueError, KeyError) as error:
            self._notes[f"{path} is not a table of calibration bins: {error}"] = None
            return None

    def progress(self, path: Path) -> Values | None:
        """Iteration and loss (N, 2), N >= 2, of a progress.jsonl, without an incomplete last line."""
        try:
            lines = path.read_text().splitlines()
        except OSError:
            return None
        points = []
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
                points.append((float(entry["iteration"]), float(entry["loss"])))
            except (ValueError, KeyError, TypeError):
                if number < len(lines) - 1:
                    self._notes[f"{path}, line {number + 1} is not a line of progress"] = None
        found = np.array(points, np.float64).reshape(-1, 2)
        found = found[np.isfinite(found).all(axis=1)]
        return found if len(found) > 1 else None

    def note(self, error: BenchmarkError) -> None:
        """Keep the first line of an error."""
        self._notes[str(error).splitlines()[0]] = None

    def _column(self, result: RunResult, step: str, name: str, column: str) -> Values | None:
        """A column of a run's table of categories, aligned with the class statistics."""
        statistics, path = self._counts(result), result.file(step, name)
        if path not in self._tables:
            self._tables[path] = None
            try:
                self._tables[path] = pd.read_csv(path).set_index("id")
            except OSError as error:
                self.note(file_error("read", path, error))
            except (ValueError, KeyError) as error:
                self._notes[f"{path} is not a table of categories: {error}"] = None
        table = self._tables[path]
        if statistics is None or table is None:
            return None
        try:
            return table[column].reindex(statistics.category_ids).to_numpy(np.float64)
        except (ValueError, KeyError) as error:
            self._notes[f"{path} is not a table of categories: {error}"] = None
            return None


@dataclass
class Training:
    """A training with the rows that depend on it, and those of which it is a stage."""

    step: Step
    rows: list[RowResult] = field(default_factory=list)
    owners: list[RowResult] = field(default_factory=list)
    title: str = ""


def trainings(rows: Sequence[RowResult]) -> list[Training]:
    """Every training of the rows and their bases once.

    Its title is that of its run, with the dataset and the detector where they differ among trainings of the
    same title and stage.
    """
    found: dict[str, Training] = {}
    for row in rows:
        for result in row.runs:
            for step in (item.step for item in result.steps if item.step.kind.trains):
                training = found.setdefault(step.place, Training(step))
                if not any(other is row for other in training.rows):
                    training.rows.append(row)
                if step.owner is result.run:
                    training.owners.append(row)
    alike: dict[tuple[str, str], list[Run]] = {}
    for training in found.values():
        alike.setdefault((training.step.run.title, training.step.name), []).append(training.step.run)
    for training in found.values():
        run, words = training.step.run, []
        others = alike[run.title, training.step.name]
        if len({other.dataset_name for other in others}) > 1:
            words.append(run.dataset_name)
        if len({other.detector_name for other in others}) > 1:
            words.append(run.detector_name.partition("/")[2])
        training.title = f"{run.title} ({', '.join(words)})" if words else run.title
    return [*found.values()]


def smoothed(counts: NDArray[np.int64], values: Values, points: int = 60) -> tuple[Values, Values]:
    """A smooth curve of values of categories against their counts: ``points`` counts, and the local means
    there.

    Nadaraya-Watson with a Gaussian kernel of ``BANDWIDTH`` decades, from the smallest to the largest count;
    categories without a count or a value are left out. Both are empty if no category is left.
    """
    defined = np.isfinite(values) & (counts > 0)
    if not defined.any():
        return np.empty(0), np.empty(0)
    places = np.log10(counts[defined])
    at = np.linspace(places.min(), places.max(), points if np.ptp(places) > 0 else 1)
    weights = np.exp(-0.5 * ((at[:, None] - places) / BANDWIDTH) ** 2)
    return 10**at, weights @ values[defined] / weights.sum(axis=1)
