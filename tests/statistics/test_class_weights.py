"""Class weights equal the tables of the release; categories without instances do no harm."""

from typing import Any

import numpy as np
import pytest
from golden_cases import golden_cases, tolerance

from benchmark.statistics import (
    CLASS_WEIGHTS,
    ClassStatistics,
    GroupTables,
    StatisticsError,
    class_balanced_weights,
    class_balanced_weights_with_background,
    class_weight_table,
    group_class_weights,
    group_tables,
    inverse_count_weights,
)

CLOSE = tolerance("bags")
EDGES = (10, 100, 1000)


def real_counts() -> list[int]:
    counts: list[int] = ClassStatistics.read("tests/data/lvis_v0.5_categories.csv").instance_counts.tolist()
    return counts


def per_group(weights: np.ndarray, tables: GroupTables) -> list[list[float]]:
    """Rows of the release: "others", then the group's categories in order."""
    return [
        [1.0, *weights[group, np.flatnonzero(tables.group_of_label == group)]]
        for group in range(1, len(weights))
    ]


@pytest.mark.parametrize("case", golden_cases("bags", "class_weights"))
def test_tables_equal_the_original(case: dict[str, Any]) -> None:
    counts, expected = case["inputs"]["instance_counts"], case["expected"]
    for function, name in (
        (inverse_count_weights, "cls_weight"),
        (class_balanced_weights_with_background, "cls_weight_bf"),
        (class_balanced_weights, "cls_weight_bours"),
    ):
        np.testing.assert_allclose(np.roll(function(counts), 1), expected[name], **CLOSE)
    tables = group_tables(counts, EDGES)
    rows = per_group(group_class_weights(counts, tables), tables)
    for row, golden in zip(rows, expected["bins_cls_weight"], strict=True):
        np.testing.assert_allclose(row, golden, **CLOSE)


@pytest.mark.parametrize("case", golden_cases("bags", "class_weights_real"))
def test_tables_of_lvis_equal_the_original(case: dict[str, Any]) -> None:
    counts, expected = real_counts(), case["expected"]
    names = ("cls_weight", "cls_weight_bf", "cls_weight_bours")
    functions = (
        inverse_count_weights,
        class_balanced_weights_with_background,
        class_balanced_weights,
    )
    tables = {name: np.roll(function(counts), 1) for name, function in zip(names, functions, strict=True)}
    for name in names:
        np.testing.assert_allclose(tables[name][expected["labels"]], expected[name], **CLOSE)
    np.testing.assert_allclose([tables[name].sum() for name in names], expected["sums"], **CLOSE)
    clipped = [tables["cls_weight"], tables["cls_weight_bours"]]
    assert [int((table == 0.1).sum()) for table in clipped] == expected["n_at_low_clip"]
    assert [int((table == 5.0).sum()) for table in clipped] == expected["n_at_high_clip"]
    groups = group_tables(counts, EDGES)
    rows = per_group(group_class_weights(counts, groups), groups)
    np.testing.assert_allclose([sum(row) for row in rows], expected["bins_sums"], **CLOSE)
    np.testing.assert_allclose([row[:5] for row in rows], expected["bins_first5"], **CLOSE)


@pytest.mark.parametrize("name", sorted(CLASS_WEIGHTS))
def test_a_category_without_instances_weighs_as_much_as_one_with_one(name: str) -> None:
    weights = class_weight_table(name, [0, 1, 20, 3000])
    assert np.isfinite(weights).all()
    assert weights[0] == weights[1] > weights[2] >= weights[3] > 0
    empty_group = group_tables([0, 1, 2000], EDGES)
    assert np.isfinite(group_class_weights([0, 1, 2000], empty_group)).all()


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StatisticsError, match="inverse_count or class_balanced"):
        class_weight_table("inverse", [1, 2])
