"""The precedence of the places that set a value."""

from pathlib import Path

import pytest
import yaml
from recipe_files import ROW, SCHEDULE, STAGE, write_experiment, write_method

from benchmark.files import write_json
from benchmark.recipes import RecipeError, explain, find_run, lineage, load_experiment
from benchmark.recipes.models import Run
from benchmark.recipes.paths import run_name
from benchmark.steps import own_steps, steps_of


def run_of(tmp_path: Path, method: str = "mine", **settings: object) -> Run:
    return find_run(write_experiment(tmp_path, {"method": method}, method_paths=["."], **settings) + ":a")


def test_method_variant_and_preset_decide_in_this_order(tmp_path: Path) -> None:
    own = {"init": "coco", "smooth_l1_beta": 0.5, "flip_probability": 0.1}
    write_method(
        tmp_path, "mine", detector=own, options={"a": 1, "b": 2},
        variants={"v": {"detector": {"smooth_l1_beta": 0.25, "norm": "frozen"}, "options": {"b": 3}}},
    )  # fmt: skip
    run = run_of(tmp_path, "mine+v")
    assert run.options == {"a": 1, "b": 3}
    assert run.detector.flip_probability == 0.1  # the method's
    assert run.detector.smooth_l1_beta == 0.25  # the variant's over the method's
    assert run.detector.init == "none"  # the preset's over the method's
    assert run.detector.norm == "batch"  # and over the variant's
    assert run.detector.roi_positive_fraction == 0.25  # the default


def test_a_variant_replaces_sampler_and_stages_and_merges_test_settings(tmp_path: Path) -> None:
    sampler = {"kind": "repeat_factor"}
    other = [{"name": "other", "schedule": {**SCHEDULE, "learning_rate": 0.5}}]
    write_method(
        tmp_path,
        "mine",
        test={"score_threshold": 0.25, "max_detections": 7},
        variants={"v": {"stages": other, "sampler": sampler, "test": {"max_detections": 9}}},
    )
    run = run_of(tmp_path, "mine+v")
    assert [stage.name for stage in run.stages] == ["other"]
    assert run.stages[0].sampler is not None
    assert run.stages[0].sampler.kind == "repeat_factor"
    assert (run.test.score_threshold, run.test.max_detections) == (0.25, 9)
    assert run.title == "Mine (v)"


def test_a_budget_that_gives_a_length_drops_the_papers_length_and_steps() -> None:
    schedule = find_run("smoke:softmax").stages[0].schedule
    assert schedule is not None
    assert (schedule.iterations, schedule.epochs, schedule.steps) == (200, None, [])
    assert schedule.norm_weight_decay == 0.0001  # what the budget does not mention stays the method's


def test_a_budget_may_give_epochs_instead_of_iterations(tmp_path: Path) -> None:
    write_method(tmp_path, "mine")
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"name": "b", "all": {"epochs": 2}}))
    schedule = run_of(tmp_path, budget="b.yaml").stages[0].schedule
    assert schedule is not None
    assert (schedule.iterations, schedule.epochs, schedule.learning_rate) == (None, 2, 0.1)


def test_a_budget_speaks_to_stages_by_what_they_train() -> None:
    run = find_run("smoke:bags")
    lengths = [stage.schedule.iterations for item in lineage(run) for stage in item.stages if stage.schedule]
    assert lengths == [500, 200, 100]


