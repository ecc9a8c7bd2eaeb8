"""A new method works immediately: it passes the conformance suite and its own test, and experiments can use
it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_files import write_experiment

from benchmark.recipes import RecipeError, find_run
from benchmark.recipes.scaffold import new_method

SUITE = Path(__file__).parents[1] / "methods" / "test_conformance.py"


@pytest.mark.slow
def test_a_new_method_passes_the_conformance_suite_and_its_own_test(tmp_path: Path) -> None:
    folder = tmp_path / "my_methods"
    files = new_method("my_loss", folder)
    assert sorted(path.name for path in files) == [
        "README.md", "__init__.py", "classifier.py", "method.yaml", "test_my_loss.py",
    ]  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-k", "my_loss", str(SUITE), str(folder / "my_loss")]
    environment = os.environ | {"METHOD_PATHS": str(folder)}
    done = subprocess.run(
        command, cwd=SUITE.parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_an_experiment_may_name_it(tmp_path: Path) -> None:
    new_method("my_loss", tmp_path / "my_methods")
    experiment = write_experiment(tmp_path, {"method": "my_loss"}, method_paths=["my_methods"])
    run = find_run(f"{experiment}:a")
    assert run.title == "My loss"
    assert run.base is not None
    assert run.base.method == "softmax"


@pytest.mark.parametrize("name", ["My-Loss", "1loss", "../loss", ""])
def test_names_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="name"):
        new_method(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    new_method("mine", tmp_path)
    (tmp_path / "mine" / "classifier.py").write_text("changed")
    with pytest.raises(RecipeError, match="already"):
        new_method("mine", tmp_path)
    assert (tmp_path / "mine" / "classifier.py").read_text() == "changed"
