"""The key of a step changes exactly if its result may change."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes.recipe_files import SCHEDULE, write_method

from benchmark import numerics
from benchmark.numerics import area_versions, code_digest
from benchmark.recipes import find_run
from benchmark.recipes.detector_settings import FRAMEWORKS
from benchmark.recipes.models import Run
from benchmark.recipes.paths import store_folder
from benchmark.steps import ABSENT, own_steps, steps_of
from benchmark.steps.step import source_hashes_folder

EVERYTHING = {"synthesize", "statistics", "base first", "first", "second", "predict", "evaluate"}
ALL_STAGES = {"base first", "first", "second", "predict", "evaluate"}
OWN_STAGES = {"first", "second", "predict", "evaluate"}
TESTING = {"predict", "evaluate"}


def stages(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "schedule": {**SCHEDULE, "iterations": 10, **changes}}
        for name, changes in (("first", first), ("second", second))
    ]


def run_of(
    folder: Path,
    *,
    first: dict[str, Any] | None = None,
    second: dict[str, Any] | None = None,
    preset: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    code: str = "x = 1\n",
    base_code: str = "y = 1\n",
    names: str = "one",
    seed: int = 0,
    **method: Any,
) -> Run:
    """A run of two stages on a base, with its own files for everything that it names."""
    (folder / "workflows").mkdir(parents=True)
    (folder / "Snakefile").touch()
    root = Path(__file__).resolve().parents[2]
    for name in ("datasets", "detectors", "experiments", "budgets"):
        (folder / "workflows" / name).mkdir()
    shutil.copy(root / "workflows/budgets/tiny.yaml", folder / "workflows/budgets")
    presets = yaml.safe_load((root / "workflows/detectors/torchvision.yaml").read_text())
    content = {f"preset_{names}": presets["tiny_mask_rcnn"] | (preset or {})}
    (folder / "workflows/detectors/torchvision.yaml").write_text(yaml.safe_dump(content))
    data = {"name": f"data_{names}", "title": "Data", "categories": 6} | (dataset or {})
    data["synthetic"] = {"train_images": 24, "val_images": 12, "categories": 6} | (sizes or {})
    (folder / f"workflows/datasets/data_{names}.yaml").write_text(yaml.safe_dump(data))
    (folder / "methods").mkdir()
    write_method(folder / "methods", "base", stages=stages({}, {})[:1])
    mine = [{"name": "start", "from": "base"}, *stages(first or {}, second or {})]
    write_method(folder / "methods", "mine", stages=mine, **method)
    (folder / "methods/base/classifier.py").write_text(base_code)
    (folder / "methods/mine/classifier.py").write_text(code)
    (folder / "methods/mine/test_mine.py").write_text(code)
    row = {"id": "a", "method": "mine", "detector": f"torchvision/preset_{names}", "dataset": data["name"]}
    experiment = {"name": "e", "title": "E", "rows": [row | {"seeds": [seed]}]}
    (folder / "workflows/experiments/e.yaml").write_text(yaml.safe_dump(experiment))
    numerics.method_version.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return find_run("e:a")


def keys(run: Run) -> dict[str, str]:
    return {f"base {step.name}" if step.owner is run.base else step.name: step.key for step in steps_of(run)}


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({}, set()),
        ({"title": "Another name"}, set()),
        ({"names": "two"}, set()),  # of preset, dataset and files
        ({"dataset": {"title": "Another", "paper": {"title": "It"}}}, set()),
        ({"first": {"checkpoint_every": 3}}, set()),
        ({"first": {"momentum": 0.9}, "preset": {"flip_probability": 0.5, "deformable": False}}, set()),
        ({"test": {"max_detections": 5}}, TESTING),
        ({"test": {"score_threshold": 0.01}}, TESTING),
        ({"preset": {"test_short_edge": 80}}, TESTING),
        ({"preset": {"rpn_test_proposals": 7}}, TESTING),
        ({"second": {"iterations": 20}}, {"second", *TESTING}),
        ({"first": {"learning_rate": 0.3}}, OWN_STAGES),
        ({"options": {"a": 2}}, OWN_STAGES),
        ({"code": "x = 2\n"}, OWN_STAGES),
        ({"base_code": "y = 2\n"}, ALL_STAGES),
        ({"preset": {"rpn_train_proposals": 7}}, ALL_STAGES),
        ({"preset": {"fpn_channels": 32}}, ALL_STAGES),
        ({"seed": 1}, ALL_STAGES),
        ({"sizes": {"val_images": 13}}, EVERYTHING),
    ],
)
def test_a_key_changes_with_what_the_step_depends_on_alone(
    tmp_path: Path, changes: dict[str, Any], changed: set[str]
) -> None:
    before, after = keys(run_of(tmp_path / "before")), keys(run_of(tmp_path / "after", **changes))
    assert before.keys() == after.keys() == EVERYTHING
    assert {name for name in before if before[name] != after[name]} == changed


def test_tests_of_a_method_are_no_code_of_it(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a")
    before = keys(run)
    (Path(run.plugin_path) / "test_mine.py").write_text("assert True")
    numerics.method_version.cache_clear()
    assert keys(run) == before


def test_initial_weights_count_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of the detector's initialisation, independent of their location."""
    found = []
    for name, content, coco in (("a", "w", "x"), ("b", "w", "y"), ("c", "other", "x")):
        weights = {"imagenet": f"../{name}.pt", "coco": f"../{name}_coco.pt"}
        run = run_of(tmp_path / f"{name}/p", preset={"weights": weights, "init": "imagenet"})
        (tmp_path / f"{name}/{name}.pt").write_text(content)
        (tmp_path / f"{name}/{name}_coco.pt").write_text(coco)
        monkeypatch.chdir(tmp_path / f"{name}/p")
        found.append(keys(run))
    assert found[0] == found[1]
    assert {name for name in found[0] if found[0][name] != found[2][name]} == ALL_STAGES


