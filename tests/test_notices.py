"""Warnings about data are collected once each; other warnings are not affected."""

import warnings

import pytest

from benchmark.notices import DataWarning, data_warnings


def test_each_warning_is_shown_once_and_at_once() -> None:
    """However often a detector builds its classifiers."""
    shown: list[str] = []
    with data_warnings(shown.append) as found:
        for text in ("one", "two", "one"):
            warnings.warn(DataWarning(text), stacklevel=1)
        assert shown == ["one", "two"]
    assert found == shown


def test_other_warnings_pass() -> None:
    with pytest.warns(UserWarning, match="other") as record, data_warnings() as found:
        warnings.warn("other", UserWarning, stacklevel=1)
    assert found == []
    assert len(record) == 1


def test_an_inner_collection_keeps_its_own() -> None:
    with data_warnings() as outer:
        with data_warnings() as inner:
            warnings.warn(DataWarning("inner"), stacklevel=1)
        warnings.warn(DataWarning("outer"), stacklevel=1)
    assert (inner, outer) == (["inner"], ["outer"])
