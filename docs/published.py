"""The published rows of a method, their recipes here, and the deviations of these."""

from collections import defaultdict
from functools import cache
from pathlib import Path

from benchmark.recipes.models import Deviation, Row
from benchmark.reporting.answers import published_by_experiment
from benchmark.tables import csv_records

FOLDER = Path(__file__).resolve().parents[1] / "results" / "reported"


def method_table(method: str) -> str:
    """Markdown table of the published rows of a method, and their deviations."""
    recipes, deviations, rows = _answers(method)
    reasons = {f"{line['paper']}/{line['row']}": line["reason"] for line in _lines("unanswered.csv")}
    numbers: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in _lines("reported.csv"):
        key = f"{line['paper']}/{line['row']}"
        if key in recipes or (line["method"].partition("+")[0] == method and key in reasons):
            numbers[key].append(line)
    if not numbers:
        return "None is known."
    table = [
        "| row | name in the paper | detector | dataset | published | recipe |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key, lines in numbers.items():
        first = lines[0]
        values = ", ".join(
            f"{line['metric'].replace('segm/', 'mask ').replace('bbox/', 'box ')} {line['value']}"
            for line in lines
        )
        made = ", ".join(f"`{recipe}`" for recipe in recipes[key]) or f"none: {reasons.get(key, '')}"
        table.append(
            f"| {key} | {first['label']} | {first['detector']} | {first['dataset']} | {values} | {made} |"
        )
    return "\n".join(table) + "\n\n" + _deviations(deviations, rows)


def _deviations(deviations: dict[str, list[Deviation]], rows: dict[str, str]) -> str:
    lines: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for recipe, declared in deviations.items():
        for item in declared:
            effect = "unknown" if item.effect is None else "{:+g} to {:+g}".format(*item.effect)
            lines[item.what, item.upstream, item.here, effect, item.source].append(rows[recipe])
    if not lines:
        return "No row deviates in anything that is known."
    table = [
        "What differs from what made the published numbers:\n",
        "| what | there | here | effect on AP | known from | rows |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    table += [f"| {' | '.join(item)} | {', '.join(sorted(set(keys)))} |" for item, keys in lines.items()]
    return "\n".join(table)


@cache
def _answers(method: str) -> tuple[dict[str, list[str]], dict[str, list[Deviation]], dict[str, str]]:
    """Recipes by published row, and deviations and published row by recipe."""
    recipes, deviations, rows = defaultdict(list), {}, {}
    for name, experiment in _published():
        for row, declared in experiment:
            if row.method.partition("+")[0] == method and row.reported is not None:
                recipe = f"{name}:{row.id}"
                recipes[row.reported].append(recipe)
                deviations[recipe], rows[recipe] = declared, row.reported
    return recipes, deviations, rows


@cache
def _published() -> list[tuple[str, list[tuple[Row, list[Deviation]]]]]:
    return list(published_by_experiment())


def _lines(name: str) -> list[dict[str, str]]:
    return csv_records((FOLDER / name).read_text(encoding="utf-8"))
