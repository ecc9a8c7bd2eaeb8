"""ARCHITECTURE.md is what the imports and docstrings of the code say."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "architecture.py"


def test_the_page_is_up_to_date() -> None:
    written = runpy.run_path(str(SCRIPT))
    assert written["PAGE"].read_text() == written["architecture"](), "make architecture writes it anew"
