"""Which published rows the experiments reproduce, and why the others have no recipe."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from benchmark.errors import BenchmarkError
from benchmark.files import read_bytes
from benchmark.recipes.catalog import yaml_files
from benchmark.recipes.experiments import located_row, published_rows
from benchmark.recipes.models import Deviation, Row
from benchmark.recipes.project import project_root
from benchmark.reporting.collect import read_reported
from benchmark.tables import csv_records

REPORTED = "results/reported/reported.csv"
UNANSWERED = "results/reported/unanswered.csv"


@dataclass(frozen=True)
class Answers:
    """Published rows by PAPER/ROW: the ``recipes`` (EXPERIMENT:ROW) of each, ``reasons`` why others have
    none, and the number of ``deviations`` by recipe."""

    recipes: dict[str, list[str]]
    reasons: dict[str, str]
    deviations: dict[str, int]

    @property
    def problems(self) -> list[str]:
        """Missing and outdated entries of ``UNANSWERED``."""
        unanswered = {row for row, recipes in self.recipes.items() if not recipes}
        return [f"{row}: no recipe and no reason" for row in sorted(unanswered - self.reasons.keys())] + [
            f"{row}: a reason in {UNANSWERED}, but it has a recipe or is not published"
            for row in sorted(self.reasons.keys() - unanswered)
        ]

    def text(self) -> str:
        """The counts, and a line for each row without a recipe."""
        fewest = [
            min(self.deviations.get(recipe, 0) for recipe in recipes)
            for recipes in self.recipes.values()
            if recipes
        ]
        exact = fewest.count(0)
        lines = [
            f"{len(fewest)} of {len(self.recipes)} rows of {REPORTED} are reproduced by a recipe: "
            f"{exact} exactly, {len(fewest) - exact} with declared deviations; "
            f"{len(self.recipes) - len(fewest)} not at all"
        ]
        for row, recipes in self.recipes.items():
            if not recipes:
                lines.append(f"  {row}: {self.reasons.get(row, 'no reason stated')}")
        return "\n".join(lines)


def find_answers() -> Answers:
    """The published rows of all experiments in ``workflows/experiments`` that can be read.

    Raises ``BenchmarkError`` for tables that cannot be read.
    """
    recipes: dict[str, list[str]] = {row: [] for row in read_reported(project_root() / REPORTED)}
    deviations = {}
    for name, rows in published_by_experiment():
        for row, declared in rows:
            if row.reported in recipes:
                recipes[row.reported].append(f"{name}:{row.id}")
                deviations[f"{name}:{row.id}"] = len(declared)
    return Answers(recipes, _read_reasons(), deviations)


def published_by_experiment() -> Iterator[tuple[str, list[tuple[Row, list[Deviation]]]]]:
    """The result of ``published_rows`` for every experiment. Experiments that cannot be read are left out,
    because ``longtail list experiments`` reports their errors."""
    for name in yaml_files("experiments"):
        with suppress(BenchmarkError):
            yield name, published_rows(name)


def answering_recipe(recipe: str) -> str:
    """The recipe of the published number of a row's method.

    For a row with a published number, it is the first other recipe of that number, or the row itself; for
    another row, the recipe of its method (METHOD or METHOD+VARIANT). Raises ``BenchmarkError`` if there is
    none.
    """
    row, _ = located_row(recipe)
    answers = find_answers()
    if row.reported is not None:
        mine = answers.recipes.get(row.reported, [])
        return next(iter(mine), recipe)
    for recipes in answers.recipes.values():
        for item in recipes:
            if located_row(item)[0].method == row.method:
                return item
    raise BenchmarkError(
        f"no recipe of method '{row.method}' reproduces a published number",
        where=recipe,
        remedy="name one: longtail show RECIPE --against EXPERIMENT:ROW",
    )


def _read_reasons() -> dict[str, str]:
    path = project_root() / UNANSWERED
    if not path.exists():
        return {}
    lines = csv_records(read_bytes(path).decode())
    try:
        return {f"{line['paper']}/{line['row']}": line["reason"].strip() for line in lines}
    except (KeyError, AttributeError):
        raise BenchmarkError(
            "bad table of rows without a recipe",
            where=path,
            expected="columns paper,row,reason in every line",
        ) from None
