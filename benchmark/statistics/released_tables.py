"""Files of the releases in place of our own intermediate files, checked against the training data.

The releases' files name neither categories nor datasets. They match the training data if they have the same
size and agree with its counts: the same groups, equal weights up to rounding, the same images.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.class_statistics import ClassStatistics
from benchmark.statistics.class_tables import ClassTables, Groups
from benchmark.statistics.class_weights import group_class_weights
from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import GroupTables, members
from benchmark.statistics.intermediates import Intermediates
from benchmark.statistics.upstream_files import WEIGHT_FILES, read_upstream

ROUNDING = 1e-5  # relative, for weights that were once float32
_REMEDY = "use the file of this dataset and these edges, or remove the setting to use our own files"


def with_released(content: Intermediates, tables: ClassTables, files: Mapping[str, Path]) -> ClassTables:
    """Our tables, with some replaced by released files.

    Args:
        content: of the training file.
        tables: ours, made from it.
        files: ``label2binlabel.pt`` as ``groups``, ``bins_cls_weight.pkl`` as ``group_weights``,
            ``cls_weight.pt``, ``cls_weight_bf.pt`` or ``cls_weight_bours.pt`` as ``class_weights``.

    Raises:
        StatisticsError: the file is invalid, or of other training data; the message names the difference.
        FileError: it cannot be read.
    """
    statistics, groups, weights = content.statistics, tables.groups, dict(tables.class_weights)
    if "groups" in files:
        groups = _groups(files["groups"], groups, statistics)
    if "group_weights" in files:
        groups = replace(groups, weights=_group_weights(files["group_weights"], groups, statistics))
    if "class_weights" in files:
        path = files["class_weights"]
        found = np.roll(read_upstream(path, statistics.num_classes), -1)
        _check_equal(path, found[:-1], weights[WEIGHT_FILES[path.name]][:-1], statistics)
        weights[WEIGHT_FILES[path.name]] = found
    return ClassTables(groups, weights)


def _groups(path: Path, ours: Groups, statistics: ClassStatistics) -> Groups:
    released = read_upstream(path, statistics.num_classes)
    if len(released) != len(ours.tables.targets):
        raise StatisticsError(
            "the released file has another number of groups",
            where=path,
            found=f"{len(released) - 1}",
            expected=f"{len(ours.tables.targets) - 1}, with the edges {', '.join(map(str, ours.edges))}",
            remedy=_REMEDY,
        )
    targets = np.roll(released, -1, axis=1)
    group_of_label = targets[1:, :-1].argmax(axis=0) + 1
    same = group_of_label == ours.tables.group_of_label
    _check_all(path, same, "group", group_of_label, statistics)
    tables = GroupTables(targets, ours.tables.slices, group_of_label)
    return Groups(ours.edges, tables, group_class_weights(statistics.instance_counts, tables))


def _group_weights(path: Path, groups: Groups, statistics: ClassStatistics) -> NDArray[np.float64]:
    released = read_upstream(path, statistics.num_classes)
    labels = [members(groups.tables.targets[:, :-1], group) for group in range(1, len(groups.weights))]
    sizes = [len(weights) - 1 for weights in released]
    if sizes != list(map(len, labels)):
        raise StatisticsError(
            "the released file has weights of groups of other sizes",
            where=path,
            found=", ".join(map(str, sizes)),
            expected=", ".join(str(len(group)) for group in labels),
            remedy=_REMEDY,
        )
    weights = groups.weights.copy()
    for group, (members_, values) in enumerate(zip(labels, released, strict=True), 1):
        weights[group, members_] = values[1:]
    every = np.arange(statistics.num_classes)
    chosen = groups.tables.group_of_label
    _check_equal(path, weights[chosen, every], groups.weights[chosen, every], statistics)
    return weights


def _check_equal(
    path: Path, found: NDArray[np.float64], ours: NDArray[np.float64], statistics: ClassStatistics
) -> None:
    _check_all(path, np.isclose(found, ours, rtol=ROUNDING, atol=0), "weight", found, statistics)


def _check_all(
    path: Path, same: NDArray[np.bool_], what: str, found: NDArray[Any], statistics: ClassStatistics
) -> None:
    """Refuse a file that disagrees with the training instances of a category."""
    if same.all():
        return
    label = int(np.flatnonzero(~same)[0])
    first = f"'{statistics.names[label]}' ({statistics.instance_counts[label]} training instances)"
    raise StatisticsError(
        "the released file is of other training data",
        where=path,
        found=f"another {what} for {int((~same).sum())} of {len(same)} categories, first for {first}: "
        f"{found[label]:g}",
        expected=f"the {what} that follows from the training instances of every category",
        remedy=_REMEDY,
    )
