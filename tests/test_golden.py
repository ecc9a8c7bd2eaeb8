"""No golden kind is forgotten: each is tested, or listed with the reason why not yet."""

import re
from pathlib import Path

import pytest
from golden_cases import NOT_YET, load


@pytest.mark.parametrize("method", sorted(NOT_YET))
def test_every_kind_has_a_test_or_a_reason(method: str) -> None:
    sources = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    tested = set(re.findall(rf'golden_cases\(\s*"{method}",\s*"(\w+)"', sources))
    kinds = {case["kind"] for case in load(method)["cases"] if case["status"] != "upstream_bug"}
    assert tested | set(NOT_YET[method]) == kinds
    assert not tested & set(NOT_YET[method])
