"""The tables that classifiers read in addition to the counts: groups of categories, and class weights.

A method with ``intermediates: [groups]`` in its manifest gets them as the argument ``groups`` of its
classifier. They are read from the folder of the dataset's intermediate files, which a step of the workflow
makes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.files import read_bytes
from benchmark.statistics.class_statistics import ClassStatistics
from benchmark.statistics.class_weights import CLASS_WEIGHTS, group_class_weights
from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import GroupTables, group_tables
from benchmark.tables import csv_rows

GROUP_COLUMNS = ["id", "name", "group", "target", "weight"]
_REMEDY = "write the folder again with longtail intermediates"


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of categories, and the weights of the categories inside them.

    ``weights`` (B, C + 1) float64 has the weight of every label inside every bin; 1 in bin 0 and for
    "others".
    """

    edges: tuple[int, ...]
    tables: GroupTables
    weights: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassTables:
    """Groups, and class weights (C + 1,) float64 with background last by the name of their table."""

    groups: Groups
    class_weights: Mapping[str, NDArray[np.float64]]


def counted_groups(
    instance_counts: ArrayLike, edges: Sequence[int], order: Sequence[int] | None = None
) -> Groups:
    """The groups for the training instances; arguments and errors as in ``group_tables``."""
    tables = group_tables(instance_counts, edges, order)
    return Groups(tuple(edges), tables, group_class_weights(instance_counts, tables))


def read_tables(folder: Path | None, names: Iterable[str], statistics: ClassStatistics) -> dict[str, Any]:
    """Read the tables of these names, ``groups`` or ``class_weights``, as arguments of a classifier.

    Args:
        folder: folder with ``groups.csv`` and ``class_weights.csv``; None: nothing is read, and classifiers
            make the same tables from the counts.
        names: the tables that the method declares.
        statistics: of the training split.

    Raises:
        StatisticsError: a table has other categories or counts.
        FileError: a table cannot be read.
    """
    if folder is None:
        return {}
    readers: dict[str, Callable[[], Any]] = {
        "groups": lambda: read_groups(folder / "groups.csv", statistics, in_label_order=True),
        "class_weights": lambda: read_class_weights(folder / "class_weights.csv", statistics),
    }
    return {name: readers[name]() for name in names}


def read_groups(path: Path | str, statistics: ClassStatistics, *, in_label_order: bool = False) -> Groups:
    """Read a ``groups.csv``.

    Args:
        path: the table.
        statistics: the categories and counts that it must have.
        in_label_order: put the categories of a group in ascending order, as in the logits of classifiers,
            instead of the order of the table. Scores do not depend on it.

    Raises:
        StatisticsError: not such a table, or one of other categories or counts than ``statistics``.
        FileError: it cannot be read.
    """
    try:
        head, _, text = read_bytes(path).decode("utf-8").partition("\n")
        edges = tuple(int(edge) for edge in head.removeprefix("# edges:").split())
        (_, columns), *rows = csv_rows(text)
        records = [dict(zip(columns, row, strict=True)) for _, row in rows]
        ids = [int(record["id"]) for record in records]
        groups = np.array([int(record["group"]) for record in records])
        targets = np.array([int(record["target"]) for record in records])
        values = np.array([float(record["weight"]) for record in records])
        order = np.lexsort((targets, groups))
        fits = ids == statistics.category_ids.tolist()
        tables = group_tables(statistics.instance_counts, edges, order.tolist() if fits else [])
        every = np.arange(len(ids))
        places = tables.targets[tables.group_of_label, every]
        sound = np.array_equal(tables.group_of_label, groups) and np.array_equal(places, targets)
        sound = sound and bool((np.isfinite(values) & (values > 0)).all())
    except (ValueError, KeyError, TypeError, StatisticsError):
        sound = False
    if not sound:
        raise StatisticsError(
            "not a table of groups of these categories",
            where=path,
            expected=f"'# edges: ...', then {','.join(GROUP_COLUMNS)}, for the {statistics.num_classes} "
            "categories of class_statistics.csv",
            remedy=_REMEDY,
        )
    if in_label_order:
        tables = group_tables(statistics.instance_counts, edges)
    weights = np.ones(tables.targets.shape)
    weights[tables.group_of_label, every] = values
    return Groups(edges, tables, weights)


def read_class_weights(path: Path | str, statistics: ClassStatistics) -> dict[str, NDArray[np.float64]]:
    """Read a ``class_weights.csv``: weights (C + 1,) with background last by the name of their table.

    Raises as ``read_groups``.
    """
    expected = [*map(str, statistics.category_ids.tolist()), ""]
    try:
        (_, columns), *rows = csv_rows(read_bytes(path).decode("utf-8"))
        records = [dict(zip(columns, row, strict=True)) for _, row in rows]
        found = {table: np.array([float(record[table]) for record in records]) for table in CLASS_WEIGHTS}
        sound = [record["id"] for record in records] == expected
        sound = sound and all((np.isfinite(values) & (values > 0)).all() for values in found.values())
    except (ValueError, KeyError):
        sound = False
    if not sound:
        raise StatisticsError(
            "not a table of class weights of these categories",
            where=path,
            expected=f"id,name,{','.join(CLASS_WEIGHTS)}: weights above 0 of {statistics.num_classes} "
            "categories and background",
            remedy=_REMEDY,
        )
    return found
