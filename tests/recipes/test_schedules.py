"""Schedules by name are what they stand for; nothing of the name is left in a resolved recipe."""

from pathlib import Path

import pytest
from recipe_files import ROW, STAGE, write_experiment, write_method

from benchmark.recipes import RecipeError, find_run
from benchmark.recipes.loading import parse
from benchmark.recipes.models import Run, Schedule
from benchmark.recipes.schedules import named_schedules


def run_with(tmp_path: Path, schedule: object) -> Run:
    write_method(tmp_path, "mine", stages=[{**STAGE, "schedule": schedule}])
    return find_run(write_experiment(tmp_path, {**ROW, "method": "mine"}, method_paths=["."]) + ":a")


@pytest.mark.parametrize("name", sorted(named_schedules()))
def test_every_named_schedule_is_one(name: str) -> None:
    parse(Schedule, named_schedules()[name], name)


def test_a_name_stands_for_its_settings(tmp_path: Path) -> None:
    (stage,) = run_with(tmp_path, "mmdet_1x").stages
    assert stage.schedule == Schedule(**named_schedules()["mmdet_1x"])
    assert (stage.schedule.epochs, stage.schedule.steps) == (12, [8, 11])


def test_keys_beside_a_name_replace_its_own(tmp_path: Path) -> None:
    (stage,) = run_with(tmp_path, {"like": "detectron2_1x", "steps": [1000], "clip_norm": 5}).stages
    same = named_schedules()["detectron2_1x"]
    assert stage.schedule == Schedule(**{**same, "steps": [1000], "clip_norm": 5})
    assert "like" not in stage.model_dump_json()


@pytest.mark.parametrize("schedule", ["mmdet_3x", {"like": "mmdet_3x", "epochs": 36}])
def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path, schedule: object) -> None:
    with pytest.raises(RecipeError, match=r"unknown schedule 'mmdet_3x'(.|\n)*mmdet_2x"):
        run_with(tmp_path, schedule)


def test_another_length_replaces_the_steps_too(tmp_path: Path) -> None:
    (stage,) = run_with(tmp_path, {"like": "mmdet_1x", "iterations": 75}).stages
    assert stage.schedule is not None
    assert (stage.schedule.iterations, stage.schedule.epochs, stage.schedule.steps) == (75, None, [])
    assert stage.schedule.warmup_iterations == 500
