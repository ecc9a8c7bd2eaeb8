"""Sweeps: a row that lists values for options of its method expands to one row for each value."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from benchmark.recipes.loading import RecipeError
from benchmark.recipes.models import Row
from benchmark.recipes.options import value_name, value_text


@dataclass(frozen=True)
class SweepPoint:
    """The position of a row in its sweep: the id of the row in the file, and the value of every key."""

    sweep: str
    values: dict[str, Any]


def expanded(rows: Iterable[Row], where: str) -> list[tuple[Row, SweepPoint | None]]:
    """Every row of the table. A sweep expands to one row for each combination of its values, the last key's
    values changing fastest, with the id ``<id>,<key>=<value>...``; any other row is unchanged, with None.

    ``where`` is the file for messages. Raises ``RecipeError`` for an invalid sweep, or one with a published
    number; the options themselves are checked together with the other options of the row.
    """
    found: list[tuple[Row, SweepPoint | None]] = []
    for row in rows:
        if not row.sweep:
            found.append((row, None))
            continue
        _check(row, f"{where}, row {row.id}")
        for values in product(*row.sweep.values()):
            point = SweepPoint(row.id, dict(zip(row.sweep, values, strict=True)))
            name = ",".join([row.id, *(f"{key}={value_name(value)}" for key, value in point.values.items())])
            options = {**row.options, **point.values}
            found.append((row.model_copy(update={"id": name, "options": options, "sweep": {}}), point))
    return found


def _check(row: Row, where: str) -> None:
    if row.reported is not None:
        raise RecipeError(
            "a sweep has no published number, because that is of one value",
            where=f"{where}, reported",
            found=row.reported,
            remedy="leave the key 'reported' out, or write the row of the published value as one of its own",
        )
    for key, values in row.sweep.items():
        place = f"{where}, sweep.{key}"
        if key in row.options:
            raise RecipeError(
                f"'{key}' has one value in options and several in sweep",
                where=place,
                found=f"options.{key} {value_text(row.options[key])}",
                remedy="leave one of the two out",
            )
        if len(values) < 2:
            raise RecipeError(
                "a sweep is over several values",
                where=place,
                found=values,
                expected="at least two values",
                remedy=f"options: {{{key}: ...}} sets a single value",
            )
        for first, second in combinations(values, 2):
            if first == second:
                raise RecipeError(
                    "a value stands twice in a sweep: one run would be two rows",
                    where=place,
                    found=values,
                    expected="each value once",
                    remedy=f"remove one {value_text(first)}",
                )
            if value_name(first) == value_name(second):
                raise RecipeError(
                    "two values of a sweep have one name: the row of each is named after its value",
                    where=place,
                    found=f"{first!r} and {second!r}, both '{value_name(first)}'",
                    expected="values that differ in letters of ASCII, digits, '.' or '-'",
                    remedy="write the two as rows of their own, with options",
                )
