"""Groups of categories with similar counts, and the layout of their logits.

Li et al., arXiv 2006.10408, with the layout of their release.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.statistics.errors import StatisticsError

EDGES = (10, 100, 1000)
"""Instance counts that separate the groups of the release."""


@dataclass(frozen=True, eq=False)
class GroupTables:
    """Bins of a grouped classifier over C categories (labels 0..C-1, C = background), all int64.

    Bin 0 is (background, foreground); bin g >= 1 is ("others", then the categories of group g).
    """

    targets: NDArray[np.int64]
    """(B, C + 1): the target of every label inside every bin; 0 is background in bin 0, "others"
    elsewhere."""
    slices: NDArray[np.int64]
    """(B, 2): start and length of every bin among the logits."""
    group_of_label: NDArray[np.int64]
    """(C,): the bin of every category, 1..B-1."""

    @property
    def width(self) -> int:
        """Number of logits, (C + 1) + B."""
        return int(self.slices[-1].sum())


def group_tables(
    instance_counts: ArrayLike, edges: Sequence[int], order: Sequence[int] | None = None
) -> GroupTables:
    """Group categories by training instances and lay out the bins.

    Args:
        instance_counts: (C,) training instances of every label.
        edges: strictly increasing; a count equal to an edge belongs to the upper group. A group may be empty.
        order: the labels in the order of the training file's category list, which is their order inside a
            bin;
            default ascending, as in LVIS.

    Raises ``StatisticsError`` for edges that do not increase, or an order that is not a permutation.
    """
    counts = np.asarray(instance_counts, dtype=np.int64)
    num_classes = len(counts)
    if len(edges) == 0 or any(left >= right for left, right in pairwise(edges)):
        raise StatisticsError(
            "group edges must be there and strictly increase", found=list(edges), expected="e.g. 10, 100"
        )
    labels = np.arange(num_classes) if order is None else np.asarray(order, dtype=np.int64)
    if not np.array_equal(np.sort(labels), np.arange(num_classes)):
        raise StatisticsError(
            "the order of the labels is not a permutation",
            found=f"{len(labels)} labels",
            expected=f"0..{num_classes - 1}",
        )
    group_of_label = np.searchsorted(np.asarray(edges), counts, side="right").astype(np.int64) + 1
    bins = len(edges) + 2
    targets = np.zeros((bins, num_classes + 1), dtype=np.int64)
    targets[0, :num_classes] = 1
    lengths = [2]
    for group in range(1, bins):
        members = labels[group_of_label[labels] == group]
        targets[group, members] = np.arange(1, len(members) + 1)
        lengths.append(len(members) + 1)
    slices = np.stack([np.cumsum([0, *lengths[:-1]]), lengths], axis=1).astype(np.int64)
    return GroupTables(targets, slices, group_of_label)


def members(targets: NDArray[np.int64], group: int) -> NDArray[np.int64]:
    """The labels of a group (from 1) in the order of its bin; ``targets`` (B, C) without background."""
    labels = np.flatnonzero(targets[group])
    return labels[np.argsort(targets[group, labels])]
