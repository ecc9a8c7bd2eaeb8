"""Methods are found by their manifest; a broken one only affects recipes that use it."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from recipe_files import STAGE, write_experiment, write_method

from benchmark.recipes import RecipeError, describe, find_run, load_experiment, load_object
from benchmark.recipes.plugins import _installed, find_plugins


def test_the_projects_methods_are_found() -> None:
    assert {"softmax", "sigmoid", "bags"} <= set(find_plugins([]))


def test_a_method_beside_the_experiment_is_found_by_a_relative_path(tmp_path: Path) -> None:
    folder = write_method(tmp_path / "mine", "mine")
    run = find_run(write_experiment(tmp_path, {"method": "mine"}, method_paths=["mine"]) + ":a")
    assert Path(run.plugin_path) == folder.resolve()


def test_the_path_of_one_plugin_is_as_good_as_that_of_a_folder_of_them(tmp_path: Path) -> None:
    write_method(tmp_path, "mine")
    assert (
        find_run(write_experiment(tmp_path, {"method": "mine"}, method_paths=["mine"]) + ":a").method
        == "mine"
    )


def test_a_missing_folder_of_methods_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere"):
        load_experiment(write_experiment(tmp_path, method_paths=["nowhere"]))


def test_a_name_that_two_places_claim_is_refused_with_both(tmp_path: Path) -> None:
    write_method(tmp_path / "mine", "softmax")
    with pytest.raises(RecipeError, match=r"methods/softmax and .*mine/softmax"):
        load_experiment(write_experiment(tmp_path, {"method": "softmax"}, method_paths=["mine"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "other"}, "the name of its folder"),
        ({"optoins": {}}, "did you mean 'options'"),
        ({"detector": {"norn": "batch"}}, "did you mean 'norm'"),
        ({"detector": {"width": "wide"}}, "found 'wide'"),
        ({"variants": {"v": {"test": {"max_detectoins": 3}}}}, "did you mean 'max_detections'"),
        ({"stages": [{"name": "base", "from": "softmax"}]}, "a stage of its own"),
        ({"stages": [STAGE, STAGE]}, "different names"),
        ({"stages": [STAGE, {"name": "base", "from": "softmax"}]}, "only the first stage"),
        ({"stages": [{"name": "train"}]}, "needs a schedule"),
    ],
)
def test_a_broken_manifest_is_one_message_that_names_the_file(tmp_path, settings, message) -> None:
    write_method(tmp_path, "mine", **settings)
    with pytest.raises(RecipeError, match=message) as error:
        load_experiment(write_experiment(tmp_path, {"method": "mine"}, method_paths=["."]))
    assert "mine/method.yaml" in str(error.value)


def test_a_broken_plugin_leaves_the_others_alone(tmp_path: Path) -> None:
    (write_method(tmp_path, "mine") / "method.yaml").write_text("name: [")
    assert load_experiment(write_experiment(tmp_path, {"method": "softmax"}, method_paths=["."])).rows


def test_a_broken_plugin_is_listed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Snakefile").touch()
    (tmp_path / "workflows").mkdir()
    write_method(tmp_path / "methods", "good")
    (write_method(tmp_path / "methods", "bad") / "method.yaml").write_text("name: [")
    monkeypatch.chdir(tmp_path)
    entries = {entry["name"]: entry for entry in describe("methods")}
    assert "broken" not in entries["good"]
    assert "methods/bad/method.yaml, line 2" in entries["bad"]["broken"]


def test_an_installed_plugin_is_the_folder_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (write_method(tmp_path, "installed_method") / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    plugin = _installed(EntryPoint("installed_method", "installed_method", "longtail.methods"))
    assert plugin.method.name == "installed_method"


def test_an_installed_plugin_that_cannot_be_imported_says_so_when_it_is_used() -> None:
    plugin = _installed(EntryPoint("gone", "no_such_package", "longtail.methods"))
    with pytest.raises(RecipeError, match=r"entry point 'gone'.*no_such_package"):
        _ = plugin.method


def test_code_beside_the_manifest_is_found_and_may_import_its_neighbours(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("two", 2)):
        folder = write_method(tmp_path, name)
        (folder / "helpers.py").write_text(f"VALUE = {value}\n")
        (folder / "classifier.py").write_text("from .helpers import VALUE\nclass Head:\n    value = VALUE\n")
    loaded = [load_object("classifier:Head", str(tmp_path / name)) for name in ("one", "two")]
    assert [item.value for item in loaded] == [1, 2]
    assert load_object("classifier:Head", str(tmp_path / "one")) is loaded[0]


def test_a_copy_of_the_project_runs_its_own_methods(tmp_path: Path) -> None:
    folder = write_method(tmp_path / "methods", "softmax")
    (folder / "classifier.py").write_text("class Softmax:\n    mine = True\n")
    assert load_object("methods.softmax.classifier:Softmax", str(folder)).mine


def test_other_modules_are_imported_as_usual(tmp_path: Path) -> None:
    assert load_object("pathlib:Path", str(tmp_path)) is Path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:Head", "cannot import 'nowhere'"),
        ("classifier:Haed", "has no 'Haed'"),
        ("wrong:Head", "fails on import"),
        ("lacks:Head", "no_such_package"),
    ],
)
def test_code_that_cannot_be_loaded_says_why(tmp_path: Path, spec: str, message: str) -> None:
    folder = write_method(tmp_path, "mine")
    (folder / "classifier.py").write_text("class Head: ...\n")
    (folder / "wrong.py").write_text("1 / 0\n")
    (folder / "lacks.py").write_text("import no_such_package\n")
    with pytest.raises(RecipeError, match=message):
        load_object(spec, str(folder))
