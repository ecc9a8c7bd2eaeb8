"""Loss weights that emphasise rare categories (Li et al., arXiv 2006.10408; Cui et al., arXiv 1901.05555).

Counts are floored at 1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import GroupTables

LOWEST, HIGHEST = 0.1, 5.0
BALANCE = 0.999  # beta of the class-balanced loss (Cui et al., CVPR 2019)
BACKGROUND_PER_INSTANCE = 3  # background proposals that the release assumes for every training instance


def inverse_count_weights(instance_counts: ArrayLike) -> NDArray[np.float64]:
    """1 / c over its mean, clipped to [0.1, 5]; 1 for background (``cls_weight`` of the release).

    Args:
        instance_counts: (C,) training instances of every label.

    Returns:
        (C + 1,), background last.
    """
    return np.append(_relative(1 / _floored(instance_counts)), 1.0)


def class_balanced_weights(instance_counts: ArrayLike) -> NDArray[np.float64]:
    """(1 - b) / (1 - b^c) over its mean, clipped to [0.1, 5]; 1 for background (``cls_weight_bours``).

    Arguments and result as in ``inverse_count_weights``.
    """
    return np.append(_relative(_inverse_effective_number(_floored(instance_counts))), 1.0)


def class_balanced_weights_with_background(instance_counts: ArrayLike) -> NDArray[np.float64]:
    """(1 - b) / (1 - b^c) over its mean, with three times all instances as background count
    (``cls_weight_bf``).

    Arguments and result as in ``inverse_count_weights``, but the mean is over all C + 1 entries and nothing
    is clipped.
    """
    counts = _floored(instance_counts)
    # background first as in the release, so that the mean is the same to the last bit
    weights = _inverse_effective_number(np.append(BACKGROUND_PER_INSTANCE * counts.sum(), counts))
    return np.roll(weights / weights.mean(), -1)


CLASS_WEIGHTS: dict[str, Callable[[ArrayLike], NDArray[np.float64]]] = {
    "inverse_count": inverse_count_weights,
    "class_balanced": class_balanced_weights,
    "class_balanced_with_background": class_balanced_weights_with_background,
}


def class_weight_table(table: str, instance_counts: ArrayLike) -> NDArray[np.float64]:
    """The table of that name, (C + 1,) with background last; ``StatisticsError`` for an unknown name."""
    if table not in CLASS_WEIGHTS:
        raise StatisticsError(
            "unknown table of class weights", found=repr(table), expected=" or ".join(CLASS_WEIGHTS)
        )
    return CLASS_WEIGHTS[table](instance_counts)


def group_class_weights(instance_counts: ArrayLike, tables: GroupTables) -> NDArray[np.float64]:
    """1 / c over its mean *within the group*, clipped to [0.1, 5] (``bins_cls_weight`` of the release).

    Args:
        instance_counts: (C,) training instances of every label.
        tables: the groups.

    Returns:
        (B, C + 1): the weight of every label inside every bin; 1 in bin 0 and where the label is "others".
    """
    counts = _floored(instance_counts)
    weights = np.ones(tables.targets.shape)
    for group in range(1, len(weights)):
        members = np.flatnonzero(tables.group_of_label == group)
        if len(members):
            weights[group, members] = _relative(1 / counts[members])
    return weights


def _floored(instance_counts: ArrayLike) -> NDArray[np.float64]:
    return np.maximum(np.asarray(instance_counts, dtype=np.float64), 1.0)


def _relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values / values.mean(), LOWEST, HIGHEST)


def _inverse_effective_number(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = (1 - BALANCE) / (1 - BALANCE**counts)
    return weights