def test_a_budgets_pretraining_comes_before_detectors_without_weights_only(tmp_path: Path) -> None:
    """One training for all methods and seeds, of another dataset; it takes the preset as it is."""
    budget = {
        "name": "b",
        "all": {"epochs": 2},
        "classifier": {"epochs": 2},
        "pretraining": {
            "method": "softmax",
            "dataset": "synthetic_tiny",
            "schedule": {"iterations": 7},
            "detector": {"norm": "frozen", "trainable_layers": 2},
        },
    }
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(budget))
    chosen = [("softmax", "tiny_mask_rcnn"), ("bags", "tiny_mask_rcnn"), ("softmax", "mask_rcnn_r50_fpn")]
    rows = [
        {"id": str(number), "method": method, "detector": f"torchvision/{preset}", "dataset": "synthetic"}
        for number, (method, preset) in enumerate(chosen)
    ]
    content = {"name": "e", "title": "E", "budget": str(tmp_path / "b.yaml"), "seeds": [3], "rows": rows}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(content))
    tiny, bags, r50 = (lineage(row.runs[0]) for row in load_experiment(str(tmp_path / "e.yaml")).rows)
    assert [(run.method, run.dataset_name, run.seed) for run in bags] == [
        ("softmax", "synthetic_tiny", 0),
        ("softmax", "synthetic", 3),
        ("bags", "synthetic", 3),
    ]
    assert tiny[0] == bags[0]
    schedules = [run.stages[0].schedule for run in bags]
    lengths = [item and (item.iterations, item.epochs) for item in schedules]
    assert lengths == [(7, None), (None, 2), (None, 2)]
    frozen = [(run.detector.norm, run.detector.trainable_layers) for run in bags]
    assert frozen == [("batch", 5), ("frozen", 2), ("frozen", 2)]
    assert [run.starts_elsewhere(run.stages[0]) for run in bags] == [False, True, False]
    assert len(r50) == 1  # it has weights of its own
    steps = steps_of(bags[-1])
    assert [step.dataset.name for step in steps if step.kind.name == "train"] == [
        "synthetic_tiny",
        "synthetic",
    ]
    places = [step.place for step in steps]
    for position, step in enumerate(steps):
        assert {before.place for before in step.inputs.values()} <= {*places[:position]}


def test_a_budgets_sampler_settings_reach_repeat_factor_samplers_only() -> None:
    thresholds = {row: find_run(f"smoke:{row}").stages[0].sampler for row in ("sigmoid", "softmax")}
    assert {row: sampler and sampler.threshold for row, sampler in thresholds.items()} == {
        "sigmoid": 0.1,
        "softmax": 0.001,
    }


@pytest.mark.parametrize("given", [{"threshold": 0.001, "mean": "harmonic"}, {"mean": "harmonic"}])
def test_a_budgets_sampler_settings_reach_the_options_of_a_methods_own_sampler(
    tmp_path: Path, given: dict[str, object]
) -> None:
    write_method(tmp_path, "mine", sampler={"kind": "a.b:c", "options": given})
    sampler = run_of(tmp_path, budget="smoke").stages[0].sampler
    assert sampler is not None
    assert sampler.options == given | ({"threshold": 0.1} if "threshold" in given else {})


def test_a_budget_replaces_options_that_a_fit_stage_states(tmp_path: Path) -> None:
    fit = {"name": "search", "kind": "fit", "function": "a:b", "options": {"images": 2000, "values": [1, 2]}}
    write_method(tmp_path, "mine", stages=[STAGE, fit])
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"name": "b", "fit": {"images": 7, "passes": 0.5}}))
    assert run_of(tmp_path, budget="b.yaml").stages[1].options == {"images": 7, "values": [1, 2]}
    assert run_of(tmp_path).stages[1].options == fit["options"]


def test_without_a_budget_the_papers_schedule_holds() -> None:
    schedule = find_run("bags:14").stages[0].schedule
    assert schedule is not None
    assert (schedule.epochs, schedule.steps, find_run("bags:14").budget) == (12, [8, 11], "paper")


def test_the_base_is_the_same_run_as_a_row_of_its_own() -> None:
    base, own = find_run("smoke:bags").base, find_run("smoke:softmax")
    assert base is not None
    assert run_name(base) == run_name(own)
    assert [step.place for step in own_steps(base)] == [step.place for step in own_steps(own)]
    assert find_run("smoke:bags:0:base") == base


def test_a_base_may_be_a_variant(tmp_path: Path) -> None:
    write_method(
        tmp_path, "mine", stages=[{"name": "base", "from": "softmax+rfs"}, {**STAGE, "name": "more"}]
    )
    run = run_of(tmp_path)
    assert run.base is not None
    assert (run.base.variant, [stage.name for stage in run.stages]) == ("rfs", ["more"])


