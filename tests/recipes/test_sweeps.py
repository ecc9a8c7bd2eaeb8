"""A sweep expands to one row for each value; these are ordinary rows."""

from pathlib import Path
from typing import Any

import pytest
from recipes.recipe_files import write_experiment

from benchmark.recipes import LoadedExperiment, explain, explain_against, find_run, load_experiment
from benchmark.recipes.experiments import with_detector
from benchmark.recipes.loading import RecipeError
from benchmark.recipes.paths import run_name
from benchmark.steps import steps_of, steps_of_experiment

BAGS: dict[str, Any] = {"id": "bags", "method": "bags"}


def load(folder: Path, *rows: dict[str, Any]) -> LoadedExperiment:
    return load_experiment(write_experiment(folder, *rows))


def ids(experiment: LoadedExperiment) -> list[str]:
    return [row.id for row in experiment.rows]


def test_every_value_is_a_row_in_the_place_of_the_sweep(tmp_path: Path) -> None:
    sweep = {**BAGS, "options": {"edges": [5, 50]}, "sweep": {"others_ratio": [4, 0.5]}, "seeds": [0, 1]}
    found = load(tmp_path, {"id": "first"}, sweep, {"id": "last"})
    assert ids(found) == ["first", "bags,others_ratio=4", "bags,others_ratio=0.5", "last"]
    four, half = (row.runs for row in found.rows[1:3])
    assert [(run.row, run.seed) for run in four] == [("bags,others_ratio=4", 0), ("bags,others_ratio=4", 1)]
    assert four[0].options == {"edges": [5, 50], "others_ratio": 4.0, "reweighted": False}
    assert half[0].options == four[0].options | {"others_ratio": 0.5}
    assert four[0].title == "BAGS (edges [5, 50], others_ratio 4)"
    assert four[0].base == half[0].base
    assert run_name(half[0]).endswith("/bags,edges=5_50,others_ratio=0.5/seed0")


def test_several_keys_are_every_combination_in_the_order_written(tmp_path: Path) -> None:
    found = load(
        tmp_path, {**BAGS, "sweep": {"edges": [[10, 100], [10]], "reweighted": [True, False]}, "seeds": [3]}
    )
    assert ids(found) == [
        "bags,edges=10_100,reweighted=true",
        "bags,edges=10_100,reweighted=false",
        "bags,edges=10,reweighted=true",
        "bags,edges=10,reweighted=false",
    ]
    assert found.rows[2].runs[0].options == {"edges": [10], "others_ratio": 8.0, "reweighted": True}
    assert [row.point.values for row in found.rows if row.point][3] == {"edges": [10], "reweighted": False}


def test_bases_and_the_manifests_own_value_are_trained_once(tmp_path: Path) -> None:
    """The value 8 of a sweep equals the 8.0 of the manifest, so both rows share a training."""
    found = load(tmp_path, {**BAGS, "id": "plain"}, {**BAGS, "sweep": {"others_ratio": [1, 8]}})
    plain, one, eight = ([step.key for step in steps_of(row.runs[0])] for row in found.rows)
    assert eight == plain != one
    trained = [item.step.name for item in steps_of_experiment(found).values() if item.step.kind.trains]
    assert sorted(trained) == ["retrain", "retrain", "train"]
    path = found.path
    assert "nothing differs" in explain_against(f"{path}:plain", f"{path}:bags,others_ratio=8")


def test_a_recipe_names_a_row_of_a_sweep(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, {**BAGS, "sweep": {"others_ratio": [1e-05, -2.5]}})
    assert find_run(f"{path}:bags,others_ratio=1e-05").options["others_ratio"] == 1e-05
    assert find_run(f"{path}:bags,others_ratio=-2.5:7").seed == 7
    assert find_run(f"{path}:bags,others_ratio=-2.5:0:base").method == "softmax"
    shown = explain(f"{path}:bags,others_ratio=-2.5")
    (line,) = (
        line for line in shown.splitlines() if line.startswith("  others_ratio: -2.5 ") and "#" in line
    )
    assert line.endswith(f"# {path}, row bags, sweep")
    with pytest.raises(RecipeError, match="is a sweep of 2 rows") as caught:
        find_run(f"{path}:bags")
    assert "bags,others_ratio=1e-05, bags,others_ratio=-2.5" in str(caught.value)
    with pytest.raises(RecipeError, match="did you mean"):
        find_run(f"{path}:bags,others_ratio=2.5")


def test_values_of_either_sign_have_folders_of_their_own(tmp_path: Path) -> None:
    found = load(tmp_path, {**BAGS, "sweep": {"others_ratio": [-1, 1]}})
    assert len({run_name(row.runs[0]) for row in found.rows}) == 2


@pytest.mark.parametrize(
    ("row", "message", "place"),
    [
        ({"sweep": {"others_ratio": [1]}}, "at least two values", "sweep.others_ratio"),
        ({"sweep": {"others_ratio": []}}, "at least two values", "sweep.others_ratio"),
        ({"sweep": {"others_ratio": 4}}, "should be a valid list", "sweep.others_ratio"),
        ({"sweep": {"others_ratio": [1, 4, 1.0]}}, "stands twice", "sweep.others_ratio"),
        ({"sweep": {"others_ratoi": [1, 4]}}, "did you mean 'others_ratio'", "row bags, sweep"),
        ({"sweep": {"others_ratio": [1, "4"]}}, "expected: a number", "row bags, sweep.others_ratio"),
        ({"sweep": {"others_ratio": [1, float("inf")]}}, "not a finite number", "sweep.others_ratio"),
        ({"sweep": {"edges": [10, 100]}}, "expected: a list", "row bags, sweep.edges"),
        ({"sweep": {"edges": [[10, 100], [10], [10]]}}, "stands twice", "sweep.edges"),
        (
            {"sweep": {"others_ratio": [1, 4]}, "options": {"others_ratio": 4}},
            "one value in options and several in sweep",
            "row bags, sweep.others_ratio",
        ),
        ({"sweep": {"others_ratio": [1, 4]}, "reported": "bags/20"}, "no published number", "row bags"),
        (
            {
                "sweep": {"others_ratio": [1, 4]},
                "deviations": [{"what": "a", "upstream": "b", "here": "c", "source": "a guess"}],
            },
            "they need the key 'reported'",
            "rows[0]",
        ),
    ],
)
def test_what_is_no_sweep_is_refused_with_its_place(
    row: dict[str, Any], message: str, place: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path, {**BAGS, **row})
    assert place in str(caught.value)


def test_values_whose_rows_would_have_one_name_are_refused(tmp_path: Path) -> None:
    sweep = {"id": "weights", "method": "reweight", "sweep": {"weights": ["a b", "a_b"]}}
    with pytest.raises(RecipeError, match="two values of a sweep have one name"):
        load(tmp_path, sweep)


def test_a_sweep_stays_one_in_another_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path, {**BAGS, "sweep": {"others_ratio": [1, 4]}})
    found = load_experiment(str(with_detector(path, "torchvision/mask_rcnn_r50_fpn")))
    assert ids(found) == ["bags,others_ratio=1", "bags,others_ratio=4"]
    assert {row.runs[0].detector_name for row in found.rows} == {"torchvision/mask_rcnn_r50_fpn"}
