"""Comparison of our numbers with the published ones, each within its tolerance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.recipes import LoadedExperiment
from benchmark.recipes.deviations import summed_effect
from benchmark.recipes.models import Deviation
from benchmark.recipes.project import project_root
from benchmark.reporting.answers import REPORTED
from benchmark.reporting.collect import RowResult, collect_row, read_reported


@dataclass(frozen=True)
class Verdict:
    """A number and its published value; all but the names in percent or points.

    ``deviations`` is the number of declared deviations of the row; ``explained``: whether their known effects
    could explain a miss. Effects are stated for the AP over all categories, and do not change a tolerance.
    """

    row: str
    metric: str
    ours: float
    published: float
    tolerance: float
    within: bool
    deviations: int
    explained: Literal["yes", "no", "unknown"] | None

    def __str__(self) -> str:
        word = "within" if self.within else "OUTSIDE"
        text = (
            f"{self.row}, {self.metric}: {self.ours:.2f}, published {self.published:g}, difference "
            f"{self.ours - self.published:+.2f}, {word} the tolerance of {self.tolerance:g}"
        )
        if not self.deviations:
            return text
        text += f"; {self.deviations} declared deviation{'s' * (self.deviations != 1)}"
        return text if self.explained is None else f"{text}, {_EXPLAINED[self.explained]}"


_EXPLAINED = {
    "yes": "whose effects could explain it",
    "no": "whose effects do not explain it",
    "unknown": "whose effect on it is not known",
}


def verify(experiment: LoadedExperiment) -> list[Verdict]:
    """A verdict for every published number of a finished row.

    Rows with another dataset or schedule than the paper's have no verdict. Raises ``BenchmarkError`` for
    published numbers that cannot be read.
    """
    reported = read_reported(project_root() / REPORTED)
    return verdicts([collect_row(row, reported) for row in experiment.rows])


def verdicts(rows: Sequence[RowResult]) -> list[Verdict]:
    """The verdicts of collected rows."""
    found = []
    for row in rows:
        for metric, published in (row.reported.values if row.reported else {}).items():
            within, difference = row.verdict(metric), row.difference(metric)
            if row.reported is not None and within is not None and difference is not None:
                tolerance = row.reported.tolerances[metric]
                ours = published + difference
                declared = row.deviations
                explained = None if within else _explained(metric, difference, tolerance, declared)
                found.append(
                    Verdict(row.id, metric, ours, published, tolerance, within, len(declared), explained)
                )
    return found


def _explained(
    metric: str, difference: float, tolerance: float, declared: Sequence[Deviation]
) -> Literal["yes", "no", "unknown"] | None:
    """Whether the excess over the tolerance is in the range of the summed effects."""
    if not declared:
        return None
    low, high, unknown = summed_effect(declared)
    if metric.partition("/")[2] != "AP":
        return "unknown"
    if low - tolerance <= difference <= high + tolerance:
        return "yes"
    return "unknown" if unknown else "no"
