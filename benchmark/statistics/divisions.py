"""Warnings for thresholds that put all categories on one side, given before any training."""

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.notices import DataWarning
from benchmark.statistics.groups import GroupTables


def warn_unless_divided(
    chosen: NDArray[np.bool_], setting: str, group: str, measure: str, values: ArrayLike
) -> None:
    """Warn (``DataWarning``) if a threshold puts every category on one side.

    Args:
        chosen: which categories the threshold selects, (C,).
        setting: the threshold with its value, e.g. ``instance_threshold 300``.
        group: name of the selected categories, e.g. ``infrequent``.
        measure: quantity that is compared with it, e.g. ``training instances``.
        values: the quantity of every category, (C,).
    """
    count, total = int(chosen.sum()), len(chosen)
    if 0 < count < total or total == 0:
        return
    low, high = np.min(values), np.max(values)
    which = "no category is" if count == 0 else f"all {total} categories are"
    remedy = "choose one between these" if low < high else "no threshold would"
    warnings.warn(
        DataWarning(
            f"{setting}: {which} {group}, so it makes no difference between categories "
            f"({measure} of a category here: {low:.4g} to {high:.4g}); {remedy}"
        ),
        stacklevel=3,
    )


def warn_of_empty_groups(tables: GroupTables, edges: Sequence[int], instance_counts: ArrayLike) -> None:
    """Warn (``DataWarning``) if ``group_tables`` has left a group empty.

    Args:
        tables: the groups.
        edges: training instances between them.
        instance_counts: of every category, (C,).
    """
    sizes = np.bincount(tables.group_of_label, minlength=len(edges) + 2)[1:]
    if sizes.all():
        return
    ranges = [f"below {edges[0]}", *(f"{low} to {high - 1}" for low, high in pairwise(edges))]
    ranges.append(f"from {edges[-1]}")
    empty = ", ".join(words for words, size in zip(ranges, sizes, strict=True) if not size)
    counts = np.asarray(instance_counts)
    warnings.warn(
        DataWarning(
            f"group edges {list(edges)}: no category has {empty} training instances, so "
            f"{np.count_nonzero(sizes)} of {len(sizes)} groups have categories (training instances of a "
            f"category here: {counts.min(initial=0)} to {counts.max(initial=0)}); choose edges between these"
        ),
        stacklevel=3,
    )
