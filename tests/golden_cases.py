"""Golden vectors of the original implementations, as pytest parameters.

The folder is that of the environment variable ``GOLDEN_DIR``, by default ``tests/golden``; its README says
what each kind holds. Cases with status ``upstream_bug`` show a defect and are left out unless asked for.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent / "golden"))

# Kinds that no implemented code answers to yet, with the reason. Every other kind has a test.
# Left out of kinds that have one: cases of status upstream_bug (a defect; its intended reading is tested if
# the case holds it); keys that start with informative_ (another library's random draws); the decoded boxes of
# dual_head_scores (the release counts a box's last pixel, width x2 - x1 + 1, and no back end here does).
NOT_YET: dict[str, dict[str, str]] = {
    "bags": {},
    "balms": {},
    "gol": {},
    "simcal": {},
}


@cache
def load(method: str) -> dict[str, Any]:
    """The golden file of a method."""
    content: dict[str, Any] = json.loads((FOLDER / f"{method}.json").read_text())
    return content


def golden_cases(method: str, kind: str, statuses: tuple[str, ...] = ("upstream", "intended")) -> list[Any]:
    """The cases of one kind, each a ``pytest.param(case)``; an unknown kind is an error."""
    cases = [case for case in load(method)["cases"] if case["kind"] == kind and case["status"] in statuses]
    if not cases:
        raise LookupError(f"{FOLDER / method}.json has no case of kind {kind}")
    return [pytest.param(case, id=case["case"]) for case in cases]


def tolerance(method: str, precision: str = "float64") -> dict[str, float]:
    """``rtol`` and ``atol`` for ``numpy.testing.assert_allclose`` and ``torch.testing.assert_close``."""
    return {key: load(method)["default_tolerance"][precision][key] for key in ("rtol", "atol")}


def logits_from_formula(formula: str, rows: int, columns: int) -> np.ndarray:
    """Evaluate e.g. ``logits[n][j] = 4*sin(n + 2*j), n and j zero-based`` to a (rows, columns) matrix."""
    match = re.fullmatch(
        r"logits\[n\]\[j\] = ([-+*/(). \dnj]*(?:(?:sin|cos)[-+*/(). \dnj]+)*), n and j zero-based", formula
    )
    if match is None:
        raise LookupError(f"unknown formula: {formula}")
    n, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    values: np.ndarray = eval(match[1], {"__builtins__": {}}, {"n": n, "j": j, "sin": np.sin, "cos": np.cos})
    return values
