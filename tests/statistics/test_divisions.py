"""A threshold that puts all categories on one side causes a warning with the counts; one that divides them
does not."""

import numpy as np
import pytest
from helpers import statistics_of
from hypothesis import given
from hypothesis import strategies as st

from benchmark.notices import data_warnings
from benchmark.statistics import (
    category_repeat_factors,
    group_tables,
    infrequent_categories,
    warn_of_empty_groups,
    warn_unless_divided,
)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 60))
def test_only_a_threshold_without_effect_is_said(counts: list[int], threshold: int) -> None:
    chosen = np.array(counts) < threshold
    with data_warnings() as found:
        warn_unless_divided(chosen, f"limit {threshold}", "few", "instances", counts)
    assert len(found) == (0 if 0 < chosen.sum() < len(chosen) else 1)
    for text in found:
        assert f"limit {threshold}: " in text
        assert f"{min(counts)} to {max(counts)}" in text


def test_the_equalization_threshold_of_lvis_on_few_images() -> None:
    """On 500 images a category is in fewer than 0.0011 of them only if it is in none."""
    counts = [1, 30, 400]
    statistics = statistics_of(counts)
    with data_warnings() as found:
        assert not infrequent_categories(statistics, 0.0011).any()
        assert infrequent_categories(statistics, 0.5).tolist() == [True, True, False]
        assert infrequent_categories(statistics, 1.1).all()
    assert ["no category is infrequent" in text for text in found] == [True, False]
    assert "all 3 categories are infrequent" in found[1]


def test_a_repeat_threshold_below_all_frequencies() -> None:
    with data_warnings() as found:
        assert (category_repeat_factors([1, 400], 500, 0.001) == 1).all()
        category_repeat_factors([1, 400], 500, 0.1)
        category_repeat_factors([1, 4], 500, 0.1)  # all are repeated, the rarer one more often
    (text,) = found
    assert "repeat threshold 0.001: no category is repeated" in text
    assert "0.002 to 0.8" in text


@pytest.mark.parametrize(
    ("counts", "empty"),
    [
        ([5, 50, 500, 5000], None),
        ([12, 90, 900], "below 10, from 1000"),
        ([1, 2], "10 to 99, 100 to 999, from 1000"),
        ([10, 100, 1000], "below 10"),
    ],
)
def test_groups_without_categories(counts: list[int], empty: str | None) -> None:
    edges = [10, 100, 1000]
    with data_warnings() as found:
        warn_of_empty_groups(group_tables(counts, edges), edges, counts)
    assert len(found) == (empty is not None)
    for text in found:
        assert f"no category has {empty} training instances" in text
