"""``show --keys`` prints the content of keys, and ``why`` the differences."""

from pathlib import Path

import pytest
from places import fabricate

from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.steps import steps_of
from benchmark.steps.explanation import explain_keys, explain_steps, keys_of

TINY = str(Path(__file__).parents[1] / "workflow" / "tiny.yaml")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return find_run(f"{TINY}:bags")


def told(run: Run) -> str:
    return "\n".join(step.text() for step in explain_steps(run))


def test_every_step_is_shown_with_what_its_key_is_made_of(run: Run) -> None:
    fabricate(steps_of(run)[0])
    text = explain_keys(run)
    for step in steps_of(run):
        assert step.place in text
    assert "'synthesize' of Synthetic" in text
    for line in ("options.others_ratio: 8.0", "stage.trainable: classifier", "after     init: train/"):
        assert line in text
    assert text.count(": made ") == 1
    assert "training" in text
    for step, known in zip(steps_of(run), keys_of(run), strict=True):
        assert known["key"] == step.key
        assert all(f"reads     {path}: " in text for path in known["reads"])


def test_nothing_at_hand_is_said(run: Run) -> None:
    assert told(run).count("no other result of this kind is here") == len(steps_of(run))


def test_the_nearest_result_is_compared_setting_by_setting(run: Run) -> None:
    for step in steps_of(run):
        fabricate(step)
    assert told(run).count(": made ") == len(steps_of(run))
    other = run.model_copy(update={"options": run.options | {"others_ratio": 4.0}})
    lines = told(other).splitlines()
    retrain = next(step for step in steps_of(run) if step.name == "retrain")
    (number,) = [n for n, line in enumerate(lines) if "'retrain' of BAGS: not made" in line]
    assert f"retrain/{retrain.key}" in lines[number]
    assert lines[number + 1].strip() == "options.others_ratio: 8.0 there, 4.0 here"
    assert "the step before it (checkpoint) has another result" in "\n".join(lines)


def test_other_versions_of_the_code_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.numerics import area_versions

    for step in steps_of(run):
        fabricate(step)
    before = area_versions()["inference"]
    changed = area_versions() | {"inference": "99"}
    monkeypatch.setattr("benchmark.steps.step.area_versions", lambda: changed)
    assert f"version of area inference: {before} there, 99 here" in told(run)