def test_methods_that_start_from_one_another_in_a_circle_are_refused(tmp_path: Path) -> None:
    for name, base in (("mine", "yours"), ("yours", "mine")):
        write_method(tmp_path, name, stages=[{"name": "base", "from": base}, STAGE])
    with pytest.raises(RecipeError, match="mine -> yours -> mine"):
        run_of(tmp_path)


def test_a_missing_base_names_the_stage_that_asks_for_it(tmp_path: Path) -> None:
    write_method(tmp_path, "mine", stages=[{"name": "base", "from": "sofmax"}, STAGE])
    with pytest.raises(RecipeError, match="did you mean 'softmax'") as error:
        run_of(tmp_path)
    assert "mine/method.yaml, stage base, from" in str(error.value)


def test_a_recorded_recipe_is_the_run_itself(tmp_path: Path) -> None:
    run = find_run("smoke:bags")
    write_json(tmp_path / "recipe.json", run.model_dump(mode="json", by_alias=True))
    again = find_run(str(tmp_path / "recipe.json"))
    assert again == run
    assert [step.place for step in steps_of(again)] == [step.place for step in steps_of(run)]


def test_the_explanation_gives_every_value_its_source() -> None:
    lines = {
        line.split("#")[0].strip(): line.split("#")[-1].strip() for line in explain("smoke:bags").splitlines()
    }
    assert lines["learning_rate: 0.001"] == "budget smoke (workflows/budgets/smoke.yaml)"
    assert lines["init: none"] == "preset torchvision/tiny_mask_rcnn (workflows/detectors/torchvision.yaml)"
    assert lines["edges: [10, 100, 1000]"] == "methods/bags/method.yaml"
    assert lines["momentum: 0.9"] == "default"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"method": "sofmax"}, "did you mean 'softmax'"),
        ({"method": "softmax+rsf"}, "did you mean 'rfs'"),
        ({"detector": "torchvision/tiny_mask_rcn"}, "did you mean 'torchvision/tiny_mask_rcnn'"),
        ({"dataset": "syntetic"}, "did you mean 'synthetic'"),
    ],
)
def test_unknown_names_in_a_row_are_placed_and_answered(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        find_run(write_experiment(tmp_path, {**ROW, **row}) + ":a")
    assert "e.yaml, row a" in str(error.value)


def test_a_budgets_threshold_reaches_ceilings_too(tmp_path: Path) -> None:
    write_method(tmp_path, "mine", sampler={"kind": "repeat_factor_ceiling", "threshold": 0.001})
    sampler = run_of(tmp_path, budget="tiny").stages[0].sampler
    assert sampler is not None
    assert (sampler.kind, sampler.threshold) == ("repeat_factor_ceiling", 0.1)


def test_a_budgets_sampler_replaces_that_of_train_stages_but_not_a_methods_own(tmp_path: Path) -> None:
    kinds = ["uniform", "repeat_factor", "a.b:c"]
    stages = [{**STAGE, "name": f"train{i}", "sampler": {"kind": kind}} for i, kind in enumerate(kinds)]
    fit = {"name": "fit", "kind": "fit", "function": "a:b"}
    write_method(tmp_path, "mine", stages=[*stages, fit])
    sampler = {"kind": "repeat_factor_ceiling", "threshold": 0.01}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"name": "b", "sampler": sampler}))
    found = [stage.sampler for stage in run_of(tmp_path, budget="b.yaml").stages]
    assert [item and (item.kind, item.threshold) for item in found] == [
        ("repeat_factor_ceiling", 0.01),
        ("repeat_factor_ceiling", 0.01),
        ("a.b:c", 0.001),
        ("uniform", 0.001),
    ]


def test_a_budget_may_begin_with_a_named_schedule(tmp_path: Path) -> None:
    write_method(tmp_path, "mine")
    (tmp_path / "b.yaml").write_text(
        yaml.safe_dump({"name": "b", "all": {"like": "mmdet_2x", "momentum": 0.8}})
    )
    schedule = run_of(tmp_path, budget="b.yaml").stages[0].schedule
    assert schedule is not None
    assert (schedule.epochs, schedule.steps, schedule.learning_rate, schedule.momentum) == (
        24,
        [16, 22],
        0.02,
        0.8,
    )
