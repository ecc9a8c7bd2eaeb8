"""Declared deviations as numbered footnotes of a table."""

from collections.abc import Sequence

from benchmark.recipes.deviations import deviation_text
from benchmark.recipes.models import Deviation
from benchmark.reporting.collect import RowResult


class Footnotes:
    """The deviations of all rows, each once, numbered from 1 in the order of the rows."""

    def __init__(self, rows: Sequence[RowResult]) -> None:
        self._deviations: list[Deviation] = []
        for row in rows:
            self._deviations += [item for item in row.deviations if item not in self._deviations]

    def marks(self, row: RowResult) -> list[int]:
        """The numbers of a row's notes, ascending."""
        return sorted(self._deviations.index(item) + 1 for item in row.deviations)

    @property
    def texts(self) -> list[str]:
        """The notes, one line each, in order and without their numbers."""
        return [deviation_text(item) for item in self._deviations]
