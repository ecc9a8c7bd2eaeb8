"""No golden file or kind is forgotten: each kind is tested, or listed with the reason why not."""

import re
from pathlib import Path

import pytest
from golden_cases import FOLDER, NOT_HELD, OWN, load

SOURCES = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))


def test_every_golden_file_is_in_the_index() -> None:
    files = {path.stem for path in FOLDER.glob("*.json")}
    if FOLDER == OWN:
        assert files == set(NOT_HELD)
    elif not files & set(NOT_HELD):
        pytest.fail(f"{FOLDER} has no golden file: expected one of {', '.join(sorted(NOT_HELD))}")
    elif files - set(NOT_HELD):
        pytest.skip(f"files that nothing here answers to: {', '.join(sorted(files - set(NOT_HELD)))}")


@pytest.mark.parametrize("file", sorted(NOT_HELD))
def test_every_golden_kind_has_a_test_or_a_reason(file: str) -> None:
    tested = set(re.findall(rf'golden_cases\(\s*"{file}",\s*"(\w+)"', SOURCES))
    kinds = {case["kind"] for case in load(file)["cases"] if case["status"] != "upstream_bug"}
    assert not tested & set(NOT_HELD[file])
    assert kinds <= tested | set(NOT_HELD[file])
    if FOLDER == OWN:
        assert tested | set(NOT_HELD[file]) == kinds
