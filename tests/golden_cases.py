"""Golden vectors of the original implementations, as pytest parameters with the marker ``golden``.

``GOLDEN_DIR=FOLDER pytest -k golden`` checks against the files of another folder with cases of the same kinds
(``tests/golden/README.md``). A file or kind that such a folder does not have is skipped. Cases with status
``upstream_bug`` show a defect and are left out unless asked for.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OWN = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("GOLDEN_DIR", OWN)).resolve()

# Every file of the folder, with the kinds that no implemented code answers to and why. Every other kind has a
# test. Left out of kinds that have one: cases of status upstream_bug (a defect; its intended reading is held
# if the case holds it); keys that start with informative_ (another library's draws); the decoded boxes of
# dual_head_scores (the release counts a box's last pixel, width x2 - x1 + 1, and no back end here does).
NOT_HELD: dict[str, dict[str, str]] = {
    "bags": {},
    "balms": {},
    "gol": {},
    "simcal": {},
    "ecm": {},
    "acsl": {"classifier_init": "the release loads the trained baseline over these values, as ours does"},
    "logit_adjustment": {},
    "crt_lws": {},
    "irfs": {},
    "federated": {},
    "eqlv2": {},
    "seesaw": {},
    "iif": dict.fromkeys(
        ("fasa_initial_probabilities", "fasa_statistics", "fasa_generate", "fasa_adaptation"),
        "FASA is left out: it adapts on the validation split that is reported (methods/iif/README.md)",
    ),
    "rog": {},
    "disalign": {},
    "norcal": {},
    "logn": {},
    "fracal": {"fracal_scores_sigmoid": "a branch of the release that none of its rows takes"},
    "bacl": {},
    "loce": {},
    "apa": dict.fromkeys(
        ("apa_activation", "aglu", "apa_channel_gate", "normed_conv2d_learned"),
        "its backbone and its mask predictor are left out: both are parts that no back end here has",
    ),
}
_TOLERANCES = {"float64": {"rtol": 1e-9, "atol": 1e-11}, "float32": {"rtol": 1e-4, "atol": 1e-5}}
_TERMS = re.compile(r"(?:[-+*/(). \dnj]|sin|cos)+")


@cache
def load(file: str) -> dict[str, Any]:
    """A golden file by its name without suffix; empty if the folder does not have it."""
    path = FOLDER / f"{file}.json"
    if not path.is_file() and FOLDER != OWN:
        return {"cases": [], "default_tolerance": _TOLERANCES}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def golden_cases(file: str, kind: str, statuses: tuple[str, ...] = ("upstream", "intended")) -> list[Any]:
    """The cases of one kind, each as ``pytest.param(case)``.

    If another folder than the project's has none, the result is one skipped parameter; in the project's own
    folder this is an error.
    """
    found = [case for case in load(file)["cases"] if case["kind"] == kind and case["status"] in statuses]
    if found:
        return [pytest.param(case, id=case["case"], marks=pytest.mark.golden) for case in found]
    lacking = f"{FOLDER}/{file}.json has no case of kind {kind} and status {' or '.join(statuses)}"
    if FOLDER == OWN:
        raise LookupError(lacking)
    return [pytest.param(None, id="absent", marks=[pytest.mark.golden, pytest.mark.skip(reason=lacking)])]


def tolerance(file: str, precision: str = "float64") -> dict[str, float]:
    """``rtol`` and ``atol`` of a golden file, for NumPy's and PyTorch's ``assert_close``."""
    return {key: load(file)["default_tolerance"][precision][key] for key in ("rtol", "atol")}


def values_of_formula(formula: str, rows: int, columns: int) -> np.ndarray:
    """Evaluate e.g. ``logits[n][j] = 4*sin(n + 2*j), n and j zero-based`` to a (rows, columns) matrix."""
    name, _, right = formula.partition("[n][j] = ")
    terms = right.removesuffix(", n and j zero-based")
    if not name.isidentifier() or _TERMS.fullmatch(terms) is None:
        raise LookupError(f"unknown formula: {formula}")
    n, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    values: np.ndarray = eval(terms, {"__builtins__": {}}, {"n": n, "j": j, "sin": np.sin, "cos": np.cos})
    return values
