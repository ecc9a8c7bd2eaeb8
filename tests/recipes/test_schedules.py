"""Named schedules, and schedules that rows change."""

from pathlib import Path
from typing import Any

import pytest
from recipe_files import ROW, STAGE, write_experiment, write_method

from benchmark.recipes import RecipeError, find_run
from benchmark.recipes.loading import parse
from benchmark.recipes.models import Run, Schedule
from benchmark.recipes.paths import run_name
from benchmark.recipes.schedules import named_schedules
from benchmark.steps import find_step


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


def test_a_row_changes_the_schedule_of_its_own_stages_alone(tmp_path: Path) -> None:
    row = {**ROW, "method": "bags", "schedule": {"batch_size": 8, "epochs": 6}}
    run = find_run(write_experiment(tmp_path, row) + ":a")
    plain = find_run(write_experiment(tmp_path, {**ROW, "method": "bags"}) + ":a")
    (changed,), (known,) = run.stages, plain.stages
    assert changed.schedule is not None
    assert known.schedule is not None
    assert (changed.schedule.batch_size, changed.schedule.epochs, changed.schedule.steps) == (8, 6, [])
    assert changed.schedule.learning_rate == known.schedule.learning_rate
    assert run.base == plain.base
    assert run.title == "BAGS (batch_size 8, epochs 6)"
    assert "/bags,schedule.batch_size=8,schedule.epochs=6/" in run_name(run)
    stage, base = (find_step(run, name) for name in ("retrain", "train"))
    assert base is None  # a step of the base's run
    assert stage is not None
    assert stage.key != find_step(plain, "retrain").key  # type: ignore[union-attr]
    assert stage.inputs["init"].key == find_step(plain, "retrain").inputs["init"].key  # type: ignore[union-attr]


def test_a_row_may_name_a_schedule(tmp_path: Path) -> None:
    run = find_run(write_experiment(tmp_path, {"schedule": {"like": "mmdet_2x", "clip_norm": 5}}) + ":a")
    (stage,) = run.stages
    assert stage.schedule is not None
    assert (stage.schedule.epochs, stage.schedule.steps, stage.schedule.clip_norm) == (24, [16, 22], 5)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"schedule": {"batchsize": 8}}, "row a, schedule"),
        ({"schedule": {"like": "mmdet_3x"}}, "row a, schedule.like"),
        ({"method": "tau_norm", "schedule": {"batch_size": 8}}, "trains nothing of its own"),
        ({"reported": "bags/1", "schedule": {"batch_size": 8}}, "no published number"),
    ],
)
def test_a_schedule_that_a_row_cannot_have_is_refused(
    tmp_path: Path, row: dict[str, Any], named: str
) -> None:
    with pytest.raises(RecipeError, match=named):
        find_run(write_experiment(tmp_path, row) + ":a")