def test_a_framework_counts_by_the_values_that_it_stands_for(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", preset={"framework": "mmdet_v1"})
    named, values = keys(run), run.detector.model_dump(include=set(FRAMEWORKS["mmdet_v1"]))
    assert keys(run_of(tmp_path / "b", preset={"framework": "detectron2"} | values)) == named
    other = keys(run_of(tmp_path / "c", preset={"framework": "detectron2"}))
    assert {name for name in named if named[name] != other[name]} == ALL_STAGES


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """A real dataset in ``data``; returns a function that gives the keys of a run on it."""
    lvis = json.loads((Path(__file__).parents[1] / "data" / "lvis_val_100.json").read_text())
    (tmp_path / "data" / "images").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"data/{split}.json").write_text(json.dumps(lvis | {"info": {"split": split}}))
    sides = {s: {"annotations": f"{s}.json", "images": "images"} for s in ("train", "val")}
    content = {"name": "mine", "title": "Mine", "categories": len(lvis["categories"]), **sides}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    row = {"id": "a", "method": "softmax", "detector": "torchvision/tiny_mask_rcnn", "dataset": "mine"}
    experiment = {"name": "e", "title": "E", "budget": "tiny", "dataset_paths": ["."], "rows": [row]}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment))
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return lambda: keys(find_run("e.yaml:a"))


def test_source_files_count_by_their_content(
    real: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = real()
    train = Path("data/train.json")
    train.write_bytes(train.read_bytes())
    os.utime(train, (1, 1))
    assert real() == before
    Path("data").rename("elsewhere")
    monkeypatch.setenv("LONGTAIL_DATA", str(Path("elsewhere").resolve()))
    assert real() == before
    val = Path("elsewhere/val.json")
    val.write_text(val.read_text().replace('"split"', '"part"'))
    after = real()
    assert {name for name in before if before[name] != after[name]} == {"check", "predict", "evaluate"}


def test_a_large_file_is_read_once(
    real: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and modification time show that it has not changed, also in another process."""
    from benchmark.steps import hashes

    before = real()
    hashes._hash.cache_clear()
    monkeypatch.setattr(hashes, "sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    assert real() == before


def test_a_source_that_is_not_here_is_the_one_that_results_were_made_from(
    real: Callable[[], dict[str, str]],
) -> None:
    """A table can be made without the data, if it is certain which data the results were made from."""
    before = real()
    run = find_run("e.yaml:a")
    sources = [source for step in steps_of(run) for source in step.sources.values()]
    for source in sources:
        seen = source_hashes_folder(source.name) / source.sha256
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    shutil.rmtree("data")
    assert real() == before
    assert store_folder().is_dir()
    (source_hashes_folder("val.json") / ("0" * 64)).touch()
    assert {source.sha256 == ABSENT for source in sources if source.name == "val.json"} == {True}
    assert real() != before


def test_the_versions_of_areas_are_in_the_key_and_not_in_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "a")
    before = {step.name: (step.identity, step.key) for step in own_steps(run)}
    changed = area_versions() | {"inference": "99"}
    monkeypatch.setattr("benchmark.steps.step.area_versions", lambda: changed)
    after = {step.name: (step.identity, step.key) for step in own_steps(run)}
    assert {name: identity for name, (identity, _) in after.items()} == {
        name: identity for name, (identity, _) in before.items()
    }
    assert {name for name in before if before[name] != after[name]} == TESTING


def test_code_has_a_version_only_as_long_as_it_is_the_one_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "area").mkdir()
    (tmp_path / "area" / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(numerics, "PACKAGE", tmp_path)
    monkeypatch.setattr(numerics, "AREAS", {"area": ("area",), "new": ("area/module.py",)})
    known = {"areas": {"area": {"version": 3, "code": code_digest(tmp_path, ("area",))}}, "methods": {}}
    monkeypatch.setattr(numerics, "stated", lambda: known)
    area_versions.cache_clear()
    assert area_versions()["area"] == "3"
    assert area_versions()["new"].startswith("0+")
    (tmp_path / "area" / "module.py").write_text("x = 2\n")
    area_versions.cache_clear()
    assert area_versions()["area"].startswith("3+")
    area_versions.cache_clear()
