"""CSV tables preserve every text."""

from hypothesis import given
from hypothesis import strategies as st

from benchmark.tables import csv_records, csv_rows, csv_text

CELLS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=3)


@given(rows=st.lists(CELLS, max_size=4))
def test_every_cell_survives(rows: list[list[str]]) -> None:
    assert [row for _, row in csv_rows(csv_text(rows))] == rows


def test_a_row_is_found_on_its_line() -> None:
    """With line ends in cells, and blank lines."""
    assert [line for line, _ in csv_rows('a,b\n"1\r\n\n2",x\n\nc,d\n')] == [1, 2, 6]


def test_a_cell_of_any_length_survives() -> None:
    rows = [["x" * 1_000_000, "a"]]
    assert [row for _, row in csv_rows(csv_text(rows))] == rows


def test_a_short_table_before_makes_no_long_cell_too_long() -> None:
    """The limit of ``csv`` is one for the process."""
    csv_rows("a\nb\n")
    assert csv_records(f"a\n{'x' * 200_000}\n") == [{"a": "x" * 200_000}]
