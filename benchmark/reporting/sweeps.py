"""Sweeps over one option that is a number: the rows of each in the order of its values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.reporting.collect import RowResult

SPAN = 10
"""Positive values that span more than this factor are shown on a logarithmic axis."""


@dataclass(frozen=True)
class Sweep:
    """A sweep: the id of its row in the experiment's file, the option, and its values in ascending order with
    the row of the table for each."""

    id: str
    key: str
    values: list[float]
    rows: list[RowResult]

    @property
    def logarithmic(self) -> bool:
        """Whether the axis of the values is logarithmic."""
        return self.values[0] > 0 and self.values[-1] / self.values[0] > SPAN

    @property
    def counted(self) -> "Sweep":
        """The part that has numbers."""
        pairs = [(value, row) for value, row in zip(self.values, self.rows, strict=True) if row.counted]
        return Sweep(self.id, self.key, [value for value, _ in pairs], [row for _, row in pairs])


def numeric_sweeps(rows: Sequence[RowResult]) -> list[Sweep]:
    """The sweeps of a table over one option whose values are all numbers, in table order."""
    found: dict[tuple[str, str], list[tuple[Any, RowResult]]] = {}
    for row in rows:
        point = row.resolved.point
        if point is not None and len(point.values) == 1:
            ((key, value),) = point.values.items()
            found.setdefault((point.sweep, key), []).append((value, row))
    sweeps = []
    for (id_, key), points in found.items():
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in points):
            points.sort(key=lambda item: item[0])
            sweeps.append(Sweep(id_, key, [float(value) for value, _ in points], [row for _, row in points]))
    return sweeps
