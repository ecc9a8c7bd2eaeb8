"""ARCHITECTURE.md shows the real imports and docstrings, and functions are short."""

import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "docs" / "architecture.py"


def test_the_page_is_up_to_date() -> None:
    written = runpy.run_path(str(SCRIPT))
    assert written["PAGE"].read_text() == written["architecture"](), "make architecture writes it anew"


def test_functions_fit_on_a_screen() -> None:
    """At most 60 lines with signature and docstring, everywhere in the code."""
    long = []
    for path in (path for folder in ("benchmark", "methods") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}, {lines} lines")
    assert long == []
