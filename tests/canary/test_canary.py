"""Code that computes other numbers has another version; code that computes the same numbers keeps it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark import numerics
from benchmark.files import read_json, write_json
from tests.canary import verdict

ROOT = Path(__file__).resolve().parents[2]


def test_the_code_computes_what_its_versions_stand_for() -> None:
    """All methods for a few iterations, in every back end that is installed."""
    command = [sys.executable, "-m", "tests.canary", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


VALUES: dict[str, Any] = {
    "defaults": {"Schedule": {"momentum": "0.9"}},
    "evaluation": {"AP": 0.5},
    "method bags": {"pipeline": {"train weights": {"rpn": 1.0}, "detections": {"count": 3}}},
    "detector elsewhere/tiny": {"train weights": {"rpn": 1.0}},
}


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Versions and values that agree, for code that has been edited since."""
    known = {"version": 3, "code": "before"}
    content = {"areas": dict.fromkeys(numerics.AREAS, known), "methods": {"bags": known, "gone": known}}
    file = tmp_path / "numerics.json"
    write_json(file, content)
    write_json(tmp_path / "expected.json", VALUES)
    monkeypatch.setattr(numerics, "FILE", file)
    monkeypatch.setattr(numerics, "stated", lambda: read_json(file))
    monkeypatch.setattr(verdict, "find_plugins", lambda _: {"bags": type("P", (), {"folder": tmp_path})})
    return tmp_path


def confirm(versions: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], *raised: str) -> int:
    monkeypatch.setattr(verdict, "measure", lambda: found)
    return verdict.confirm(list(raised), write=True, expected=versions / "expected.json")


def changed(section: str, values: dict[str, Any]) -> dict[str, Any]:
    here = {name: value for name, value in VALUES.items() if not name.startswith("detector")}
    return {**here, section: values}


def test_an_edit_that_moves_no_number_keeps_the_version(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert confirm(versions, monkeypatch, changed("evaluation", {"AP": 0.5 + 1e-9, "new": 1.0})) == 0
    stated = read_json(versions / "numerics.json")
    assert stated["areas"]["training"] == {"version": 3, "code": numerics.area_digests()["training"]}
    assert stated["methods"].keys() == {"bags"}
    values = read_json(versions / "expected.json")
    assert values["evaluation"]["new"] == 1.0
    assert values["detector elsewhere/tiny"] == VALUES["detector elsewhere/tiny"]  # not installed here


@pytest.mark.parametrize(
    ("section", "values", "wrong", "right"),
    [
        ("evaluation", {"AP": 0.51}, "training", "evaluation"),
        ("defaults", {"Schedule": {"momentum": "0.8"}}, "evaluation", "training"),
        (
            "method bags",
            {"pipeline": {"train weights": {"rpn": 1.1}, "detections": {"count": 3}}},
            "inference",
            "training",
        ),
        (
            "method bags",
            {"pipeline": {"train weights": {"rpn": 1.0}, "detections": {"count": 4}}},
            "evaluation",
            "inference",
        ),
        (
            "method bags",
            {"pipeline": {"train weights": {}, "detections": {"count": 3}}},
            "evaluation",
            "bags",
        ),
    ],
)
def test_an_edit_that_moves_a_number_needs_the_version_of_what_can_have_moved_it(
    section: str,
    values: dict[str, Any],
    wrong: str,
    right: str,
    versions: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (versions / "numerics.json").read_bytes()
    found = changed(section, values)
    for raised in ([], [wrong]):
        assert confirm(versions, monkeypatch, found, *raised) == 1
        assert "raise the version" in capsys.readouterr().err
        assert (versions / "numerics.json").read_bytes() == before
    assert confirm(versions, monkeypatch, found, right) == 0
    stated = read_json(versions / "numerics.json")
    raised_now = {
        name: entry["version"]
        for kind in stated.values()
        for name, entry in kind.items()
        if entry["version"] > 3
    }
    assert raised_now == {right: 4}
    assert read_json(versions / "expected.json")[section] == values
    assert confirm(versions, monkeypatch, found) == 0


def test_a_new_setting_with_a_default_moves_nothing(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"Schedule": {"momentum": "0.9", "nesterov": "False"}}
    assert confirm(versions, monkeypatch, changed("defaults", more)) == 0


def test_a_variant_that_is_gone_moves_nothing(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_variant = changed("method bags", {**VALUES["method bags"], "bags+old": {"scores": [1.0]}})
    assert confirm(versions, monkeypatch, with_variant) == 0
    assert confirm(versions, monkeypatch, VALUES) == 0
    assert "bags+old" not in read_json(versions / "expected.json")["method bags"]


def test_a_name_that_is_neither_area_nor_method_is_refused(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert confirm(versions, monkeypatch, VALUES, "trainning") == 2
