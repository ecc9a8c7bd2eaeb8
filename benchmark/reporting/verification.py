"""Whether our numbers are the published ones, each within its tolerance."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.recipes import LoadedExperiment
from benchmark.recipes.project import project_root
from benchmark.reporting.answers import REPORTED
from benchmark.reporting.collect import RowResult, collect_row, read_reported


@dataclass(frozen=True)
class Verdict:
    """A number that can be compared with its published value; all but the names in percent or points."""

    row: str
    metric: str
    ours: float
    published: float
    tolerance: float
    within: bool

    def __str__(self) -> str:
        word = "within" if self.within else "OUTSIDE"
        return (
            f"{self.row}, {self.metric}: {self.ours:.2f}, published {self.published:g}, difference "
            f"{self.ours - self.published:+.2f}, {word} the tolerance of {self.tolerance:g}"
        )


def verify(experiment: LoadedExperiment) -> list[Verdict]:
    """A verdict for every published number that a finished row answers to.

    Rows of another dataset or schedule than the paper's answer to none. Raises ``BenchmarkError`` for
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
                found.append(Verdict(row.row.row.id, metric, ours, published, tolerance, within))
    return found
