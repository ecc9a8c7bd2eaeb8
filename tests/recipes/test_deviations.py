"""Deviations of rows are read strictly, inherited and shown, and do not change keys of results."""

from pathlib import Path
from typing import Any

import pytest
from recipe_files import STAGE, write_experiment, write_method

from benchmark.recipes import RecipeError, explain, find_run, load_experiment
from benchmark.recipes.deviations import effect_text
from benchmark.recipes.models import Deviation
from benchmark.reporting.report import report_key
from benchmark.steps import steps_of


def deviation(what: str, effect: list[float] | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {"what": what, "upstream": "theirs", "here": "ours", "source": "a guess"}
    return said if effect is None else {**said, "effect": effect}


def write(folder: Path, **row: Any) -> str:
    """Method ``mine``, which starts from ``base``; both have deviations."""
    write_method(folder, "base", deviations=[deviation("base's")])
    stages = [{"name": "base", "from": "base"}, {**STAGE, "name": "more"}]
    variants = {"as_is": {"title": "As is"}, "exact": {"deviations": []}}
    write_method(folder, "mine", stages=stages, deviations=[deviation("method's")], variants=variants)
    return write_experiment(folder, {"method": "mine", **row}, method_paths=["."])


def inherited(path: str) -> list[str]:
    return [item.what for item in load_experiment(path).rows[0].deviations]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mine", ["row's", "method's", "base's"]),
        ("mine+as_is", ["row's", "method's", "base's"]),
        ("mine+exact", ["row's", "base's"]),  # a variant replaces its method's
        ("base", ["row's", "base's"]),
    ],
)
def test_a_row_has_those_of_its_method_and_of_what_it_starts_from(
    tmp_path: Path, method: str, expected: list[str]
) -> None:
    path = write(tmp_path, method=method, reported="bags/14", deviations=[deviation("row's")])
    assert inherited(path) == expected


def test_one_that_is_said_twice_is_one(tmp_path: Path) -> None:
    path = write(tmp_path, reported="bags/14", deviations=[deviation("method's")])
    assert inherited(path) == ["method's", "base's"]


def test_a_row_that_answers_to_nothing_deviates_from_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert inherited(path) == []
    assert "reproduces" not in explain(f"{path}:a")
    (tmp_path / "e.yaml").unlink()
    with pytest.raises(RecipeError, match="they need the key 'reported'"):
        load_experiment(write_experiment(tmp_path, {"deviations": [deviation("row's")]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"efect": [0, 1]}, "did you mean 'effect'"),
        ({"effect": [0.5, -0.5]}, "from the lower to the higher"),
        ({"effect": [0.5]}, "effect"),
        ({"effect": "small"}, "effect"),
        ({"source": ""}, "source"),
        ({"what": None}, "what"),
    ],
)
def test_a_deviation_is_read_strictly(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    row = {"reported": "bags/14", "deviations": [{**deviation("row's"), **change}]}
    with pytest.raises(RecipeError, match=message):
        load_experiment(write_experiment(tmp_path, row))


def test_saying_it_runs_nothing_again_but_the_table(tmp_path: Path) -> None:
    (tmp_path / "silent").mkdir()
    (tmp_path / "honest").mkdir()
    row = {"method": "bags", "reported": "bags/14"}
    silent = write_experiment(tmp_path / "silent", row)
    honest = write_experiment(tmp_path / "honest", {**row, "deviations": [deviation("weights", [-1.0, 0.0])]})
    places = [[step.place for step in steps_of(find_run(f"{path}:a"))] for path in (silent, honest)]
    assert places[0] == places[1]
    assert report_key(load_experiment(silent)) != report_key(load_experiment(honest))


def test_show_prints_them_below_the_recipe(tmp_path: Path) -> None:
    path = write(
        tmp_path, method="mine+exact", reported="bags/14", deviations=[deviation("weights", [-0.5, 0])]
    )
    assert explain(f"{path}:a").splitlines()[-3:] == [
        "reproduces bags/14, with 2 deviations:",
        "  weights: upstream theirs; here ours; -0.5 to 0 AP (a guess)",
        "  base's: upstream theirs; here ours; effect unknown (a guess)",
    ]
    assert "reproduces" not in explain(f"{path}:a:0:base")


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        (None, "effect unknown"),
        ([0.0, 0.0], "no effect"),
        ([-0.3, 0.3], "-0.3 to +0.3 AP"),
        ([1.0, 1.0], "+1 AP"),
    ],
)
def test_an_effect_is_a_range_of_points(effect: list[float] | None, text: str) -> None:
    assert effect_text(effect) == text


def test_manifest_and_row_have_one_model() -> None:
    assert Deviation.model_validate(deviation("x")).effect is None
