"""Caps keep the highest scores, and the first of equal ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmark.evaluation.selection import highest_scores

ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0.0, 0.25, 0.5, 1.0))), min_size=1, max_size=40)


@given(ROWS, st.integers(1, 12))
def test_highest_scores_of_each_group(rows: list[tuple[int, float]], number: int) -> None:
    groups, scores = (np.array(column) for column in zip(*rows, strict=True))
    expected = np.zeros(len(rows), bool)
    for group in set(groups.tolist()):
        members = [row for row in range(len(rows)) if groups[row] == group]
        expected[sorted(members, key=lambda row: -scores[row])[:number]] = True
    assert highest_scores(groups.astype(np.int64), scores, number).tolist() == expected.tolist()


def test_more_groups_than_16_bits_hold() -> None:
    groups = np.repeat(np.arange(70_000), 2)
    scores = np.tile([0.1, 0.2], 70_000)
    assert highest_scores(groups, scores, 1).reshape(-1, 2).tolist() == [[False, True]] * 70_000
