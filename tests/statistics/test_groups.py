"""The group tables of BAGS equal those of the original code, in our label convention."""

from pathlib import Path

import numpy as np
import pytest
from golden_cases import golden_cases
from hypothesis import given
from hypothesis import strategies as st

from benchmark.statistics import ClassStatistics, StatisticsError, group_tables


def background_first(targets: np.ndarray) -> np.ndarray:
    """The original's columns: label 0 is background, label j + 1 our category j."""
    return np.concatenate([targets[:, -1:], targets[:, :-1]], axis=1)


@pytest.mark.parametrize("case", golden_cases("bags", "group_tables"))
def test_golden_tables(case):
    ids = np.array(case["inputs"]["category_ids_in_file_order"])
    order = np.searchsorted(np.sort(ids), ids)
    counts = np.empty(len(ids), dtype=np.int64)
    counts[order] = case["inputs"]["instance_counts_in_file_order"]
    tables = group_tables(counts, case["hyperparameters"]["group_edges"], order)
    expected = case["expected"]
    assert background_first(tables.targets).tolist() == expected["label2binlabel"]
    assert tables.slices.tolist() == expected["pred_slice"]
    assert tables.width == expected["num_logits"]
    for group, members in enumerate(expected["group_category_ids"], start=1):
        assert np.sort(ids)[tables.group_of_label == group].tolist() == sorted(members)


@pytest.mark.parametrize("case", golden_cases("bags", "group_tables_real"))
def test_golden_tables_of_lvis(case):
    inputs, expected = case["inputs"], case["expected"]
    counts = inputs["instance_counts"]
    tables = group_tables(counts, case["hyperparameters"]["group_edges"])
    assert tables.slices.tolist() == expected["pred_slice"]
    assert tables.width == expected["num_logits"]
    assert tables.group_of_label.tolist() == expected["group_of_category"]
    positions = tables.targets[tables.group_of_label, np.arange(len(counts))]
    assert positions.tolist() == expected["index_in_group"]


def test_lvis_groups_from_the_published_table():
    counts = ClassStatistics.read(Path("tests/data/lvis_v0.5_categories.csv")).instance_counts
    tables = group_tables(counts, (10, 100, 1000))
    assert (tables.slices[1:, 1] - 1).tolist() == [294, 453, 302, 181]
    assert tables.slices.tolist() == [[0, 2], [2, 295], [297, 454], [751, 303], [1054, 182]]
    assert tables.width == 1236
    assert {array.dtype for array in (tables.targets, tables.slices, tables.group_of_label)} == {
        np.dtype(np.int64)
    }


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=30),
    st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted),
    st.randoms(),
)
def test_every_category_has_one_place(counts, edges, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    tables = group_tables(counts, edges, order)
    assert tables.targets.shape == (len(edges) + 2, len(counts) + 1)
    assert tables.width == len(counts) + 1 + len(tables.slices) == tables.slices[:, 1].sum()
    assert (tables.targets[:, -1] == 0).all()
    assert (tables.targets[0, :-1] == 1).all()
    assert ((tables.targets[1:, :-1] > 0).sum(axis=0) == 1).all()
    columns = (
        tables.slices[tables.group_of_label, 0]
        + tables.targets[tables.group_of_label, np.arange(len(counts))]
    )
    assert len(set(columns.tolist())) == len(counts)
    for count, group in zip(counts, tables.group_of_label, strict=True):
        assert sum(count >= edge for edge in edges) == group - 1


@pytest.mark.parametrize(
    ("edges", "order"), [((), None), ((10, 10), None), ((100, 10), None), ((10,), [0, 0, 1])]
)
def test_nonsense_is_refused(edges, order):
    with pytest.raises(StatisticsError):
        group_tables([1, 2, 3], edges, order)
