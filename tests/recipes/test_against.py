"""``--against`` prints all differences between two recipes and nothing else."""

from pathlib import Path

import pytest
from recipe_files import write_experiment
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.errors import BenchmarkError
from benchmark.recipes import explain_against
from benchmark.reporting.answers import answering_recipe


def test_only_what_differs_is_printed() -> None:
    head, *lines = explain_against("bags:1", "bags:19").splitlines()
    assert head == "bags:1 | bags:19"
    assert "  detector.architecture: faster_rcnn | mask_rcnn" in lines
    assert "  detector.init: coco | imagenet" in lines
    assert not any("learning_rate" in line or "title" in line or line.startswith("  row") for line in lines)


def test_bases_count_and_what_one_of_two_lacks_is_absent() -> None:
    lines = explain_against("bags:14", "bags:1").splitlines()
    assert "  base.detector.init: coco | absent" in lines
    assert "  stages.retrain.trainable: classifier | absent" in lines


def test_equal_recipes_differ_in_nothing() -> None:
    assert explain_against("smoke:bags", "smoke:bags").splitlines()[1:] == ["  nothing differs"]


def test_the_paper_is_the_recipe_that_answers_to_it(tmp_path: Path) -> None:
    assert answering_recipe("smoke:balms") == "balms:balms"
    said = CliRunner().invoke(app, ["show", "smoke:balms", "--against", "paper"]).output
    assert "detector.backbone: resnet18 | resnet50" in said
    assert "stages.retrain.schedule.iterations: 100 | 22000" in said
    path = write_experiment(tmp_path, {"method": "gol+uniform"})
    with pytest.raises(BenchmarkError, match="no recipe of method 'gol\\+uniform' reproduces"):
        answering_recipe(f"{path}:a")
