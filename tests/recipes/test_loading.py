"""YAML is read strictly, and errors state their location."""

from pathlib import Path

import pytest

from benchmark.recipes.loading import RecipeError, parse, read_yaml
from benchmark.recipes.models import Experiment, Method, Row, Schedule


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1"),
        ("a: {b: 1, b: 2}\n", "line 1, column 11"),
        ("a: [1, 2\nb: 3\n", "line 2, column 2"),
        ("a: !!python/object:os.system {}\n", "line 1, column 4"),
        ("? [1]\n: 2\n", "line 1, column 3"),
    ],
)
def test_defects_of_yaml_are_placed_by_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(RecipeError, match=place):
        read_yaml(written(tmp_path, text))


@pytest.mark.parametrize("text", ["", "- a\n", "word", "\x00"])
def test_anything_but_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeError, match=r"file\.yaml"):
        read_yaml(path)


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "a: 1e-4\nb: 2E3\nc: -1.5e+2\nd: e4\n")) == {
        "a": 1e-4,
        "b": 2000.0,
        "c": -150.0,
        "d": "e4",
    }


def test_merge_keys_may_be_overridden(tmp_path: Path) -> None:
    content = read_yaml(written(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"))
    assert content["b"] == {"x": 1, "y": 3}


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    row = {"id": "a", "methd": "softmax", "method": "softmax", "detector": "d", "dataset": "e"}
    with pytest.raises(RecipeError, match=r"did you mean 'method'") as error:
        parse(Experiment, {"name": "x", "title": "X", "rows": [row]}, "x.yaml")
    assert "x.yaml, rows[0].methd" in str(error.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(RecipeError, match="3 problems") as error:
        parse(Row, {"id": 14, "method": "softmax", "detector": "d", "seeds": ["0"]}, "x.yaml")
    message = str(error.value)
    assert "id: found 14 (whole number)" in message
    assert "seeds[0]: found '0' (text)" in message
    assert "the key 'dataset' is missing" in message


def test_a_rule_between_keys_is_told_in_its_own_words() -> None:
    with pytest.raises(RecipeError, match="exactly one of iterations and epochs"):
        parse(Schedule, {"learning_rate": 0.1}, "schedule")


@pytest.mark.parametrize(
    ("content", "nearest"),
    [
        ({"stages": [{"name": "a", "schedule": {"iteratoins": 3}}]}, "iterations"),
        ({"variants": {"v": {"samplr": {}}}}, "sampler"),
        ({"variants": {"v": {"stages": [{"name": "a", "form": "b"}]}}}, "from"),
        ({"paper": {"arxive": "1"}}, "arxiv"),
    ],
)
def test_known_keys_are_found_at_any_depth(content: dict[str, object], nearest: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean '{nearest}'"):
        parse(Method, {"name": "x", "title": "X", "classifier": "a:B", **content}, "x.yaml")


def test_what_is_merged_may_itself_merge(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1, z: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\nd: {<<: *b, y: 4}\n"
    assert read_yaml(written(tmp_path, text)) == {
        "a": {"x": 1, "y": 1, "z": 1},
        "b": {"x": 1, "y": 2, "z": 1},
        "c": {"x": 1, "y": 2, "z": 3},
        "d": {"x": 1, "y": 4, "z": 1},
    }
